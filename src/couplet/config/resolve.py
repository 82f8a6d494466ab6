"""From parameter file, scale and changes to settings: the one place where layers are laid over each other.

A file names the file that it lies over (``base``); a scale is a layer with the keys of a file; ``--set`` is
the last layer. Later layers win. docs/parameters.md describes the order with an example.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from couplet.config.base import Invalid, choices, validated
from couplet.config.layers import merge, recipe_layers, settings_of
from couplet.config.params import FAMILIES, Params
from couplet.config.variants import load_plugins
from couplet.config.yaml12 import dump_yaml, load_yaml, read_yaml
from couplet.errors import UserError

LAYER_KEYS = {*Params.model_fields} - {"scale", "set"}
"""Keys of a file that a scale may have too, besides ``base``."""


def resolve(path: Path, scale: str | None = None, changes: Sequence[str] = ()) -> Params:
    """The checked settings of a parameter file.

    Args:
        path: the file.
        scale: a name from its `scales`; None keeps the file's.
        changes: ``KEY=VALUE`` with a dotted key and a YAML value; they win over everything else.

    Raises:
        UserError: a file cannot be read, or a key or value is not allowed.
    """
    load_plugins()
    content = resolved_content(path, scale, changes)
    return validated(Params, content, f"{path} or --set" if changes else str(path))


def resolved_content(path: Path, scale: str | None = None, changes: Sequence[str] = ()) -> Any:
    """The content of a parameter file with all layers applied, not yet checked; see :func:`resolve`."""
    layer = _with_base(path, scale)
    if not isinstance(layer, dict):
        return layer
    chosen, scales = layer.get("scale"), layer.pop("scales", None) or {}
    if chosen is not None:
        if chosen not in scales:
            allowed = choices(chosen, scales) if scales else "this file has no scales"
            raise UserError(f"{path}: {Invalid(('scale',), chosen, allowed)}")
        layer = lay_over(layer, {k: v for k, v in (scales[chosen] or {}).items() if k != "base"})
    return _with_changes(layer, changes)


def settings_with_origins(
    path: Path, scale: str | None = None, changes: Sequence[str] = ()
) -> list[tuple[str, Any, str]]:
    """Dotted key, value and origin (file, scale, ``--set``, ``default``) of every setting of the experiment.

    Raises:
        UserError: see :func:`resolve`.
    """
    params = resolve(path, scale, changes)
    cell = params.experiment
    layer = _with_base(path, scale, mark=_Marked)
    scales = layer.pop("scales", None) or {}
    if params.scale is not None:
        layer = lay_over(layer, {k: v for k, v in (scales[params.scale] or {}).items() if k != "base"})
    layer = _with_changes(layer, changes, mark=_Marked)
    training = params.training(cell)
    steps = recipe_layers(layer, cell.recipe)
    recipe, coupling = settings_of(steps, cell, value=lambda leaf: getattr(leaf, "value", leaf))
    named = {
        "dataset": (training.dataset, _section(layer, "datasets", cell.dataset)),
        "kernel": (training.kernel, _section(layer, "kernels", cell.kernel)),
        "coupling": (training.coupling, merge(_section(layer, "couplings", cell.coupling), coupling)),
        "recipe": (training.recipe, recipe),
        "features": (params.extractor_named(params.extractor), _section(layer, "features", params.extractor)),
        **{
            name: (getattr(params, name), layer.get(name) or {})
            for name in ("train", "select", "sample", "evaluate")
        },
    }
    rows: list[tuple[str, Any, str]] = []
    for name, (model, written) in named.items():
        rows += _rows(name, model.model_dump(mode="json"), written)
    return rows


@dataclass(frozen=True)
class _Marked:
    """A value and the file or layer that it is from."""

    value: Any
    origin: str


def _section(layer: Mapping[str, Any], section: str, name: str) -> Mapping[str, Any]:
    entry = (layer.get(section) or {}).get(name)
    return entry if isinstance(entry, Mapping) else {}


def _rows(key: str, value: Any, written: Any) -> list[tuple[str, Any, str]]:
    """A row per leaf of ``value``; ``written`` has the marked leaves of the files at the same keys."""
    if isinstance(value, Mapping) and value:
        inner = written if isinstance(written, Mapping) else {}
        return [row for name, leaf in value.items() for row in _rows(f"{key}.{name}", leaf, inner.get(name))]
    return [(key, value, written.origin if isinstance(written, _Marked) else "default")]


def knows_scale(path: Path, scale: str) -> bool:
    """Whether a parameter file, or a file that it lies over, has a scale of that name.

    Raises:
        UserError: a file cannot be read or is not YAML.
    """
    content = _with_base(path, scale)
    return isinstance(content, dict) and scale in (content.get("scales") or {})


Mark = Callable[[Any, str], Any]


def _with_base(
    path: Path, scale: str | None, above: tuple[Path, ...] = (), mark: Mark = lambda value, origin: value
) -> Any:
    """The content of a file over that of its bases, ``scale`` chosen but not applied.

    Raises:
        UserError: a file cannot be read or is not YAML, a scale is not one, or the bases lead back to a file.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        return content
    if scale is not None:
        content["scale"] = scale
    chosen, scales = content.get("scale"), content.get("scales")
    scales = {} if scales is None else scales
    if not isinstance(scales, dict):
        raise UserError(f"{path}: {Invalid(('scales',), scales, 'must be a mapping from names to layers')}")
    if not isinstance(chosen, str | None):
        raise UserError(f"{path}: {Invalid(('scale',), chosen, 'must be a name from `scales`')}")
    for name, layer in scales.items():
        if not isinstance(layer, dict | None):
            expected = "must be a mapping with keys of a parameter file"
            raise UserError(f"{path}: {Invalid(('scales', name), layer, expected)}")
        for key, value in (layer or {}).items():
            if key not in {*LAYER_KEYS, "base"}:
                expected = f"unknown key; {choices(key, LAYER_KEYS)}"
                raise UserError(f"{path}: {Invalid(('scales', name, key), value, expected)}")
    base = (scales.get(chosen) or {}).get("base", content.pop("base", None))
    content["scales"] = {
        name: _marked(layer, f"{path}, scale {name}", mark) for name, layer in scales.items()
    }
    content = {
        key: value if key in ("scale", "scales") else _marked(value, str(path), mark, (key,))
        for key, value in content.items()
    }
    if base is None:
        return lay_over({}, content)
    if not isinstance(base, str):
        raise UserError(f"{path}: {Invalid(('base',), base, 'must be the path of a parameter file')}")
    below = Path(os.path.normpath(path.parent / Path(base).expanduser()))
    if below in (*above, path):
        raise UserError(f"{path}: base = {base}: leads back to {below}; a file cannot lie over itself")
    under = _with_base(below, scale, (*above, path), mark)
    if not isinstance(under, dict):
        raise UserError(f"{below}: must be a mapping with the keys of a parameter file")
    return lay_over(under, content)


