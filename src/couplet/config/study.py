"""A study: one figure with its caption, made of the cells of a parameter file."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from couplet.config.base import Closed, Invalid, Listed, NonEmpty, Variant
from couplet.config.probes import ProbeConfig

Dimension = Literal["dataset", "recipe", "kernel", "coupling"]


class FigureConfig(Variant):
    """A :class:`couplet.figures.base.FigureKind`: the seeds of a cell are one mark with their spread."""

    needs: ClassVar[str | None] = None
    """`select`, or a kind of probe, if the figure reads that; None leaves it to `Study.numbers`."""

    @property
    def timed(self) -> bool:
        """Whether the figure reads the time of training steps."""
        return False


class DotsConfig(FigureConfig):
    """The Fréchet distance of every row, a mark for each NFE: a table to look at."""

    implementation: ClassVar[str] = "couplet.figures.dots:Dots"
    kind: Literal["dots"] = "dots"


class SweepConfig(FigureConfig):
    """The Fréchet distance against a number of the settings, a line for each NFE."""

    implementation: ClassVar[str] = "couplet.figures.curves:Sweep"
    kind: Literal["sweep"] = "sweep"
    x: str
    """Dotted key of a run's settings: `coupling.mu`, `recipe.network.dropout`."""
    xlabel: str
    """Title of the horizontal axis."""
    log: bool = False
    """A logarithmic axis; a value of 0 is at its left end."""
    zero: dict[str, float] = {}
    """x of rows by coupling, for couplings whose settings do not have the key: independent is mu = 0."""


class StepsConfig(FigureConfig):
    """The Fréchet distance of the snapshots along training, as `select` measures it."""

    implementation: ClassVar[str] = "couplet.figures.steps:Steps"
    needs = "select"
    kind: Literal["steps"] = "steps"
    against: NonEmpty[Literal["steps", "seconds", "evaluations"]] = ("steps",)
    """A panel each: training steps; seconds, as `time` measures steps; evaluations per image, a backward pass
    counts as two."""
    at: NonEmpty[Annotated[float, Field(gt=0, le=1)]] = (1.0,)
    """Shares of the shortest training at which rows are compared."""

    @property
    def timed(self) -> bool:
        return "seconds" in self.against


class EvaluationsConfig(FigureConfig):
    """The Fréchet distance against the number of network evaluations of a sample."""

    implementation: ClassVar[str] = "couplet.figures.curves:Evaluations"
    kind: Literal["evaluations"] = "evaluations"


class ProbeFigureConfig(FigureConfig):
    """The measurements of `couplet probe`."""

    implementation: ClassVar[str] = "couplet.figures.curves:Probe"
    kind: Literal["probe"] = "probe"
    probe: Literal["gradient", "transport", "regulariser"]
    """The probe that is drawn."""
    column: str | None = None
    """Column of the probe's file that is drawn; null: the first after noise level or step."""

    @property
    def columns(self) -> tuple[str, str]:
        """The columns of x and of the value."""
        x, first, *_ = self._probe.columns
        return x, self.column or first

    @property
    def _probe(self) -> type[ProbeConfig]:
        family: dict[str, Any] = ProbeConfig.family
        kind: type[ProbeConfig] = family[self.probe]
        return kind

    @model_validator(mode="after")
    def _has_the_column(self) -> Self:
        allowed = self._probe.columns[1:]
        if self.column is not None and self.column not in allowed:
            raise Invalid(("column",), self.column, f"must be a column of {self.probe}: {', '.join(allowed)}")
        return self


class PlaneConfig(FigureConfig):
    """Points of the plane: one-step map, posteriors of the encoder, pairs; a column for each row."""

    implementation: ClassVar[str] = "couplet.figures.plane:Plane"
    needs = "plane"
    kind: Literal["plane"] = "plane"


class TrajectoriesFigureConfig(FigureConfig):
    """Trajectories of pairs of points of the plane beside the probability-flow ODE's; a column for each row.

    The number that is compared is the mean squared distance of a pair's velocity from the ODE's.
    """

    implementation: ClassVar[str] = "couplet.figures.trajectories:Trajectories"
    needs = "trajectories"
    kind: Literal["trajectories"] = "trajectories"


class Comparison(Closed):
    """A statement of the paper, tested on the seeds: one of two names has the lower number."""

    of: Dimension = "coupling"
    """What the two names below are of."""
    lower: str
    """The name that the paper expects to have the lower number."""
    than: str
    """The name whose number is said to be larger."""
    only: dict[Dimension, str] = {}
    """Compare only rows with these names."""
    nfe: Listed[int] | None = None
    """Null: every NFE that is sampled."""
    at: Listed[float] | None = None
    """In the figure of a probe: the noise levels or steps to compare at; null is the last one."""


Paper = Literal["iCT", "VCT", "GC", "couplet"]
PAPERS: dict[Paper, str] = {
    "iCT": "iCT — Improved techniques for training consistency models",
    "VCT": "VCT — Training consistency models with variational noise coupling",
    "GC": "GC — Improving consistency models with generator-augmented flows",
    "couplet": "Beyond the papers",
}
"""Headings of the page, in its order, by the name in a study. `couplet`: a comparison that no paper makes."""


class Study(Closed):
    """One figure or table of a paper: its name, the paper's claim, and how to draw it."""

    paper: Paper
    """Where the claim is from."""
    result: str
    """Its name in the paper: `Figure 5`."""
    title: str
    """What the figure shows."""
    claim: str
    """The paper's claim, in our words."""
    source: str
    """The place of the claim."""
    order: int
    """Place in the page; it opens with 0."""
    figure: FigureConfig
    """How it is drawn."""
    numbers: Literal["evaluate", "select"] = "evaluate"
    """Distances to draw: of the selected snapshot, or with `select` of the last, which skips two stages."""
    samples: bool = False
    """Show images of the first seed above the figure, from the same noise for every row."""
    labels: dict[str, str] = {}
    """Names of recipes, kernels and couplings in the figure, where not those that people use."""
    compare: Listed[Comparison] = ()
    """Statements to test."""
    note: str = ""
    """Definitions and settings of this reproduction that a reader has to know."""

    @property
    def needs(self) -> str:
        """What the figure reads of each cell: `select`, `evaluate`, or a kind of probe."""
        figure = self.figure
        return figure.probe if isinstance(figure, ProbeFigureConfig) else figure.needs or self.numbers

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        for name in ("title", "claim", "source"):
            if not getattr(self, name).strip():
                raise Invalid((name,), getattr(self, name), "must say something")
        if self.samples and self.needs != "evaluate":
            raise Invalid(("samples",), True, f"must be false for a figure of {self.needs}")
        return self
