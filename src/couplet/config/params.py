"""The settings of a parameter file, checked as a whole, and the settings of each cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    PrivateAttr,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from couplet.config.base import Closed, Invalid, Listed, Place, Variant, choices, located, named, path_safe
from couplet.config.cells import (
    Cell,
    EvaluateConfig,
    Grid,
    Measurement,
    ReferenceConfig,
    SampleConfig,
    SelectConfig,
    TimeConfig,
    TrainConfig,
    Training,
)
from couplet.config.couplings import CouplingConfig
from couplet.config.datasets import DatasetConfig
from couplet.config.extractors import ExtractorConfig
from couplet.config.fit import Facts, check_fit
from couplet.config.layers import Layer, combined, merge, overrides, recipe_layers, written
from couplet.config.probes import ProbeConfig
from couplet.config.recipes import KernelConfig, Recipe
from couplet.config.study import Study
from couplet.config.track import of_every_run

FAMILIES: dict[str, type[Variant]] = {
    "datasets": DatasetConfig,
    "features": ExtractorConfig,
    "kernels": KernelConfig,
    "couplings": CouplingConfig,
    "probes": ProbeConfig,
}
"""Sections of a parameter file that name members of a family."""


def _grids(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Grids from a list of them, or from one as written."""
    return check(value) if isinstance(value, list) else (Grid.model_validate(value),)


