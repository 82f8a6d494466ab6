"""Fréchet distance of the snapshots along training, at several kinds of budget."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from couplet.config.study import StepsConfig
from couplet.figures import marks
from couplet.figures.base import Cells, FigureKind, Measured
from couplet.reporting.statements import DIMENSIONS

CURVE = ["against", *DIMENSIONS, "row", "seed", "nfe"]
"""The columns that tell the snapshots of one curve from others."""


class Steps(FigureKind):
    """A panel for each kind of budget."""

    config: StepsConfig
    at = ("against", "nfe", "x")
    snapshots = "every"

    def rows(self, cells: Cells) -> pd.DataFrame:
        """Distances of all snapshots, at each kind of budget."""
        nfe = cells.params.select.nfe
        return pd.DataFrame(
            {
                **cells.names(member),
                "nfe": nfe,
                "against": against,
                "x": score["step"] * cost_per_step,
                "value": score[f"fd_nfe{nfe}"],
            }
            for member in cells.members
            for against in self.config.against
            for cost_per_step in [_cost_per_step(member, against)]
            for score in member.numbers
        )

    def picture(self, rows: pd.DataFrame, ylabel: str) -> Figure:
        # Seconds differ between seeds: a snapshot is at their mean.
        keys = [rows[column] for column in ("against", "row", "nfe")]
        order = rows.groupby([*keys, rows["seed"]])["x"].rank()
        rows = rows.assign(x=rows.groupby([*keys, order])["x"].transform("mean"))
        counts = rows.groupby(["against", "row", "nfe", "seed"]).size()
        picture, axes = marks.panels(len(self.config.against))
        floor = marks.floor(rows["value"], always_log=True)
        for panel, against in zip(axes, self.config.against, strict=True):
            budget = rows[rows["against"] == against]
            if budget.empty:
                raise ValueError(f"against: no row has {against!r}")
            scale, xlabel = marks.unit(against, budget["x"].max())
            for line, style in marks.lines(rows, "row", "nfe"):
                line = line[line["against"] == against]
                label = line["row"].iloc[0]
                if counts[against, label].nunique() > 1:
                    raise ValueError(f"row = {label!r}: its seeds have different numbers of snapshots")
                style["markevery"] = max(1, line["x"].nunique() // 8)
                marks.curve(
                    panel,
                    line.assign(x=line["x"] / scale),
                    "x",
                    "value",
                    ends=marks.deviation(floor),
                    band=True,
                    **style,
                )
            panel.set_xlabel(xlabel)
        if floor > 0:  # of all panels: they share the axis
            marks.log_scale(axes[0], "y", rows["value"])
        axes[0].set_ylabel(ylabel)
        marks.legend(picture, axes[0])
        return picture

    def compared(self, rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
        return at_equal_budget(rows)


def _cost_per_step(member: Measured, against: str) -> float:
    if against == "seconds":
        return member.seconds / member.training.recipe.steps
    return member.evaluations_per_step if against == "evaluations" else 1.0


def at_equal_budget(rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Distance of each seed where the cheapest run of the study ended, by kind of budget.

    Between snapshots the logarithm of the distance is interpolated linearly. A row is left out where the
    first snapshot of one of its seeds lies beyond the budget.

    Returns:
        a row per seed and kind of budget, and sentences on the rows that are left out.
    """
    compared, remarks = [], []
    for against, curves in rows.groupby("against", sort=False):
        ends = curves.groupby(CURVE, sort=False)["x"].agg(["min", "max"]).reset_index()
        budget = ends["max"].min()
        late = list(ends.loc[ends["min"] > budget, "row"].unique())
        if late:
            remarks.append(
                f" Without {'; '.join(late)} at equal {against}: the first snapshot lies beyond the budget."
            )
        for _, curve in curves[~curves["row"].isin(late)].groupby(CURVE, sort=False):
            logarithm = np.interp(budget, curve["x"], np.log(curve["value"].clip(lower=1e-12)))
            compared.append({**curve.iloc[-1], "x": budget, "value": float(np.exp(logarithm))})
    return pd.DataFrame(compared), "".join(remarks)
