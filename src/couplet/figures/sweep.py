"""Fréchet distance against a number of the settings, a curve for each row and NFE."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from couplet.config.cells import Training
from couplet.config.study import SweepConfig
from couplet.errors import UserError
from couplet.figures import marks
from couplet.figures.base import Cells, FigureKind


class Sweep(FigureKind):
    """The x axis is linear, or logarithmic with a place for 0."""

    config: SweepConfig
    at = ("nfe", "x")

    def rows(self, cells: Cells) -> pd.DataFrame:
        """Distances, each with the setting that is swept."""
        xs = [self._setting(member.training) for member in cells.members for _ in cells.params.sample.nfe]
        return cells.distances(without=self.config.x.partition(".")[0]).assign(x=xs)

    def _setting(self, training: Training) -> float:
        """The number under the figure's key in the settings of a training run.

        Raises:
            UserError: there is none, and the study does not give one.
        """
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
        marks.curves(axes, rows, "x", "row", "nfe")
        axes.set(xlabel=self.config.xlabel, ylabel=ylabel)
        xs = sorted(rows["x"].unique())
        (marks.log_with_zero if self.config.log else marks.few_ticks)(axes, xs)
        marks.legend(picture, axes)
        return picture