class Params(Closed):
    """A parameter file with its layers applied. The top-level names are the experiment of `dvc repro`."""

    dataset: str
    """A name from `datasets`."""
    recipe: str
    """A name from `recipes`."""
    kernel: str = "ve"
    """A name from `kernels`."""
    coupling: str
    """A name from `couplings`."""
    extractor: str
    """A name from `features`: the extractor that the experiment is measured with."""
    seed: int = Field(0, ge=0)
    """The number from which every random draw of the experiment follows."""
    scale: str | None = None
    """A name from `scales`; null leaves the file as it is written."""
    threads: int = Field(1, ge=1, le=1024)
    """CPU threads of one job, which its processes share. More than the cores that are free makes every job
    many times slower. Changes numbers by rounding, and so cache keys."""
    gpus: int = Field(1, ge=0, le=1024)
    """GPUs of one job that trains or measures, a process each, or on the CPU processes; 0: one process, on
    the CPU. Several change numbers by rounding, with dropout by the masks, and so cache keys."""
    raw: Place = "raw"
    """Folder of data sets as their authors publish them, one folder per kind; `prepare` downloads to it."""
    track: Listed[Annotated[str, AfterValidator(of_every_run)]] = ()
    """Trackers that show every run, besides those of `--track`: `tensorboard=FOLDER`, `wandb[=PROJECT]`,
    `mlflow[=URI or EXPERIMENT]`."""
    peak_tflops: float | None = Field(None, gt=0, allow_inf_nan=False)
    """TFLOP/s that one GPU or CPU can do in `train.precision`, of which the utilisation is logged; null knows
    some GPUs and logs none for others."""
    table1: Annotated[
        tuple[Grid, ...],
        Field(strict=False, min_length=1),
        WrapValidator(_grids, json_schema_input_type=Grid | list[Grid]),
    ]
    """A grid, or a list of grids: the table has the cells of all of them."""
    datasets: Annotated[dict[str, DatasetConfig], named(DatasetConfig)] = {}
    """Data sets by name. Here and in the next sections, a kind's own name needs no entry."""
    features: Annotated[dict[str, ExtractorConfig], named(ExtractorConfig)] = {}
    """Feature extractors by name."""
    kernels: Annotated[dict[str, KernelConfig], named(KernelConfig)] = {}
    """Kernels by name."""
    couplings: Annotated[dict[str, CouplingConfig], named(CouplingConfig)] = {}
    """Couplings by name."""
    recipes: dict[str, Any]
    """Recipes by name, each a mapping of settings. `overrides` lists {when: {dataset|kernel|coupling:
    name(s), coupling_kind: kind(s)}, …settings}; `base` names the recipe that this one lies over."""
    every_recipe: Any = None
    """Settings laid over every recipe, after its own overrides: for scales."""
    set: dict[Literal["recipes", "couplings"], dict[str, Any]] = {}
    """Settings of recipes and couplings from the command line, which win over everything else."""
    train: TrainConfig = TrainConfig()
    """Snapshots, logging, saving and precision of every training."""
    reference: ReferenceConfig = ReferenceConfig()
    """What samples are compared with."""
    select: SelectConfig = SelectConfig()
    """How the snapshot is chosen."""
    sample: SampleConfig = SampleConfig()
    """The samples that are measured."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """The metrics."""
    time: TimeConfig = TimeConfig()
    """How the time of training steps is measured."""
    probes: Annotated[dict[str, ProbeConfig], named(ProbeConfig)] = {}
    """Probes by name."""
    study: Study | None = None
    """Figure or table of a paper that the file's cells reproduce, for `results/paper.html`."""

    _trainings: dict[Cell, Training] = PrivateAttr(default_factory=dict)
    _extractors: dict[Cell, list[str]] = PrivateAttr(default_factory=dict)

    @property
    def experiment(self) -> Cell:
        """The one cell that the top level names."""
        return Cell.model_validate({name: getattr(self, name) for name in Cell.model_fields})

    def cells(self, part: str = "") -> list[Cell]:
        """The cells of the table, each once: all, or the row ``part``, or the rows that begin with it.

        Raises:
            Invalid: no row's name begins with ``part``: ``cifar10``, ``cifar10-ict``, ``cifar10-ict-ve-vae``.
        """
        cells = dict.fromkeys(cell for grid in self.table1 for cell in grid.cells())
        begin = [cell for cell in cells if f"{cell.name}-".startswith(f"{part}-" if part else "")]
        chosen = [cell for cell in begin if cell.name == part] or begin
        if not chosen:
            raise Invalid(("part",), part, choices(part, {cell.name for cell in cells}))
        return chosen

    def measured(self, part: str = "") -> list[tuple[Cell, str]]:
        """:meth:`cells`, each with every extractor that it is measured with."""
        chosen = set(self.cells(part))
        pairs = (
            (cell, extractor)
            for grid in self.table1
            for cell in grid.cells()
            for extractor in grid.extractors or (self.extractor,)
            if cell in chosen
        )
        return list(dict.fromkeys(pairs))

    @model_validator(mode="after")
    def _every_cell_resolves(self) -> Self:
        self.training(self.experiment)
        self.extractor_named(self.extractor)
        for number, grid in enumerate(self.table1):
            at = ("table1", number) if len(self.table1) > 1 else ("table1",)
            for key, names in grid:
                if key != "seeds":
                    for i, name in enumerate(names or ()):
                        self._lookup("features" if key == "extractors" else key, name, (*at, key, i))
        for name in self.set.get("recipes", {}):
            self._lookup("recipes", name, ("recipes",))
        for name in self.recipes:
            with located("recipes"):
                path_safe(name)
            with located("recipes", name):
                self._check_recipe(name)
        pairs = self.measured()
        if self.experiment not in (cell for cell, _ in pairs):
            pairs.append((self.experiment, self.extractor))
        for cell, extractor in pairs:
            facts = Facts.of(cell.dataset, self.dataset_named(cell.dataset))
            training, measurement = self.training(cell), self.measurement(cell)
            check_fit(facts, training, measurement, self.extractor_named(extractor))
            if training.frozen_run is not None:
                check_fit(facts, training.frozen_run)
        if self.study and self.study.figure.timed and not self.time.rounds:
            raise Invalid(("time", "rounds"), 0, "must be >= 1 for a figure against seconds")
        for i, comparison in enumerate(self.study.compare if self.study else ()):
            names = {str(getattr(cell, comparison.of)) for cell in self.cells()}
            for key in ("lower", "than"):
                if (name := getattr(comparison, key)) not in names:
                    raise Invalid(("study", "compare", i, key), name, choices(name, names))
        return self

    def _check_recipe(self, name: str) -> None:
        """Raise Invalid if a recipe is wrong without its overrides, or one of these names nothing."""
        layers = recipe_layers(self._layers, name)
        Recipe.model_validate(combined(written({}, layers)[0]))
        for _, layer in layers:
            for i, override in enumerate(overrides(layer)):
                for key, names in override["when"].items():
                    for each in names if isinstance(names, list) else [names]:
                        at = ("overrides", i, "when", key)
                        if key != "coupling_kind":
                            self._lookup(f"{key}s", each, at)
                        elif each not in [*CouplingConfig.family]:
                            raise Invalid(at, each, choices(each, CouplingConfig.family))

    @property
    def _layers(self) -> list[Layer]:
        """The one layer that recipes result from."""
        return [("", {"recipes": self.recipes, "every_recipe": self.every_recipe, "set": self.set})]

    def _lookup(self, section: str, name: Any, at: tuple[str | int, ...] = ()) -> Any:
        """The settings under ``name``, or else those of the kind of that name; it is written at ``at``."""
        entries, family = getattr(self, section), FAMILIES.get(section)
        with located(*at):
            if isinstance(name, str) and name in entries:
                return entries[name]
            if family is not None and name in family.family:
                return family.parse(name)
            raise Invalid((), name, choices(name, {*entries, *(family.family if family else ())}))

    @property
    def labels(self) -> dict[str, str]:
        """What kernels, couplings and the rows of the study are called, by name; others have their names."""
        sections = ("kernels", "couplings")
        titles = {name: kind.title for section in sections for name, kind in FAMILIES[section].family.items()}
        own = {
            name for section in sections for name, each in getattr(self, section).items() if each.kind != name
        }
        called = {name: title for name, title in titles.items() if title and name not in own}
        return called | (self.study.labels if self.study else {})

    def dataset_named(self, name: str) -> DatasetConfig:
        """The data set of that name; Invalid if there is none."""
        return self._lookup("datasets", name, ("dataset",))

    def extractor_named(self, name: str) -> ExtractorConfig:
        """The extractor of that name; Invalid if there is none."""
        return self._lookup("features", name, ("extractor",))

    def probe_named(self, name: str) -> ProbeConfig:
        """The probe of that name; Invalid if there is none."""
        return self._lookup("probes", name, ("probe",))

    def selector(self, cell: Cell, extractor: str | None = None) -> str:
        """The extractor in whose features a cell's snapshot is selected: the first that the table has for it.

        An ``extractor`` that the table does not measure the cell with selects for itself; the default is the
        experiment's.
        """
        if not self._extractors:
            for each, name in self.measured():
                self._extractors.setdefault(each, []).append(name)
        names = self._extractors.get(cell, [])
        return names[0] if names and extractor in (None, *names) else extractor or self.extractor

    def training(self, cell: Cell) -> Training:
        """All settings that ``cell`` trains with; Invalid if a name is not defined or an override wrong."""
        # Seeds share everything else, and a table of a hundred rows asks for each of them many times.
        first = cell.model_copy(update={"seed": 0})
        if first not in self._trainings:
            self._trainings[first] = self._training(first)
        return self._trainings[first].with_seed(cell.seed)

    def conditions(self, cell: Cell) -> dict[str, Any]:
        """What overrides depend on in a cell."""
        return {**dict(cell), "coupling_kind": self._lookup("couplings", cell.coupling, ("coupling",)).kind}

    def _training(self, cell: Cell) -> Training:
        keys = ("dataset", "recipe", "kernel", "coupling")
        parts = {key: self._lookup(f"{key}s", getattr(cell, key), (key,)) for key in keys}
        coupling = parts["coupling"]
        with located("recipes", cell.recipe):
            layers = recipe_layers(self._layers, cell.recipe)
            settings, changes = map(combined, written(self.conditions(cell), layers))
            recipe = Recipe.model_validate(settings)
            own = self.set.get("couplings", {}).get(cell.coupling)
            changes = merge(changes, own) if isinstance(own, Mapping) else changes
            if changes:
                with located("overrides", "coupling"):
                    coupling = coupling.parse(merge(coupling.model_dump(mode="json"), changes))
            if coupling.wants_frozen and coupling.frozen_run is None and recipe.frozen_from is None:
                needed = f"coupling {cell.coupling} needs the path of a checkpoint to predict with"
                raise Invalid(("frozen_from",), None, needed)
            if recipe.batch % coupling.batch_parts:
                needed = f"coupling {cell.coupling} needs a multiple of its parts, {coupling.batch_parts}"
                raise Invalid(("batch",), recipe.batch, needed)
        changed = {"recipe": recipe, "coupling": coupling, "frozen_run": self._frozen_run(cell, coupling)}
        return Training(cell=cell, train=self.train, **(parts | changed))

    def _frozen_run(self, cell: Cell, coupling: CouplingConfig) -> Training | None:
        """The run whose model is the frozen predictor of ``cell``, where `pretrained` names one."""
        if (wanted := coupling.frozen_run) is None:
            return None
        names = {"coupling": wanted.coupling, "recipe": wanted.recipe or cell.recipe}
        with located("couplings", cell.coupling, "pretrained"):
            for key, name in names.items():
                self._lookup(f"{key}s", name, (key,))
            if self._lookup("couplings", wanted.coupling).wants_frozen:
                raise Invalid(("coupling",), wanted.coupling, "must be one that needs no frozen predictor")
        return self.training(cell.model_copy(update=names))

    def measurement(self, cell: Cell) -> Measurement:
        """All settings that ``cell`` is measured with, besides the extractor; Invalid if they do not fit."""
        recipe = self.training(cell).recipe
        levels = 1 + len(recipe.mid_sigmas)
        allowed = f"recipe {cell.recipe} samples with sigma_max and {levels - 1} mid_sigmas"
        for section, nfe in (("select", self.select.nfe), *(("sample", nfe) for nfe in self.sample.nfe)):
            if not 1 <= nfe <= levels:
                raise Invalid((section, "nfe"), nfe, f"must lie between 1 and {levels}: {allowed}")
        names = ("reference", "select", "sample", "evaluate")
        sections: dict[str, Any] = {key: getattr(self, key) for key in names}
        return Measurement(mid_sigmas=recipe.mid_sigmas, boundary=recipe.boundary.sampling, **sections)

    def probes_of(self, cell: Cell) -> list[str]:
        """Names of the probes that a run of ``cell`` can have: the file's, and the built-in kinds."""
        training = self.training(cell)
        names = dict.fromkeys((*self.probes, *ProbeConfig.family))
        return [name for name in names if self.probe_named(name).misfit(training) is None]
