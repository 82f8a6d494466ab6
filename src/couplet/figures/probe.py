"""Measurements of `couplet probe` over noise levels or training steps."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from couplet.config.params import Params
from couplet.config.study import ProbeFigureConfig
from couplet.figures import marks
from couplet.figures.base import Cells, FigureKind

YLABELS = {
    "gradient": "variance of the gradient",
    "transport": "transport cost c(t) = E‖x̂ − z‖²",
    "regulariser": "E‖ẋ − v(x_t, t)‖²",
}


class Probe(FigureKind):
    """A curve for each row."""

    at = ("x",)

    def __init__(self, config: ProbeFigureConfig) -> None:
        super().__init__(config)
        self.of_steps = config.probe == "gradient"
        self.place = ("x", "step" if self.of_steps else "t =")

    def rows(self, cells: Cells) -> pd.DataFrame:
        """A row per cell and noise level or snapshot."""
        x, value = ("step", "variance") if self.of_steps else ("level", "mean")
        return pd.DataFrame(
            {**cells.names(member), "x": float(line[x]), "value": float(line[value])}
            for member in cells.members
            for line in member.numbers
        )

    def ylabel(self, params: Params) -> str:
        return YLABELS[self.config.probe]

    def picture(self, rows: pd.DataFrame, ylabel: str) -> Figure:
        picture, (axes,) = marks.panels()
        scale, xlabel = marks.unit("steps", rows["x"].max()) if self.of_steps else (1, "noise level t")
        marks.curves(axes, rows.assign(x=rows["x"] / scale), "x", "row", always_log=True)
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
