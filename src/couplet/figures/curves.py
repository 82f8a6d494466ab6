"""Figures with a curve for each row: over NFE, over a number of the settings, or of a probe."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from couplet.config.cells import Training
from couplet.config.params import Params
from couplet.config.study import ProbeFigureConfig, SweepConfig
from couplet.errors import UserError
from couplet.figures import marks
from couplet.figures.base import Cells, FigureKind

YLABELS = {
    ("gradient", "grad_variance"): "variance of the gradient's elements",
    ("gradient", "x_grad_variance"): "variance of the elements\nof the gradient by the images",
    ("gradient", "grad_norm"): "norm of the gradient",
    ("gradient", "covariance_trace"): "trace of the gradient's covariance",
    ("transport", "mean"): "transport cost c(t) = E‖x̂ − z‖²",
    ("regulariser", "mean"): "E‖ẋ − v(x_t, t)‖²",
}
"""By probe and column; other columns have the words of their names."""


class Evaluations(FigureKind):
    """Fréchet distance against the number of network evaluations of a sample."""

    def picture(self, rows: pd.DataFrame, ylabel: str) -> Figure:
        picture, (axes,) = marks.panels()
        marks.curves(axes, rows, x="nfe", by=["row"])
        axes.set(xlabel="network evaluations per sample (NFE)", ylabel=ylabel)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        marks.legend(picture, axes)
        return picture


class Sweep(FigureKind):
    """Fréchet distance against a number of the settings, a curve for each row and NFE.

    The x axis is linear, or logarithmic with a place for 0.
    """

    config: SweepConfig
    at = ("nfe", "x")

    def rows(self, cells: Cells) -> pd.DataFrame:
        """Distances, each with the setting that is swept."""
        xs = [self._setting(member.training) for member in cells.members]
        distances = cells.distances(without=self.config.x.partition(".")[0])
        return distances.assign(x=np.repeat(xs, len(cells.params.sample.nfe)))

    def _setting(self, training: Training) -> float:
        """The number under the figure's key in the settings of a training run, or the study's own."""
        if training.cell.coupling in self.config.zero:
            return self.config.zero[training.cell.coupling]
        settings: Any = training.model_dump(mode="json")
        for key in self.config.x.split("."):
            settings = settings.get(key) if isinstance(settings, dict) else None
        if not isinstance(settings, int | float):
            raise UserError(
                f"study.figure.x = {self.config.x}: no number in the settings of {training.cell.name}; "
                "name its coupling in study.figure.zero"
            )
        return float(settings)

    def picture(self, rows: pd.DataFrame, ylabel: str) -> Figure:
        picture, (axes,) = marks.panels()
        marks.curves(axes, rows, x="x", by=["row", "nfe"])
        axes.set(xlabel=self.config.xlabel, ylabel=ylabel)
        xs = sorted(rows["x"].unique())
        (marks.log_with_zero if self.config.log else marks.few_ticks)(axes, xs)
        marks.legend(picture, axes)
        return picture


class Probe(FigureKind):
    """Measurements of `couplet probe` over noise levels or training steps."""

    at = ("x",)

    def __init__(self, config: ProbeFigureConfig) -> None:
        super().__init__(config)
        self.columns = config.columns
        self.of_steps = self.columns[0] == "step"
        self.place = ("x", "step" if self.of_steps else "t =")

    def rows(self, cells: Cells) -> pd.DataFrame:
        """A row per cell and noise level or snapshot."""
        x, value = self.columns
        return pd.DataFrame(
            {**cells.names(member), "x": float(line[x]), "value": float(line[value])}
            for member in cells.members
            for line in member.numbers
        )

    def ylabel(self, params: Params) -> str:
        value = self.columns[1]
        return YLABELS.get((self.config.probe, value), value.replace("_", " "))

    def picture(self, rows: pd.DataFrame, ylabel: str) -> Figure:
        picture, (axes,) = marks.panels()
        scale, xlabel = marks.unit("steps", rows["x"].max()) if self.of_steps else (1, "noise level t")
        marks.curves(axes, rows.assign(x=rows["x"] / scale), x="x", by=["row"], always_log=True)
        if not self.of_steps:
            marks.log_with_zero(axes, sorted(rows["x"].unique()))
        axes.set(xlabel=xlabel, ylabel=ylabel)
        marks.legend(picture, axes)
        return picture

    def measured(self, cells: Cells) -> str:
        probe: Any = cells.params.probe_named(self.config.probe)
        sample = (
            f"{probe.batches} minibatches at the averaged weights of each snapshot"
            if self.of_steps
            else f"{probe.pairs} pairs at each noise level"
        )
        return f"{sample}; {cells.seeds}, bars are their standard deviation."
