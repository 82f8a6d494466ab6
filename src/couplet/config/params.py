"""params.yaml: read, checked whole, and resolved into the cells that stages work on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self, get_args

import yaml
from pydantic import Field, PlainValidator, model_validator

from couplet.config.base import Closed, Invalid, OneOf, Variant, choices, located, validated
from couplet.config.cells import Cell, Grid, Measurement, Training
from couplet.config.couplings import CouplingConfig
from couplet.config.datasets import DatasetConfig
from couplet.config.extractors import ExtractorConfig
from couplet.config.plugins import load_plugins
from couplet.config.recipes import Kernel, Recipe
from couplet.config.stages import EvaluateConfig, SampleConfig, SelectConfig, TrainConfig
from couplet.errors import UserError


def _named(family: type[Variant]) -> Any:
    """A mapping from names to members of ``family``; a name that is a kind need not repeat it."""

    def parse(value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise Invalid((), value, f"must be a mapping from names to {family.noun} settings")
        members = {}
        for name, settings in value.items():
            _path_safe(name)
            with located(name):
                members[name] = family.parse(with_kind(family, name, settings))
        return members

    member: Any = Annotated[family, OneOf()]
    return PlainValidator(parse, json_schema_input_type=dict[str, member])


def _path_safe(name: Any) -> None:
    """Raises Invalid unless ``name`` can stand in a path and on a command line."""
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+-]*", name, re.ASCII):
        raise Invalid((str(name),), name, "a name is made of letters, digits and . + - _")


def with_kind(family: type[Variant], name: str, settings: Any) -> Any:
    """``settings`` with ``kind: name`` filled in where it has none and ``name`` is a kind."""
    if settings is None:
        settings = {}
    if isinstance(settings, Mapping) and "kind" not in settings and name in family.family:
        return {"kind": name, **settings}
    return settings


class Params(Closed):
    """params.yaml. The top-level names are the experiment of `dvc repro`; `table1` is the grid."""

    dataset: str
    recipe: str
    kernel: Kernel = "ve"
    coupling: str
    seed: int = Field(0, ge=0)
    threads: int = Field(1, ge=1)
    """CPU threads of one job. More than the cores that are free makes every job many times slower."""
    table1: Grid
    datasets: Annotated[dict[str, Any], _named(DatasetConfig)]
    features: Annotated[dict[str, Any], _named(ExtractorConfig)]
    """The feature extractor of each data set."""
    recipes: dict[str, dict[str, Any]]
    """Recipes by name; `overrides` lists {when: {dataset|kernel|coupling: name}, …settings}."""
    couplings: Annotated[dict[str, Any], _named(CouplingConfig)]
    train: TrainConfig = TrainConfig()
    select: SelectConfig = SelectConfig()
    sample: SampleConfig = SampleConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @property
    def experiment(self) -> Cell:
        """The one cell that the top level names."""
        return Cell.model_validate({name: getattr(self, name) for name in Cell.model_fields})

    @model_validator(mode="after")
    def _every_cell_resolves(self) -> Self:
        self.training(self.experiment)
        with located("table1"):
            for key in ("dataset", "recipe", "coupling"):
                for i, name in enumerate(getattr(self.table1, f"{key}s")):
                    with located(f"{key}s", i):
                        self._lookup(key, name)
        for name, draft in self.recipes.items():
            with located("recipes"):
                _path_safe(name)
            with located("recipes", name):
                _recipe(draft, {})
                for i, override in enumerate(_overrides(draft)):
                    with located("overrides", i, "when"):
                        self._known_names(override["when"])
        for cell in (self.experiment, *self.table1.cells()):
            self.measurement(cell)
        return self

    def _known_names(self, conditions: Mapping[str, Any]) -> None:
        known = {"dataset": self.datasets, "kernel": get_args(Kernel), "coupling": self.couplings}
        for key, name in conditions.items():
            if not isinstance(name, str) or name not in known[key]:
                raise Invalid((key,), name, choices(name, known[key]))

    def _lookup(self, key: str, name: str) -> Any:
        """The settings that ``datasets``, ``recipes`` or ``couplings`` hold under ``name``."""
        known = getattr(self, f"{key}s")
        if name not in known:
            raise Invalid((), name, choices(name, known))
        return known[name]

    def dataset_named(self, name: str) -> str:
        """``name``, if it is a data set with a feature extractor.

        Raises:
            Invalid: it is not.
        """
        with located("dataset"):
            self._lookup("dataset", name)
        if name not in self.features:
            raise Invalid(("features", name), None, "this data set needs a feature extractor")
        return name

    def training(self, cell: Cell) -> Training:
        """All settings that ``cell`` trains with, overrides applied.

        Raises:
            Invalid: a name of the cell is not defined here, or an override does not fit.
        """
        settings = {}
        for key in ("dataset", "recipe", "coupling"):
            with located(key):
                settings[key] = self._lookup(key, getattr(cell, key))
        when = {"dataset": cell.dataset, "kernel": cell.kernel, "coupling": cell.coupling}
        with located("recipes", cell.recipe):
            recipe, changes = _recipe(settings["recipe"], when)
            coupling = settings["coupling"]
            with located("overrides", "coupling"):
                if changes:
                    coupling = coupling.parse(merge(coupling.model_dump(mode="json"), changes))
            if coupling.wants_frozen and recipe.frozen_from is None:
                needed = f"coupling {cell.coupling} needs the path of a checkpoint to predict with"
                raise Invalid(("frozen_from",), None, needed)
        return Training(
            cell=cell,
            dataset=settings["dataset"],
            recipe=recipe,
            coupling=coupling,
            train=self.train,
        )

    def measurement(self, cell: Cell) -> Measurement:
        """All settings that ``cell`` is measured with.

        Raises:
            Invalid: a name of the cell is not defined here, or an NFE has no noise level.
        """
        recipe = self.training(cell).recipe
        self.dataset_named(cell.dataset)
        levels = 1 + len(recipe.mid_sigmas)
        for section, wanted in (("select", (self.select.nfe,)), ("sample", self.sample.nfe)):
            for nfe in wanted:
                if not 1 <= nfe <= levels:
                    raise Invalid(
                        (section, "nfe"),
                        nfe,
                        f"must lie between 1 and {levels}: recipe {cell.recipe} samples with "
                        f"sigma_max and {levels - 1} mid_sigmas",
                    )
        return Measurement(
            mid_sigmas=recipe.mid_sigmas,
            boundary=recipe.boundary.sampling,
            dataset=self.datasets[cell.dataset],
            features=self.features[cell.dataset],
            select=self.select,
            sample=self.sample,
            evaluate=self.evaluate,
        )


_WHEN = ("dataset", "kernel", "coupling")


def _recipe(draft: Mapping[str, Any], when: Mapping[str, str]) -> tuple[Recipe, dict[str, Any]]:
    """The recipe that a draft becomes under ``when``, and its settings for the coupling."""
    settings = {key: value for key, value in draft.items() if key != "overrides"}
    coupling: dict[str, Any] = {}
    for override in _overrides(draft):
        conditions = override["when"]
        if all(when.get(key) == name for key, name in conditions.items()):
            changes = {key: value for key, value in override.items() if key != "when"}
            coupling = merge(coupling, changes.pop("coupling", {}))
            settings = merge(settings, changes)
    return Recipe.model_validate(settings), coupling


def _overrides(draft: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The overrides of a draft, each with conditions that say when it holds."""
    overrides = draft.get("overrides") or []
    if not isinstance(overrides, list):
        raise Invalid(("overrides",), overrides, "must be a list of mappings")
    for i, override in enumerate(overrides):
        with located("overrides", i):
            conditions = override.get("when") if isinstance(override, Mapping) else None
            if not isinstance(conditions, Mapping) or not conditions or set(conditions) - {*_WHEN}:
                raise Invalid(("when",), conditions, f"must name one or more of {', '.join(_WHEN)}")
            if not isinstance(override.get("coupling", {}), Mapping):
                raise Invalid(("coupling",), override["coupling"], "must be a mapping of settings")
    return overrides


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` laid over it; a mapping that names another ``kind`` replaces."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        if (
            isinstance(old, Mapping)
            and isinstance(value, Mapping)
            and value.get("kind", old.get("kind")) == old.get("kind")
        ):
            value = merge(old, value)
        merged[key] = value
    return merged


class _OnceLoader(yaml.SafeLoader):
    """YAML in which a key that stands twice in a mapping is an error, not a silent choice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        for key, _ in node.value:
            if names.count(key.value) > 1:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key.value!r} stands twice", problem_mark=key.start_mark
                )
        return super().construct_mapping(node, deep)


def load_yaml(text: str) -> Any:
    """The content of a YAML text.

    Raises:
        yaml.YAMLError: it is not YAML, or a key stands twice.
    """
    return yaml.load(text, _OnceLoader)


def read_params(path: Path) -> Params:
    """The checked content of a params file.

    Raises:
        UserError: the file cannot be read, is not YAML, or holds a bad key or value.
    """
    load_plugins()
    try:
        content = load_yaml(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give a file with --params") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    return validated(Params, content, str(path))
