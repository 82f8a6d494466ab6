"""A cell of the grid, and the settings that decide its weights and its numbers: a class per section."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, model_validator

from couplet.config.base import Closed, Invalid, Listed, NonEmpty, named
from couplet.config.couplings import CouplingConfig
from couplet.config.datasets import DatasetConfig
from couplet.config.designs import Design, SamplerConfig
from couplet.config.metrics import MetricConfig
from couplet.config.recipes import KernelConfig, Recipe


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

    datasets: NonEmpty[str]
    """Names from `datasets`."""
    recipes: NonEmpty[str]
    """Names from `recipes`."""
    kernels: NonEmpty[str] = ("ve",)
    """Names from `kernels`."""
    couplings: NonEmpty[str]
    """Names from `couplings`."""
    seeds: NonEmpty[NonNegativeInt]
    """Training seeds; a run each."""
    extractors: NonEmpty[str] | None = None
    """Extractors to measure each cell with, one row each; null is the experiment's. The snapshot is selected
    in the features of the first, and all measure the same samples."""

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


class ReferenceConfig(Closed):
    """The training images that samples are compared with."""

    images: int | None = Field(None, ge=2, le=10_000_000)
    """The first images of the shuffled training split (GC: 50,000); null is all of them, in any order."""
    sets: int = Field(1, ge=1, le=100)
    """Sets of so many images, each of another shuffle, for the sets of `sample.repeats` in turn."""

    @model_validator(mode="after")
    def _sets_of_some_images(self) -> Self:
        if self.sets > 1 and self.images is None:
            raise Invalid(("sets",), self.sets, "must be 1 where `images` is null: all images are one set")
        return self


class SelectConfig(Closed):
    """How `select` scores the saved snapshots."""

    samples: int = Field(2000, ge=2, le=10_000_000)
    """Images generated for each snapshot and NFE."""
    nfe: int = Field(1, ge=1)
    """The NFE whose Fréchet distance decides."""
    split: Literal["test", "train"] = "test"
    """Real images to compare with. The papers choose on `train`, on which they also report."""


class SampleConfig(Closed):
    """Samples of the selected snapshot."""

    samples: int = Field(5000, ge=2, le=10_000_000)
    """Images per NFE."""
    nfe: NonEmpty[int] = (1, 2)
    """Numbers of network evaluations."""
    batch: int = Field(250, ge=1, le=1_000_000)
    """Images per network call; changes speed and memory, not images."""
    quantise: Literal["round", "truncate"] = "round"
    """Round to the nearest of 256 values (EDM, ECT), or down (VCT, torchmetrics)."""
    labels: Literal["balanced", "uniform", "data"] = "balanced"
    """Classes for a conditional model: sample i has class i mod k; drawn with equal probability (VCT); drawn
    as often as each is in the training split (ECT). For `select` as well."""
    repeats: int = Field(1, ge=1, le=100)
    """Sets of samples of one model (GC: 5). Numbers are means over sets, with the spread beside them."""


class EvaluateConfig(Closed):
    """How `evaluate` turns samples into numbers."""

    metrics: Annotated[dict[str, MetricConfig], named(MetricConfig)] = {
        name: MetricConfig.parse(name) for name in ("fd", "kid", "is")
    }
    """Metrics by name. Metrics that need class scores are skipped for extractors that have none."""


class TrainConfig(Closed):
    """Settings of training that are not part of the method: files and computation."""

    snapshots: int = Field(6, ge=1, le=1000)
    """Number of EMA snapshots, saved at equal intervals up to the last step."""
    log_every: int = Field(25, ge=1)
    """Steps between lines of curve.csv."""
    save_every: int = Field(500, ge=1)
    """Steps between saves of the complete state, from which a stopped run resumes."""
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    """Precision of the networks: float32; products in TF32, on a GPU; or bfloat16 where autocast uses it."""
    compile: bool = False
    """Use torch.compile, which takes minutes and changes rounding, and with dropout the masks."""
    microbatch: int | None = Field(None, ge=1)
    """Images evaluated at once; null is the whole batch. Changes rounding, and with dropout the masks."""
    recompute: bool = Field(False, exclude=True)
    """Activation checkpointing: keep only the inputs of residual blocks, and compute each block again in the
    backward pass, for less memory and a third more time. Changes no number, and is in no record; with
    `compile` it changes rounding."""
    shard: bool = Field(False, exclude=True)
    """Divide the optimiser's state and the average among the processes of a run (ZeRO, stage 1), for less
    memory. Changes no number, and is in no record."""


class TimeConfig(Closed):
    """How `time` measures training steps, for the tables' columns of time and the seconds of figures."""

    rounds: int = Field(15, ge=0, le=1000)
    """Rounds in which every training takes some steps in turn; fewer than 6 allow no claim at equal seconds.
    0 measures nothing: tables have no columns of time."""


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
    def design(self) -> Design:
        """What rebuilds the model."""
        recipe = self.recipe
        return Design(
            network=recipe.network,
            kernel=self.kernel,
            coupling=self.coupling,
            conditional=recipe.conditional,
            sigma_min=recipe.sigma_min,
            sigma_max=recipe.sigma_max,
            sigma_data=recipe.sigma_data,
        )

    @property
    def sampler(self) -> SamplerConfig:
        """How the recipe makes images; a table may quantise them in another way."""
        recipe = self.recipe
        return SamplerConfig(levels=(recipe.sigma_max, *recipe.mid_sigmas), boundary=recipe.boundary.sampling)

    @property
    def snapshot_steps(self) -> tuple[int, ...]:
        """Steps after which an EMA snapshot is saved, equally spaced up to the last."""
        count = min(self.train.snapshots, self.recipe.steps)
        return tuple(self.recipe.steps * (i + 1) // count for i in range(count))

    @property
    def frozen_step(self) -> int | None:
        """Step of the predicting snapshot of :attr:`frozen_run`, nearest to `progress`."""
        run, named = self.frozen_run, self.coupling.frozen_run
        if run is None or named is None:
            return None
        return min(run.snapshot_steps, key=lambda step: abs(step - named.progress * run.recipe.steps))


class Measurement(Closed):
    """Everything that decides the numbers measured on given weights, besides the extractor."""

    mid_sigmas: Listed[float]
    boundary: bool
    """Whether sampling shifts the preconditioning."""
    select: SelectConfig
    sample: SampleConfig
    evaluate: EvaluateConfig
    reference: ReferenceConfig = ReferenceConfig()

    @property
    def selected_nfe(self) -> tuple[int, ...]:
        """Numbers of evaluations at which `select` scores the snapshots, rising."""
        return tuple(sorted({self.select.nfe, *self.sample.nfe}))
