"""Fréchet distance against the number of network evaluations of a sample."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from couplet.figures import marks
from couplet.figures.base import Cells, FigureKind


class Evaluations(FigureKind):
    """A curve for each row."""

    def rows(self, cells: Cells) -> pd.DataFrame:
        """Distances."""
        return cells.distances()

    def picture(self, rows: pd.DataFrame, ylabel: str) -> Figure:
        picture, (axes,) = marks.panels()
        marks.curves(axes, rows, "nfe", "row")
        axes.set(xlabel="network evaluations per sample (NFE)", ylabel=ylabel)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        marks.legend(picture, axes)
        return picture
