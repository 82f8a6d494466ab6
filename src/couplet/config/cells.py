"""A cell of the grid, and the settings that decide its weights and its numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import product
from typing import Annotated, Any, Self

from pydantic import Field, NonNegativeInt, model_validator

from couplet.config.base import Closed, Floats, Invalid, OneOf
from couplet.config.couplings import CouplingConfig
from couplet.config.datasets import DatasetConfig
from couplet.config.extractors import ExtractorConfig
from couplet.config.recipes import KernelConfig, Recipe
from couplet.config.stages import EvaluateConfig, SampleConfig, SelectConfig, TrainConfig

Names = Annotated[tuple[str, ...], Field(strict=False, min_length=1)]


class Cell(Closed):
    """The five names that identify one training."""

    dataset: str
    recipe: str
    kernel: str = "ve"
    coupling: str
    seed: int = Field(0, ge=0)
    """Seeds training; selection and sampling derive streams of their own from it."""

    @property
    def flags(self) -> str:
        """The names as command-line options."""
        return " ".join(f"--{name} {value}" for name, value in self)

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
    """What each cell is measured with, one row each; null is the experiment's extractor."""

    @model_validator(mode="after")
    def _no_name_twice(self) -> Self:
        for key, values in self:
            if values is not None and len(set(values)) < len(values):
                raise Invalid((key,), values, "every entry must stand there once")
        return self

    def cells(self) -> Iterator[Cell]:
        """The combinations, seeds changing fastest."""
        for names in product(self.datasets, self.recipes, self.kernels, self.couplings, self.seeds):
            yield Cell.model_validate(dict(zip(Cell.model_fields, names, strict=True)))


class Training(Closed):
    """Everything that decides the weights of one cell."""

    cell: Cell
    dataset: Annotated[DatasetConfig, OneOf()]
    recipe: Recipe
    kernel: Annotated[KernelConfig, OneOf()]
    coupling: Annotated[CouplingConfig, OneOf()]
    train: TrainConfig

    @property
    def deciding(self) -> dict[str, Any]:
        """The settings that the weights depend on.

        What only sampling, logging or the table reads is left out, except inside the coupling, which is
        saved with the weights. So is what changes the weights by the rounding of a sum, and how the
        networks are computed where that is the default.
        """
        settings = self.model_dump(mode="json")
        recipe, train = settings["recipe"], settings["train"]
        for name in ("published_as", "sources", "mid_sigmas"):
            del recipe[name]
        del recipe["boundary"]["sampling"], train["log_every"], train["save_every"], train["microbatch"]
        for name in ("precision", "compile"):
            if train[name] == TrainConfig.model_fields[name].default:
                del train[name]
        return settings

    @property
    def key(self) -> str:
        """Eight digits that change with :attr:`deciding`."""
        return digest(self.deciding)

    @property
    def snapshot_steps(self) -> tuple[int, ...]:
        """The steps after which an EMA snapshot is saved: equally spaced, the last is the last."""
        count = min(self.train.snapshots, self.recipe.steps)
        return tuple(self.recipe.steps * (i + 1) // count for i in range(count))


class Measurement(Closed):
    """Everything that decides the numbers measured on given weights with one extractor."""

    mid_sigmas: Floats
    boundary: bool
    """Whether sampling shifts the preconditioning."""
    dataset: Annotated[DatasetConfig, OneOf()]
    features: Annotated[ExtractorConfig, OneOf()]
    select: SelectConfig
    sample: SampleConfig
    evaluate: EvaluateConfig

    @property
    def key(self) -> str:
        """Changes with every setting here."""
        return digest(self)


def digest(*parts: Any) -> str:
    """Eight hexadecimal digits that change with any of ``parts``, models or plain data."""
    plain = [part.model_dump(mode="json") if isinstance(part, Closed) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]
