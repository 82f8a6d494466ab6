"""Parameters changed from the command line, for `couplet run`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from couplet.config.base import validated
from couplet.config.params import Params, read_params, read_yaml
from couplet.errors import UserError
from couplet.files import replacing


def changed_params(
    path: Path,
    scale: str | None,
    names: Mapping[str, Any],
    recipe: Mapping[str, int | None],
    changes: Sequence[str],
    out: Path,
) -> Params:
    """The parameters of ``path`` with a run's own names and changes, kept as ``out/params.yaml``.

    Args:
        path: the parameter file to start from.
        scale: a name from its `scales`; None keeps the file's.
        names: dataset, recipe, kernel, coupling, extractor, seed; None keeps the file's.
        recipe: settings that win over the recipe's and its overrides; None keeps them.
        changes: ``KEY=VALUE`` with a dotted key and a YAML value.
        out: the run's folder.

    Raises:
        UserError: a change does not fit, or ``out`` holds a run with other parameters.
    """
    params = read_params(path, scale)
    content = read_yaml(path)
    own = {**params.experiment.model_dump(), "extractor": params.extractor, "scale": params.scale}
    content.update({**own, **{key: value for key, value in names.items() if value is not None}})
    for change in changes:
        _apply(content, change)
    cell = {key: content[key] for key in ("dataset", "recipe", "kernel", "coupling")}
    wanted = {key: value for key, value in recipe.items() if value is not None}
    if wanted and cell["recipe"] in content["recipes"]:
        # A scale is laid over the recipe, so that what wins over it must stand there.
        draft, place = content["recipes"], cell["recipe"]
        if chosen := content["scale"]:
            draft, place = content["scales"][chosen] or {}, "recipe"
            content["scales"][chosen] = draft
        when = {"dataset": cell["dataset"]}
        settings = {**(draft.get(place) or {})}
        settings["overrides"] = [*(settings.get("overrides") or ()), {"when": when, **wanted}]
        draft[place] = settings
    content["table1"] = {f"{key}s": [value] for key, value in cell.items()}
    content["table1"]["seeds"] = [content["seed"]]
    checked = validated(Params, content, "command line")
    text = yaml.safe_dump(content, sort_keys=False)
    kept = out / "params.yaml"
    if kept.exists() and kept.read_text() != text:
        raise UserError(f"{kept}: this folder holds a run with other parameters; choose another")
    with replacing(kept) as temporary:
        temporary.write_text(text)
    return checked


def _apply(content: dict[str, Any], change: str) -> None:
    """Sets one dotted key, which must exist above its last part."""
    key, separator, value = change.partition("=")
    *parents, last = key.split(".")
    place: Any = content
    for parent in parents:
        place = place.get(parent) if isinstance(place, dict) else None
    if not separator or not isinstance(place, dict):
        raise UserError(f"--set {change}: expected KEY=VALUE with a key of the parameter file")
    try:
        place[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"--set {change}: the value is not YAML") from None
