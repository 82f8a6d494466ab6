"""A cell of the grid, and the settings that decide its weights and its numbers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Annotated, Self

from pydantic import Field, NonNegativeInt, model_validator

from couplet.config.base import Closed, Floats, Invalid
from couplet.config.couplings import CouplingConfig
from couplet.config.datasets import DatasetConfig
from couplet.config.recipes import KernelConfig, Recipe
from couplet.config.stages import EvaluateConfig, SampleConfig, SelectConfig, TrainConfig

Names = Annotated[tuple[str, ...], Field(strict=False, min_length=1)]


class Cell(Closed):
    """The five names that identify one run."""

    dataset: str
    recipe: str
    kernel: str = "ve"
    coupling: str
    seed: int = Field(0, ge=0)
    """Training seed; selection and sampling derive their own seeds from it."""

    @property
    def name(self) -> str:
        """The names without the seed: ``cifar10-ict-ve-vae``."""
        return f"{self.dataset}-{self.recipe}-{self.kernel}-{self.coupling}"

    def __str__(self) -> str:
        return f"{self.name}-s{self.seed}"


class Grid(Closed):
    """Every combination of these names is a cell."""

    datasets: Names
    recipes: Names
    kernels: Names = ("ve",)
    couplings: Names
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(strict=False, min_length=1)]
    extractors: Names | None = None
    """Extractors to measure each cell with, one row each; null is the experiment's."""

    @model_validator(mode="after")
    def _no_name_twice(self) -> Self:
        for key, values in self:
            if values is not None and len(set(values)) < len(values):
                raise Invalid((key,), values, "must not repeat an entry")
        return self

    def cells(self) -> Iterator[Cell]:
        """The combinations, seeds changing fastest."""
        for dataset, recipe, kernel, coupling, seed in product(
            self.datasets, self.recipes, self.kernels, self.couplings, self.seeds
        ):
            yield Cell(dataset=dataset, recipe=recipe, kernel=kernel, coupling=coupling, seed=seed)


class Training(Closed):
    """Everything that decides the weights of one cell."""

    cell: Cell
    dataset: DatasetConfig
    recipe: Recipe
    kernel: KernelConfig
    coupling: CouplingConfig
    train: TrainConfig
    frozen_run: Training | None = None
    """The run whose snapshot is the frozen predictor, where the coupling's `pretrained` names one."""

    def with_seed(self, seed: int) -> Training:
        """The same settings with another seed, also for the frozen predictor's run."""
        frozen = None if self.frozen_run is None else self.frozen_run.with_seed(seed)
        cell = self.cell.model_copy(update={"seed": seed})
        return self.model_copy(update={"cell": cell, "frozen_run": frozen})

    @property
    def snapshot_steps(self) -> tuple[int, ...]:
        """Steps after which an EMA snapshot is saved, equally spaced up to the last."""
        count = min(self.train.snapshots, self.recipe.steps)
        return tuple(self.recipe.steps * (i + 1) // count for i in range(count))

    @property
    def frozen_step(self) -> int | None:
        """Step of the predicting snapshot of :attr:`frozen_run`, nearest to `progress`."""
        named = self.coupling.frozen_run
        if self.frozen_run is None or named is None:
            return None
        wanted = named.progress * self.frozen_run.recipe.steps
        return min(self.frozen_run.snapshot_steps, key=lambda step: abs(step - wanted))


class Measurement(Closed):
    """Everything that decides the numbers measured on given weights, besides the extractor."""

    mid_sigmas: Floats
    boundary: bool
    """Whether sampling shifts the preconditioning."""
    select: SelectConfig
    sample: SampleConfig
    evaluate: EvaluateConfig

    @property
    def selected_nfe(self) -> tuple[int, ...]:
        """Numbers of evaluations at which `select` scores the snapshots, rising."""
        return tuple(sorted({self.select.nfe, *self.sample.nfe}))
