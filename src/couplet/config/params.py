"""params.yaml: read, checked whole, and resolved into the cells that stages work on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import Field, PlainValidator, PrivateAttr, model_validator

from couplet.config.base import Closed, Invalid, Variant, choices, located, named, path_safe, validated
from couplet.config.cells import Cell, Grid, Measurement, Training
from couplet.config.couplings import CouplingConfig
from couplet.config.datasets import DatasetConfig
from couplet.config.extractors import ExtractorConfig
from couplet.config.plugins import load_plugins
from couplet.config.recipes import KernelConfig, Recipe
from couplet.config.stages import PROBES, EvaluateConfig, ProbeConfig, SampleConfig, SelectConfig, TrainConfig
from couplet.config.study import Study
from couplet.errors import UserError

FAMILIES: dict[str, type[Variant]] = {
    "datasets": DatasetConfig,
    "features": ExtractorConfig,
    "kernels": KernelConfig,
    "couplings": CouplingConfig,
}
"""Sections of a parameter file that name members of a family."""


class Scale(Closed):
    """Changes that bring the rows of a file to another size; what it does not name stays as written."""

    base: str | None = None
    """The file to lie over in place of the one that `base` at the top level names."""
    recipe: dict[str, Any] = {}
    """Laid over every recipe after its own overrides; may hold `overrides` of its own."""
    recipes: dict[str, dict[str, Any]] = {}
    """Laid over recipes by name."""
    couplings: dict[str, dict[str, Any]] = {}
    """Laid over couplings by name."""
    table1: dict[str, Any] = {}
    """Laid over every grid."""
    train: dict[str, Any] = {}
    select: dict[str, Any] = {}
    sample: dict[str, Any] = {}
    evaluate: dict[str, Any] = {}
    probe: dict[str, Any] = {}


def _grids(value: Any) -> tuple[Grid, ...]:
    """A grid, or a list of them, as written."""
    if not isinstance(value, list):
        return (Grid.model_validate(value),)
    if not value:
        raise Invalid((), value, "must hold one grid at least")
    grids = []
    for i, grid in enumerate(value):
        with located(i):
            grids.append(Grid.model_validate(grid))
    return tuple(grids)


class Params(Closed):
    """params.yaml. The top-level names are the experiment of `dvc repro`; `table1` is the grid."""

    dataset: str
    recipe: str
    kernel: str = "ve"
    coupling: str
    extractor: str
    """Whose features the experiment is measured in: a name from `features`."""
    seed: int = Field(0, ge=0)
    scale: str | None = None
    """A name from `scales`; null leaves the file as it is written."""
    threads: int = Field(1, ge=1)
    """CPU threads of one job. More than the cores that are free makes every job many times slower."""
    gpus: int = Field(1, ge=1)
    """GPUs of one job that trains or measures, with a process for each; on the CPU, processes. Decides no
    number but by the rounding of a sum, and with dropout by the masks."""
    raw: str = "raw"
    """Folder of data sets as their authors publish them, one folder per kind; `prepare` downloads to it."""
    table1: Annotated[tuple[Grid, ...], PlainValidator(_grids, json_schema_input_type=Grid | list[Grid])]
    """A grid, or a list of grids: the table has the cells of all of them."""
    datasets: Annotated[dict[str, Any], named(DatasetConfig)]
    features: Annotated[dict[str, Any], named(ExtractorConfig)]
    """Feature extractors by name."""
    recipes: dict[str, dict[str, Any]]
    """Recipes by name; `overrides` lists {when: {dataset|kernel|coupling|scale: name(s)}, …settings}. `like`
    names another recipe: what is written lies over that one, after its overrides."""
    kernels: Annotated[dict[str, Any], named(KernelConfig)] = {}
    """Kernels by name. Like every kind of data set, extractor and coupling, `ve` and `li` need no entry."""
    couplings: Annotated[dict[str, Any], named(CouplingConfig)]
    scales: dict[str, Scale | None] = {}
    """Sizes by name, for `--scale`; null changes nothing."""
    train: TrainConfig = TrainConfig()
    select: SelectConfig = SelectConfig()
    sample: SampleConfig = SampleConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    probe: ProbeConfig = ProbeConfig()
    study: Study | None = None
    """What the file's cells show: a figure or table of a paper, for `results/paper.html`."""

    _trainings: dict[Cell, Training] = PrivateAttr(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _at_scale(cls, values: Any) -> Any:
        """Lays the chosen scale over the grid and the stages; recipes get theirs when resolved."""
        name = values.get("scale") if isinstance(values, Mapping) else None
        if name is None:
            return values
        scales = values.get("scales") or {}
        if not isinstance(scales, Mapping) or name not in scales:
            raise Invalid(("scale",), name, choices(name, scales) if scales else "this file has no scales")
        with located("scales", name):
            scale = Scale.model_validate(scales[name] or {})
        scaled = dict(values)
        for section in ("train", "select", "sample", "evaluate", "probe"):
            if changes := getattr(scale, section):
                scaled[section] = merge(scaled.get(section) or {}, changes)
        grids = scaled.get("table1")
        if scale.table1 and grids:
            each = [merge(grid, scale.table1) for grid in (grids if isinstance(grids, list) else [grids])]
            scaled["table1"] = each if isinstance(grids, list) else each[0]
        return scaled

    @property
    def experiment(self) -> Cell:
        """The one cell that the top level names."""
        return Cell.model_validate({name: getattr(self, name) for name in Cell.model_fields})

    def cells(self, part: str = "") -> list[Cell]:
        """The cells of the table, each once.

        ``part`` keeps the row of that name, ``cifar10-ict-ve-vae``, or else all whose names begin so:
        ``cifar10``, ``cifar10-ict``.

        Raises:
            Invalid: no cell's name begins with ``part``.
        """
        cells = dict.fromkeys(cell for grid in self.table1 for cell in grid.cells())
        begin = [cell for cell in cells if f"{cell.name}-".startswith(f"{part}-" if part else "")]
        kept = [cell for cell in begin if cell.name == part] or begin
        if not kept:
            raise Invalid(("part",), part, choices(part, {cell.name for cell in cells}))
        return kept

    def measured(self, part: str = "") -> list[tuple[Cell, str]]:
        """:meth:`cells`, each with every extractor that it is measured with."""
        kept = set(self.cells(part))
        pairs = (
            (cell, extractor)
            for grid in self.table1
            for cell in grid.cells()
            for extractor in grid.extractors or (self.extractor,)
        )
        return list(dict.fromkeys((cell, extractor) for cell, extractor in pairs if cell in kept))

    @model_validator(mode="after")
    def _every_cell_resolves(self) -> Self:
        self.training(self.experiment)
        self.extractor_named(self.extractor)
        for number, grid in enumerate(self.table1):
            with located("table1", *([number] if len(self.table1) > 1 else [])):
                for key in ("datasets", "recipes", "kernels", "couplings", "extractors"):
                    for i, name in enumerate(getattr(grid, key) or ()):
                        with located(key, i):
                            self._lookup("features" if key == "extractors" else key, name)
        for name, draft in self.recipes.items():
            with located("recipes"):
                path_safe(name)
            with located("recipes", name):
                _recipe(self._layers(name), {}, self._overlay)
                for i, override in enumerate(_overrides(draft)):
                    with located("overrides", i, "when"):
                        self._known_names(override["when"])
        for cell, extractor in ((self.experiment, self.extractor), *self.measured()):
            self.measurement(cell, extractor)
        for i, comparison in enumerate(self.study.compare if self.study else ()):
            names = {str(getattr(cell, comparison.of)) for cell in self.cells()}
            for key in ("lower", "than"):
                if (name := getattr(comparison, key)) not in names:
                    raise Invalid(("study", "compare", i, key), name, choices(name, names))
        return self

    @property
    def _overlay(self) -> Mapping[str, Any]:
        """What the chosen scale changes in every recipe."""
        scale = self.scales.get(self.scale or "")
        return scale.recipe if scale else {}

    def _known_names(self, conditions: Mapping[str, Any]) -> None:
        known = {
            "dataset": self.datasets,
            "kernel": {*self.kernels, *KernelConfig.family},
            "coupling": self.couplings,
            "scale": self.scales,
        }
        for key, wanted in conditions.items():
            for name in wanted if isinstance(wanted, list) else [wanted]:
                if not isinstance(name, str) or name not in known[key]:
                    raise Invalid((key,), name, choices(name, known[key]))

    def _lookup(self, section: str, name: str) -> Any:
        """The settings under ``name``; where a section has no such entry, those of the kind of that name."""
        known, family = getattr(self, section), FAMILIES.get(section)
        if name in known:
            return known[name]
        if family is not None and name in family.family:
            return family.parse(name)
        raise Invalid((), name, choices(name, {*known, *(family.family if family else ())}))

    def dataset_named(self, name: str) -> Any:
        """The data set of that name.

        Raises:
            Invalid: there is none.
        """
        with located("dataset"):
            return self._lookup("datasets", name)

    def extractor_named(self, name: str) -> Any:
        """The extractor of that name.

        Raises:
            Invalid: there is none.
        """
        with located("extractor"):
            return self._lookup("features", name)

    def _layers(self, name: str) -> list[Mapping[str, Any]]:
        """The drafts that a recipe is made of, from the one that is like no other to its own."""
        chain = [name]
        while (like := self.recipes[chain[-1]].get("like")) is not None:
            if not isinstance(like, str) or like not in self.recipes or like in chain:
                raise Invalid(("like",), like, choices(str(like), self.recipes.keys() - set(chain)))
            chain.append(like)
        return [self.recipes[each] for each in reversed(chain)]

    def pretrained(self, cell: Cell) -> tuple[Cell, float] | None:
        """The cell whose training lends ``cell`` its frozen predictor, and after which fraction of its steps.

        Raises:
            Invalid: a name is not defined here, or that training wants a frozen predictor as well.
        """
        with located("coupling"):
            coupling = self._lookup("couplings", cell.coupling)
        if coupling.lender is None:
            return None
        lender = coupling.lender
        names = {"coupling": lender.coupling, "recipe": lender.recipe or cell.recipe}
        with located("couplings", cell.coupling, "pretrained"):
            for key, name in names.items():
                with located(key):
                    self._lookup(f"{key}s", name)
            if self.couplings[lender.coupling].wants_frozen:
                raise Invalid(("coupling",), lender.coupling, "must be one that needs no frozen predictor")
        return cell.model_copy(update=names), lender.progress

    def training(self, cell: Cell) -> Training:
        """All settings that ``cell`` trains with, overrides and scale applied.

        Raises:
            Invalid: a name of the cell is not defined here, or an override does not fit.
        """
        # Seeds share everything else, and a table of a hundred rows asks for each of them many times.
        first = cell.model_copy(update={"seed": 0})
        if first not in self._trainings:
            self._trainings[first] = self._training(first)
        return self._trainings[first].model_copy(update={"cell": cell})

    def _training(self, cell: Cell) -> Training:
        settings = {}
        for key in ("dataset", "recipe", "kernel", "coupling"):
            with located(key):
                settings[key] = self._lookup(f"{key}s", getattr(cell, key))
        when = {"dataset": cell.dataset, "kernel": cell.kernel, "coupling": cell.coupling}
        if self.scale is not None:
            when["scale"] = self.scale
        with located("recipes", cell.recipe):
            recipe, changes = _recipe(self._layers(cell.recipe), when, self._overlay)
            coupling = settings["coupling"]
            with located("overrides", "coupling"):
                if changes:
                    coupling = coupling.parse(merge(coupling.model_dump(mode="json"), changes))
            if coupling.wants_frozen and coupling.lender is None and recipe.frozen_from is None:
                needed = f"coupling {cell.coupling} needs the path of a checkpoint to predict with"
                raise Invalid(("frozen_from",), None, needed)
            if recipe.batch % coupling.batch_parts:
                needed = f"coupling {cell.coupling} needs a multiple of its parts, {coupling.batch_parts}"
                raise Invalid(("batch",), recipe.batch, needed)
        return Training(
            cell=cell,
            dataset=settings["dataset"],
            recipe=recipe,
            kernel=settings["kernel"],
            coupling=coupling,
            train=self.train,
        )

    def measurement(self, cell: Cell, extractor: str | None = None) -> Measurement:
        """All settings that ``cell`` is measured with, by default with the experiment's extractor.

        Raises:
            Invalid: a name of the cell is not defined here, or an NFE has no noise level.
        """
        recipe = self.training(cell).recipe
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
        if self.select.split == "test" and self.datasets[cell.dataset].has_test is False:
            raise Invalid(
                ("select", "split"),
                "test",
                f"data set {cell.dataset} has no test split; set train, as the papers do, or "
                f"datasets.{cell.dataset}.test_images",
            )
        return Measurement(
            mid_sigmas=recipe.mid_sigmas,
            boundary=recipe.boundary.sampling,
            dataset=self.datasets[cell.dataset],
            features=self.extractor_named(self.extractor if extractor is None else extractor),
            select=self.select,
            sample=self.sample,
            evaluate=self.evaluate,
        )

    def probes(self, cell: Cell) -> list[str]:
        """The kinds of probe that a training of ``cell`` can have."""
        training = self.training(cell)
        has = {
            "regulariser": training.recipe.schedule.makes_denoiser,
            "plane": training.dataset.native == (1, 2),
        }
        return [kind for kind in PROBES if has.get(kind, True)]

    def probing(self, cell: Cell) -> ProbeConfig:
        """How the training of ``cell`` is probed.

        Raises:
            Invalid: a name of the cell is not defined here, or a level lies above its recipe's range.
        """
        recipe = self.training(cell).recipe
        for i, level in enumerate(self.probe.levels):
            if level > recipe.sigma_max:
                expected = f"must be at most {recipe.sigma_max:g}, sigma_max of recipe {cell.recipe}"
                raise Invalid(("probe", "levels", i), level, expected)
        return self.probe


_WHEN = ("dataset", "kernel", "coupling", "scale")


_ABOUT = ("published_as", "sources")
"""What is said of a recipe and not of one that is like it."""


def _recipe(
    drafts: Sequence[Mapping[str, Any]], when: Mapping[str, str], overlay: Mapping[str, Any]
) -> tuple[Recipe, dict[str, Any]]:
    """The recipe that drafts become under ``when``, one over the other, and its settings for the coupling."""
    settings: dict[str, Any] = {}
    coupling: dict[str, Any] = {}
    for layer in (*drafts, overlay):
        if "like" in layer:
            settings = {key: value for key, value in settings.items() if key not in _ABOUT}
        settings = merge(settings, {key: layer[key] for key in layer.keys() - {"overrides", "like"}})
        for override in _overrides(layer):
            if all(_holds(when.get(key), names) for key, names in override["when"].items()):
                changes = {key: value for key, value in override.items() if key != "when"}
                coupling = merge(coupling, changes.pop("coupling", {}))
                settings = merge(settings, changes)
    return Recipe.model_validate(settings), coupling


def _holds(name: str | None, names: Any) -> bool:
    return name in names if isinstance(names, list) else name == names


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


def read_params(path: Path, scale: str | None = None) -> Params:
    """The checked content of a params file, at ``scale`` where one is given.

    Raises:
        UserError: the file cannot be read, is not YAML, or holds a bad key or value.
    """
    load_plugins()
    return validated(Params, _with_base(path, scale), str(path))


def _with_base(path: Path, scale: str | None, above: tuple[Path, ...] = ()) -> Any:
    """The content of a params file at ``scale``, laid over the file that it names as its base.

    Raises:
        UserError: a file cannot be read or is not YAML, or the bases lead back to a file.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        return content
    if scale is not None:
        content["scale"] = scale
    scales = content.get("scales")
    chosen = scales.get(content.get("scale")) if isinstance(scales, dict) else None
    changes = chosen if isinstance(chosen, dict) else {}
    base = changes.get("base", content.get("base"))
    if base is not None:
        if not isinstance(base, str):
            raise UserError(f"{path}: {Invalid(('base',), base, 'must be the path of a parameter file')}")
        below = Path(os.path.normpath(path.parent / base))
        if below in (*above, path):
            raise UserError(f"{path}: base = {base}: leads back to {below}; a file cannot lie over itself")
        under = _with_base(below, scale, (*above, path))
        content = merge(under, {key: content[key] for key in content.keys() - {"base"}})
    for section in ("recipes", "couplings"):
        if isinstance(changes.get(section), dict) and isinstance(content.get(section), dict):
            content[section] = merge(content[section], changes[section])
    return content


def knows_scale(path: Path, scale: str) -> bool:
    """Whether a params file or what it lies over has a scale of that name.

    Raises:
        UserError: a file cannot be read or is not YAML.
    """
    content = _with_base(path, scale)
    return isinstance(content, dict) and scale in (content.get("scales") or {})


def read_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        UserError: the file cannot be read or is not YAML.
    """
    try:
        return load_yaml(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason}); give a file with --params") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
