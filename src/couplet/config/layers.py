"""A recipe as it results from its layers, base and overrides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from couplet.config.base import Invalid, choices, located
from couplet.config.cells import Cell

WHEN = ("dataset", "kernel", "coupling")
"""Names of a cell on which an override may depend."""

NOT_INHERITED = ("published_as", "sources")
"""Settings that a recipe does not take over from its base."""


def recipe_layers(content: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """The layers of a recipe, each to be laid over those before it.

    The order: the recipe's base, the recipe itself, `every_recipe`, then the same two of the command line.

    Raises:
        Invalid: a recipe's base is no recipe, or leads back to it.
    """
    recipes: Mapping[str, Any] = content.get("recipes") or {}
    chain = [name]
    while (base := _base(recipes.get(chain[-1]))) is not None:
        if not isinstance(base, str) or base not in recipes or base in chain:
            with located("recipes", chain[-1]):
                raise Invalid(("base",), base, choices(str(base), recipes.keys() - set(chain)))
        chain.append(base)
    changes: Mapping[str, Any] = (content.get("set") or {}).get("recipes") or {}
    ordered = list(reversed(chain))
    layers = [layer for each in ordered for layer in as_layers(recipes.get(each))]
    layers += as_layers(content.get("every_recipe"))
    return layers + [layer for each in ordered for layer in as_layers(changes.get(each))]


def as_layers(draft: Any) -> list[Mapping[str, Any]]:
    """A recipe as written, a mapping or a list of them, as a list."""
    if draft is None:
        return []
    layers = draft if isinstance(draft, list) else [draft]
    for layer in layers:
        if not isinstance(layer, Mapping):
            raise Invalid((), getattr(layer, "value", layer), "must be a mapping of recipe settings")
    return layers


def _base(draft: Any) -> Any:
    """The recipe that a draft lies over: the last that its layers name."""
    bases = [layer["base"] for layer in as_layers(draft) if "base" in layer]
    return getattr(bases[-1], "value", bases[-1]) if bases else None


def settings_of(
    layers: Sequence[Mapping[str, Any]], cell: Cell | None, value: Callable[[Any], Any] = lambda leaf: leaf
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the recipe and, from overrides, of the coupling of ``cell``; without it no override holds.

    Args:
        layers: see :func:`recipe_layers`.
        cell: the names that `when` asks for.
        value: the value of a leaf, where leaves are marked with their origin.

    Raises:
        Invalid: an override is malformed.
    """
    settings: dict[str, Any] = {}
    coupling: dict[str, Any] = {}
    for layer in layers:
        if "base" in layer:
            settings = {key: each for key, each in settings.items() if key not in NOT_INHERITED}
        settings = merge(settings, {key: layer[key] for key in layer.keys() - {"overrides", "base"}})
        for override in overrides(layer):
            if cell is not None and all(
                _holds(getattr(cell, key), value(names)) for key, names in override["when"].items()
            ):
                changes = {key: each for key, each in override.items() if key != "when"}
                coupling = merge(coupling, changes.pop("coupling", {}))
                settings = merge(settings, changes)
    return settings, coupling


def _holds(name: str, names: Any) -> bool:
    return name in names if isinstance(names, list) else name == names


def overrides(layer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The overrides of a layer, each with conditions that say when it holds.

    Raises:
        Invalid: they are no list of mappings, or a condition names something else than a cell's names.
    """
    listed = layer.get("overrides")
    if listed is None:
        return []
    if not isinstance(listed, list):
        raise Invalid(("overrides",), listed, "must be a list of mappings")
    for i, override in enumerate(listed):
        with located("overrides", i):
            conditions = override.get("when") if isinstance(override, Mapping) else None
            if not isinstance(conditions, Mapping) or not conditions or set(conditions) - {*WHEN}:
                raise Invalid(("when",), conditions, f"must name one or more of {', '.join(WHEN)}")
            if not isinstance(override.get("coupling", {}), Mapping):
                raise Invalid(("coupling",), override["coupling"], "must be a mapping of settings")
    return listed


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` laid over it; a mapping that names another ``kind`` replaces."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(old, str) and isinstance(value, Mapping):
            old = {"kind": old}
        if isinstance(old, Mapping) and isinstance(value, Mapping) and _same_kind(old, value):
            value = merge(old, value)
        merged[key] = value
    return merged


def _same_kind(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    kinds = [getattr(each.get("kind"), "value", each.get("kind")) for each in (old, new)]
    return kinds[1] is None or kinds[0] == kinds[1]
