"""Layers of settings, laid over each other; docs/parameters.md describes their order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import Any

from couplet.config.base import Invalid, choices, located

Layer = tuple[str, Any]
"""The origin of settings, and the settings as they are written."""

WHEN = ("dataset", "kernel", "coupling", "coupling_kind")
"""What an override may depend on: names of a cell, and the kind of its coupling, whatever its name."""


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` laid over it; a mapping that names another ``kind`` replaces."""
    merged = dict(base)
    for key, value in changes.items():
        old = _spelt_out(merged.get(key))
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            value = merge(old, value) if value.get("kind", old.get("kind")) == old.get("kind") else value
        merged[key] = value
    return merged


def _spelt_out(settings: Any) -> Any:
    """A mapping where the name of a kind stands for it."""
    return {"kind": settings} if isinstance(settings, str) else settings


def lay_over(under: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """``layer`` over ``under``: mappings are merged, recipes stacked, and a grid is laid over each grid."""
    merged = merge(under, layer)
    for key in {"recipes", "set", "table1", "every_recipe"} & under.keys() & layer.keys():
        old, new = under[key], layer[key]
        if key == "every_recipe":
            merged[key] = [*_listed(old), *_listed(new)]
        elif key == "table1" and isinstance(old, list) and isinstance(new, Mapping):
            merged[key] = [merge(grid, new) if isinstance(grid, Mapping) else grid for grid in old]
        elif key == "set" and isinstance(old, Mapping) and isinstance(new, Mapping):
            merged[key] = lay_over(old, new)
        elif key == "recipes" and isinstance(old, Mapping) and isinstance(new, Mapping | None):
            stacked = {name: [*_listed(old.get(name)), *_listed(own)] for name, own in (new or {}).items()}
            merged[key] = {**old, **stacked}
    return merged


def _listed(draft: Any) -> list[Any]:
    """A recipe as written, a mapping or a list of them, as a list."""
    return draft if isinstance(draft, list) else [] if draft is None else [draft]


def below(layers: Sequence[Layer], *keys: str) -> list[Layer]:
    """The parts of the layers at nested keys, of those that have one."""
    for key in keys:
        parts = [(origin, _spelt_out(each)) for origin, each in layers]
        layers = [(origin, each[key]) for origin, each in parts if isinstance(each, Mapping) and key in each]
    return list(layers)


def recipe_layers(layers: Sequence[Layer], name: str) -> list[Layer]:
    """The layers of a recipe: its base, itself, `every_recipe`, then the first two of the command line."""
    recipes = {key for _, each in below(layers, "recipes") for key in each or ()}
    chain = [name]
    while bases := [base for _, base in below(_drafts(layers, "recipes", chain[0]), "base")]:
        if not isinstance(bases[-1], str) or bases[-1] not in recipes - {*chain}:
            with located("recipes", chain[0]):
                raise Invalid(("base",), bases[-1], choices(bases[-1], recipes - {*chain}))
        chain.insert(0, bases[-1])
    return [
        *(draft for each in chain for draft in _drafts(layers, "recipes", each)),
        *_drafts(layers, "every_recipe"),
        *(draft for each in chain for draft in _drafts(layers, "set", "recipes", each)),
    ]


def _drafts(layers: Sequence[Layer], *keys: str) -> list[Layer]:
    drafts = [(origin, draft) for origin, each in below(layers, *keys) for draft in _listed(each)]
    for _, draft in drafts:
        if not isinstance(draft, Mapping):
            raise Invalid((), draft, "must be a mapping of recipe settings")
    return drafts


def written(names: Mapping[str, Any], layers: Sequence[Layer]) -> tuple[list[Layer], list[Layer]]:
    """Settings of the recipe and, from overrides that hold for these :data:`WHEN`, of the coupling."""
    recipe: list[Layer] = []
    coupling: list[Layer] = []
    for origin, layer in layers:
        if "base" in layer:
            # Sources belong to the base alone.
            recipe = [(each, without(settings, "sources")) for each, settings in recipe]
        recipe.append((origin, without(layer, "overrides", "base")))
        for override in overrides(layer):
            if all(names.get(key) in _listed(wanted) for key, wanted in override["when"].items()):
                recipe.append((origin, without(override, "when", "coupling")))
                coupling.append((origin, override.get("coupling", {})))
    return recipe, coupling


def combined(layers: Sequence[Layer]) -> dict[str, Any]:
    """Settings of a recipe or a coupling, merged."""
    return reduce(merge, (settings for _, settings in layers), {})


def leaves(settings: Mapping[str, Any], *above: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Keys and value of every setting in nested mappings; an empty mapping is one."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, *above, key)
        else:
            yield (*above, key), value


def without(settings: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """A copy that lacks ``keys``."""
    return {key: value for key, value in settings.items() if key not in keys}


def overrides(layer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The overrides of a layer, or Invalid: mappings, each with conditions on a cell."""
    listed = layer.get("overrides")
    if not isinstance(listed, list | None):
        raise Invalid(("overrides",), listed, "must be a list of mappings")
    for i, override in enumerate(listed or ()):
        with located("overrides", i):
            conditions = override.get("when") if isinstance(override, Mapping) else None
            if not isinstance(conditions, Mapping) or not conditions or set(conditions) - {*WHEN}:
                raise Invalid(("when",), conditions, f"must name one or more of {', '.join(WHEN)}")
            if not isinstance(override.get("coupling", {}), Mapping):
                raise Invalid(("coupling",), override["coupling"], "must be a mapping of settings")
    return listed or []
