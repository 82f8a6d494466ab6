"""A study: what the cells of a parameter file show, as one figure with its caption."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from couplet.config.base import Closed, Floats, Invalid, OneOf, Variant

Dimension = Literal["dataset", "recipe", "kernel", "coupling"]


class FigureConfig(Variant):
    """What a figure shows of the cells; each cell's seeds are one mark with their spread."""

    noun = "figure"

    @property
    def probed(self) -> str | None:
        """The kind of probe that is drawn; None where it is samples' distances."""
        return None


class DotsConfig(FigureConfig):
    """The Fréchet distance of every row, a mark for each NFE: a table to look at."""

    kind: Literal["dots"] = "dots"


class SweepConfig(FigureConfig):
    """The Fréchet distance against a number of the settings, a line for each NFE."""

    kind: Literal["sweep"] = "sweep"
    x: str
    """Dotted key of a training's settings: `coupling.mu`, `recipe.network.dropout`."""
    xlabel: str
    log: bool = False
    """A logarithmic axis; a value of 0 stands at its left end."""
    zero: dict[str, float] = {}
    """x of rows by coupling, where their settings do not have the key: independent is mu = 0."""


class StepsConfig(FigureConfig):
    """The Fréchet distance of the snapshots, as `select` measures it, along the training."""

    kind: Literal["steps"] = "steps"
    against: Annotated[
        tuple[Literal["steps", "seconds", "evaluations"], ...], Field(strict=False, min_length=1)
    ] = ("steps",)
    """A panel for each: training steps; seconds of training, as measured; evaluations of the main network
    per image, all that a step asks for, a backward pass counted as two."""


class EvaluationsConfig(FigureConfig):
    """The Fréchet distance against the number of network evaluations of a sample."""

    kind: Literal["evaluations"] = "evaluations"


class ProbeFigureConfig(FigureConfig):
    """What `couplet probe` measures of the trainings."""

    kind: Literal["probe"] = "probe"
    probe: Literal["gradient", "transport", "regulariser"]

    @property
    def probed(self) -> str | None:
        return self.probe


class PlaneConfig(FigureConfig):
    """Points of the plane: one-step map, the encoder's posteriors, trajectories; a column for each row."""

    kind: Literal["plane"] = "plane"

    @property
    def probed(self) -> str | None:
        return "plane"


class Comparison(Closed):
    """A statement of the paper, put to the seeds: one of two values of a dimension has the lower number."""

    of: Dimension = "coupling"
    lower: str
    """The name that the paper expects to have the lower number."""
    than: str
    only: dict[Dimension, str] = {}
    """Compare only rows with these names."""
    nfe: Annotated[tuple[int, ...], Field(strict=False)] | None = None
    """Null: every NFE that is sampled."""
    at: Floats | None = None
    """In a probe's figure: the noise levels (or steps) to compare at; null is the last one."""


class Study(Closed):
    """One figure or table of a paper: what it is, what the paper says of it, how it is drawn."""

    paper: Literal["iCT", "VCT", "GC", "couplet"]
    """`couplet`: a comparison that no paper makes."""
    result: str
    """What it is called there: `Figure 5`."""
    title: str
    claim: str
    """What the paper says it shows, in our words."""
    source: str
    """Where it says so."""
    order: int
    """Place in the page."""
    figure: Annotated[FigureConfig, OneOf()]
    numbers: Literal["evaluate", "select"] = "evaluate"
    """Whose distances are drawn: of the selected snapshot by `evaluate`'s samples; or of the last snapshot as
    `select` scored it, which spares two stages a cell. Curves along training are `select`'s anyway."""
    labels: dict[str, str] = {}
    """What names of recipes, kernels and couplings are called in the figure."""
    compare: Annotated[tuple[Comparison, ...], Field(strict=False)] = ()
    note: str = ""
    """What a reader has to know of this reproduction: definitions and settings that are ours."""

    @property
    def of_selection(self) -> bool:
        """Whether the figure needs no sample and no evaluation."""
        return self.numbers == "select" or isinstance(self.figure, StepsConfig)

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        for name in ("title", "claim", "source"):
            if not getattr(self, name).strip():
                raise Invalid((name,), getattr(self, name), "must say something")
        return self
