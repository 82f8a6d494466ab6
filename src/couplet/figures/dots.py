"""Fréchet distance of every row, a mark for each NFE: a table to look at."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from couplet.figures import marks
from couplet.figures.base import Cells, FigureKind


class Dots(FigureKind):
    """Rows from top to bottom, values from left to right, single seeds below their mean."""

    def rows(self, cells: Cells) -> pd.DataFrame:
        """Distances with the cost of their training run."""
        costs = [member.evaluations_per_step for member in cells.members]
        return cells.distances().assign(evaluations=np.repeat(costs, len(cells.params.sample.nfe)))

    def picture(self, rows: pd.DataFrame, ylabel: str) -> Figure:
        labels, nfes = list(rows["row"].unique()), sorted(rows["nfe"].unique())
        spacing = min(0.22, 0.7 / len(nfes))
        offsets = (np.arange(len(nfes)) - (len(nfes) - 1) / 2) * spacing
        y = rows["row"].map(labels.index) + rows["nfe"].map(dict(zip(nfes, offsets, strict=True)))
        picture, (axes,) = marks.panels(height=len(labels) * max(0.24, 0.11 * len(nfes) + 0.06) + 0.75)
        floor = marks.floor(rows["value"])
        for line, style in marks.lines(rows.assign(y=y).sort_values("nfe", kind="stable"), "nfe"):
            style |= {"linestyle": "none"}
            marks.curve(axes, line, "value", "y", ends=marks.deviation(floor), zorder=3, **style)
            # Below their mean, which would cover them.
            faint = {"markersize": 2.2, "markeredgewidth": 0.5, "alpha": 0.5, "zorder": 2, "label": None}
            axes.plot(line["value"], line["y"] + 0.45 * spacing, **style | faint)
        if floor > 0:
            marks.log_scale(axes, "x", rows["value"])
        axes.set(xlabel=ylabel, ylabel="", ylim=(len(labels) - 0.5, -0.5))
        axes.set_yticks(range(len(labels)), labels)
        axes.tick_params(axis="y", length=0)
        marks.legend(picture, axes)
        return picture

    def table(self, rows: pd.DataFrame) -> dict[str, Any]:
        """Means, and the cost of training."""
        table = super().table(rows)
        table["columns"].append("network evaluations per image and step")
        for line, (_, group) in zip(table["rows"], rows.groupby(["row", "nfe"], sort=False), strict=True):
            line.append(f"{group['evaluations'].iloc[0]:.2f}")
        return table