def _marked(value: Any, origin: str, mark: Mark, at: tuple[str, ...] = ()) -> Any:
    """``value`` with its leaves marked: all that is neither a mapping nor a list of mappings.

    At a key ``at`` of which a mapping or a list of layers is expected, null and an empty list are no leaves.
    """
    if isinstance(value, dict):
        return {key: _marked(each, origin, mark, (*at, key)) for key, each in value.items()}
    if isinstance(value, list) and any(isinstance(each, dict) for each in value):
        return [_marked(each, origin, mark, at) for each in value]
    named = {"recipes": 2, **dict.fromkeys(FAMILIES, 2), "set": 3}
    if value in (None, []) and (len(at) <= named.get(at[0] if at else "", 1) or at[-1] == "overrides"):
        return value
    return mark(value, origin)


def lay_over(under: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """``layer`` over ``under``: mappings are merged, recipes stacked, and a grid is laid over each grid."""
    merged = merge(under, {key: value for key, value in layer.items() if key not in ("recipes", "table1")})
    recipes, own = ({} if each is None else each for each in (under.get("recipes"), layer.get("recipes")))
    if "recipes" in {*under, *layer}:
        for each in (recipes, own):
            if not isinstance(each, Mapping):
                return {**merged, "recipes": each}
        stacked = {name: _steps(recipes.get(name)) + _steps(draft) for name, draft in own.items()}
        merged["recipes"] = {**{name: _steps(draft) for name, draft in recipes.items()}, **stacked}
    if isinstance(under.get("scales"), Mapping) and isinstance(layer.get("scales"), Mapping):
        below, above = under["scales"], layer["scales"]
        merged["scales"] = {
            name: lay_over(below.get(name) or {}, above.get(name) or {}) for name in (*below, *above)
        }
    if "every_recipe" in layer:
        merged["every_recipe"] = _steps(under.get("every_recipe")) + _steps(layer["every_recipe"])
    if "table1" in layer:
        grids, own = under.get("table1"), layer["table1"]
        if isinstance(grids, list) and isinstance(own, Mapping):
            own = [merge(grid, own) if isinstance(grid, Mapping) else grid for grid in grids]
        elif isinstance(grids, Mapping) and isinstance(own, Mapping):
            own = merge(grids, own)
        merged["table1"] = own
    return merged


def _steps(draft: Any) -> list[Any]:
    """A recipe's draft as a list, one entry per layer."""
    if draft is None:
        return []
    return list(draft) if isinstance(draft, list) else [draft]


def _with_changes(
    content: dict[str, Any], changes: Sequence[str], mark: Mark = lambda value, origin: value
) -> dict[str, Any]:
    """``content`` with the layer of the command line over it.

    Raises:
        UserError: a change is not KEY=VALUE, names no key of a parameter file, or its value is not YAML.
    """
    written = content.pop("set", None)
    layer = {} if written is None else written
    if not isinstance(layer, dict):
        return {**content, "set": layer}
    for change in changes:
        key, separator, text = change.partition("=")
        parts = _parts(key, content)
        if not separator or not all(parts):
            raise UserError(f"--set {change}: must be KEY=VALUE with a key of the parameter file")
        if parts[0] not in Params.model_fields or parts[0] == "set":
            raise UserError(f"--set {change}: {choices(parts[0], LAYER_KEYS)}")
        try:
            value = load_yaml(text)
        except yaml.YAMLError:
            raise UserError(f"--set {change}: the value is not YAML") from None
        for part in reversed(parts[1:]):
            value = {part: value}
        layer = lay_over(layer, {parts[0]: _marked(value, "--set", mark, (parts[0],))})
    recipes = {"recipes": layer.pop("recipes")} if "recipes" in layer else {}
    return lay_over(content, layer) | ({"set": recipes} if recipes else {})


def _parts(key: str, content: Mapping[str, Any]) -> list[str]:
    """The parts of a dotted key; a section's name may hold dots itself: ``couplings.generator-mu0.3.mu``."""
    section, _, rest = key.partition(".")
    names = content.get(section)
    if section in (*FAMILIES, "recipes") and isinstance(names, Mapping):
        for name in sorted(map(str, names), key=len, reverse=True):
            if rest == name or rest.startswith(f"{name}."):
                return [section, name, *filter(None, rest[len(name) + 1 :].split("."))]
    return key.split(".")


def standalone(path: Path, scale: str | None, changes: Sequence[str]) -> str:
    """The text of a parameter file that needs no other, with the experiment as its only cell and no study.

    Raises:
        UserError: see :func:`resolve`.
    """
    cell = resolve(path, scale, changes).experiment
    content = resolved_content(path, scale, changes)
    content = {key: value for key, value in content.items() if key not in ("scale", "study")}
    return dump_yaml({**content, "table1": {f"{key}s": [value] for key, value in cell}})
