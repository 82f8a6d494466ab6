"""Probes: measurements of a finished run besides its samples."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from couplet.config.base import Invalid, Listed, Variant
from couplet.config.datasets import is_plane

if TYPE_CHECKING:
    from couplet.config.cells import Training


class ProbeConfig(Variant):
    """A measurement of a finished run besides its samples: a function that returns rows of ``columns``."""

    columns: ClassVar[tuple[str, ...]]

    def misfit(self, training: Training) -> str | None:
        """Reason why a run of ``training`` cannot have this probe, with key and allowed value, if any."""
        return None

    def images(self, training: Training) -> int:
        """Number of images that the probe passes through the model, for the progress bar."""
        return 0


class GradientConfig(ProbeConfig):
    """Gradients of minibatches at each snapshot: VCT's numbers, and how they vary from batch to batch."""

    implementation: ClassVar[str] = "couplet.probes.gradient:probe"
    columns = (
        "step",
        "grad_variance",
        "x_grad_variance",
        "grad_norm",
        "covariance_trace",
        "mean_norm2",
        "ratio",
    )
    kind: Literal["gradient"] = "gradient"
    batches: int = Field(32, ge=2, le=100_000)
    """Minibatches of the run's size."""

    def images(self, training: Training) -> int:
        return len(training.snapshot_steps) * self.batches * training.recipe.batch


class LevelsConfig(ProbeConfig):
    """Settings shared by probes that measure pairs at each noise level."""

    columns: ClassVar[tuple[str, ...]] = ("level", "mean", "std_error")
    pairs: int = Field(2000, ge=2, le=10_000_000)
    """Pairs at each noise level."""
    levels: Listed[float] = Field(
        (0.02, 0.0425, 0.0904, 0.192, 0.408, 0.868, 1.84, 3.92, 8.33, 17.7, 37.6, 80.0), min_length=1
    )
    """Noise levels in (0, sigma_max], rising."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        for i, (before, level) in enumerate(pairwise((0.0, *self.levels))):
            if level <= before:
                raise Invalid(("levels", i), level, f"must be above {before:g}: levels are positive and rise")
        return self

    def misfit(self, training: Training) -> str | None:
        level, top = self.levels[-1], training.recipe.sigma_max
        if level <= top:
            return None
        return f"levels = {level:g}: must be at most {top:g}, sigma_max of {training.cell.recipe}"

    def images(self, training: Training) -> int:
        return self.pairs


class TransportConfig(LevelsConfig):
    """Transport cost of the coupling's pairs at each noise level (GC, figure 3)."""

    implementation: ClassVar[str] = "couplet.probes.levels:transport"
    kind: Literal["transport"] = "transport"


class RegulariserConfig(LevelsConfig):
    """Distance of the pairs' velocity from the mean velocity at each noise level (GC, figure 2)."""

    implementation: ClassVar[str] = "couplet.probes.levels:velocity"
    kind: Literal["regulariser"] = "regulariser"

    def misfit(self, training: Training) -> str | None:
        schedule = training.recipe.schedule
        if schedule.makes_denoiser:
            return super().misfit(training)
        key = f"recipes.{training.cell.recipe}.schedule.kind"
        return f"{key} = {schedule.kind}: this probe needs a run of a denoiser; allowed: denoising"


class PlaneConfig(ProbeConfig):
    """One-step samples, pairs and posteriors of a run on points of the plane (VCT, figure 1)."""

    implementation: ClassVar[str] = "couplet.probes.plane:probe"
    columns = ("part", "component", "x0", "y0", "x1", "y1")
    kind: Literal["plane"] = "plane"
    points: int = Field(300, ge=1, le=1_000_000)
    """Samples and pairs, at most: a picture cannot show more."""

    def misfit(self, training: Training) -> str | None:
        return _not_plane(training)


class TrajectoriesConfig(LevelsConfig):
    """Trajectories of pairs of points of the plane, and of the probability-flow ODE (GC, figure 1)."""

    implementation: ClassVar[str] = "couplet.probes.trajectories:probe"
    columns = ("path", "component", "level", "x", "y", "ode_x", "ode_y", "deviation")
    kind: Literal["trajectories"] = "trajectories"
    pairs: int = Field(100, ge=2, le=100_000)
    """Pairs, at most: a trajectory each."""
    levels: Listed[float] = Field(tuple(i / 20 for i in range(1, 41)), min_length=1)
    """Noise levels in (0, sigma_max], rising; both trajectories start at the last one."""

    def misfit(self, training: Training) -> str | None:
        return _not_plane(training) or super().misfit(training)


def _not_plane(training: Training) -> str | None:
    if is_plane(training.dataset.native):
        return None
    return f"dataset = {training.cell.dataset}: this probe needs points of the plane, as of `mixture`"
