"""From parameter file, its base, a scale and changes to settings: the one place that collects layers."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from couplet.config.base import Invalid, choices, refused, validated
from couplet.config.layers import Layer, below, combined, lay_over, leaves, recipe_layers, without, written
from couplet.config.params import FAMILIES, Params
from couplet.config.recipes import Recipe
from couplet.config.variants import load_plugins
from couplet.config.yaml12 import dump_yaml, load_yaml, read_yaml
from couplet.errors import UserError

LAYER_KEYS = {*Params.model_fields} - {"scale", "set"}
"""Keys of a file that a scale may have too, besides ``base``."""


def resolve(path: Path, scale: str | None = None, changes: Sequence[str] = ()) -> Params:
    """The checked settings of a parameter file, at a name from its `scales`; None keeps the file's scale.

    ``changes`` are ``KEY=VALUE`` with a dotted key and a YAML value; they win over everything else.

    Raises:
        UserError: a file cannot be read, or a key or value is not allowed.
    """
    load_plugins()
    content = _content(_layers(path, scale, changes))
    return validated(Params, content, f"{path} or --set" if changes else str(path))


def settings_with_origins(
    path: Path, scale: str | None = None, changes: Sequence[str] = ()
) -> list[tuple[str, Any, str]]:
    """Dotted key, value and origin (file, scale, --set or default) of every setting of the experiment."""
    params, layers = resolve(path, scale, changes), _layers(path, scale, changes)
    cell, training = params.experiment, params.training(params.experiment)
    recipe, coupling = written(params.conditions(cell), recipe_layers(layers, cell.recipe))
    given = below(layers, "set", "couplings", cell.coupling)
    parts: dict[str, tuple[Any, list[Layer]]] = {
        "dataset": (training.dataset, below(layers, "datasets", cell.dataset)),
        "kernel": (training.kernel, below(layers, "kernels", cell.kernel)),
        "coupling": (training.coupling, below(layers, "couplings", cell.coupling) + coupling + given),
        "recipe": (training.recipe, recipe),
        "features": (params.extractor_named(params.extractor), below(layers, "features", params.extractor)),
    }
    for name in ("train", "reference", "select", "sample", "evaluate"):
        parts[name] = (getattr(params, name), below(layers, name))
    rows: list[tuple[str, Any, str]] = []
    for name, (model, own) in parts.items():
        under_name = [(origin, {name: settings}) for origin, settings in own]
        # A key that a later layer replaced together with its mapping is not in force any more.
        in_force = [("", combined(under_name))]
        for keys, value in leaves({name: model.model_dump(mode="json")}):
            found = below(under_name, *keys) if below(in_force, *keys) else []
            rows.append((".".join(keys), value, found[-1][0] if found else "default"))
    return rows


def standalone(path: Path, scale: str | None, changes: Sequence[str]) -> str:
    """The text of a parameter file that needs no other, with the experiment as its only cell and no study."""
    cell = resolve(path, scale, changes).experiment
    content = without(_content(_layers(path, scale, changes)), "scale", "study")
    return dump_yaml({**content, "table1": {f"{key}s": [value] for key, value in cell}})


def scales(path: Path) -> list[str]:
    """The names of the scales of a parameter file, and of the files that it lies over at any of them."""

    def named(scale: str | None) -> set[str]:
        return {name for _, content in _files(path, scale) for name in content.get("scales") or {}}

    own = named(None)
    return sorted(name for name in own.union(*map(named, own)) if name in named(name))


def dataset_names(path: Path, scale: str | None = None) -> set[str]:
    """The names of the data sets that a parameter file sets up."""
    datasets = _content(_layers(path, scale, [])).get("datasets")
    return {*datasets} if isinstance(datasets, dict) else set()


def _content(layers: Sequence[Layer]) -> dict[str, Any]:
    """The content of a parameter file with all layers applied, not yet checked."""
    return reduce(lay_over, (content for _, content in layers), {})


def _layers(path: Path, scale: str | None, changes: Sequence[str]) -> list[Layer]:
    """The layers of a file, the lowest first, each with its origin."""
    files = _files(path, scale)
    layers: list[Layer] = [(str(file), without(content, "base", "scales")) for file, content in files]
    if (chosen := _content(layers).get("scale")) is not None:
        scales = [(f"{file}, scale {chosen}", content.get("scales") or {}) for file, content in files]
        if not (found := below(scales, chosen)):
            names = {name for _, each in scales for name in each}
            expected = choices(chosen, names) if names else "this file has no scales"
            raise UserError(f"{path}: {Invalid(('scale',), chosen, expected)}")
        layers += [(origin, without(layer or {}, "base")) for origin, layer in found]
    for change in changes:
        layers.append(("--set", _change(change, _content(layers))))
    return layers


def _files(path: Path, scale: str | None, above: tuple[Path, ...] = ()) -> list[tuple[Path, dict[str, Any]]]:
    """A file and those that it lies over, the lowest first; ``scale`` is chosen in each."""
    content = read_yaml(path)
    if content is None:
        raise UserError(f"{path}: the file is empty; must be a mapping with the keys of a parameter file")
    if not isinstance(content, dict):
        raise UserError(f"{path}: must be a mapping with the keys of a parameter file")
    if scale is not None:
        content["scale"] = scale
    with refused(path):
        base = _base(content)
    if base is None:
        return [(path, content)]
    under = Path(os.path.normpath(path.parent / Path(base).expanduser()))
    if under in (*above, path):
        raise UserError(f"{path}: base = {base}: leads back to {under}; a file cannot lie over itself")
    return [*_files(under, scale, (*above, path)), (path, content)]


def _base(content: Mapping[str, Any]) -> str | None:
    """The file that a file lies over, at its scale; Invalid if a scale or the base is not one."""
    chosen, scales = content.get("scale"), content.get("scales")
    if not isinstance(scales, dict | None):
        raise Invalid(("scales",), scales, "must be a mapping from names to layers")
    if not isinstance(chosen, str | None):
        raise Invalid(("scale",), chosen, "must be a name from `scales`")
    for name, layer in (scales or {}).items():
        if not isinstance(layer, dict | None):
            raise Invalid(("scales", name), layer, "must be a mapping with keys of a parameter file")
        for key, value in (layer or {}).items():
            if key not in {*LAYER_KEYS, "base"}:
                raise Invalid(("scales", name, key), value, f"unknown key; {choices(key, LAYER_KEYS)}")
    of_scale = (scales or {}).get(chosen) or {}
    base = of_scale.get("base", content.get("base"))
    if not isinstance(base, str | None):
        raise Invalid(("base",), base, "must be the path of a parameter file")
    return base


def _change(change: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """A change from the command line as a layer."""
    key, separator, text = change.partition("=")
    parts = _parts(key, content)
    if not separator or not parts or not all(parts):
        raise UserError(f"--set {change}: must be KEY=VALUE with a key of the parameter file")
    if parts[0] not in LAYER_KEYS:
        raise UserError(f"--set {change}: {choices(parts[0], LAYER_KEYS)}")
    if _is_cut(parts, content):
        whole = f'{parts[0]}."{parts[1]}.{parts[2]}"'
        raise UserError(f"--set {change}: a dot divides keys; a name with a dot stands in quotes: {whole}")
    try:
        value = load_yaml(text)
    except yaml.YAMLError:
        raise UserError(f"--set {change}: the value is not YAML") from None
    for part in reversed(parts):
        value = {part: value}
    if parts[0] == "recipes":
        return {"set": value}
    # An override of a recipe may change a coupling; the command line wins over it.
    return {**value, "set": value} if parts[0] == "couplings" else value


def _parts(key: str, content: Mapping[str, Any]) -> list[str]:
    """The parts of a dotted key; none if it is not one.

    A name may hold dots itself: ``couplings."v.1".kind``; without quotes if the file has it.
    """
    if '"' in key:
        part = r'"([^"]+)"|([^."]+)'
        whole = re.fullmatch(rf"(?:{part})(?:\.(?:{part}))*", key)
        return [quoted or plain for quoted, plain in re.findall(part, key)] if whole else []
    section, _, rest = key.partition(".")
    names = content.get(section)
    if section in (*FAMILIES, "recipes") and isinstance(names, Mapping):
        for name in sorted(map(str, names), key=len, reverse=True):
            if rest == name or rest.startswith(f"{name}."):
                return [section, name, *filter(None, rest[len(name) + 1 :].split("."))]
    return key.split(".")


def _is_cut(parts: Sequence[str], content: Mapping[str, Any]) -> bool:
    """Whether the name in a dotted key is unknown and what follows is no setting of its section."""
    section, name, setting = (*parts, None, None)[:3]
    if setting is None or section not in (*FAMILIES, "recipes") or name in (content.get(section) or ()):
        return False
    members = FAMILIES[section].family if section in FAMILIES else {"": Recipe}
    return name not in members and not any(setting in member.model_fields for member in members.values())
