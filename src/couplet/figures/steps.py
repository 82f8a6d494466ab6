"""Fréchet distance of the snapshots along training, at several kinds of budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from couplet.config.study import StepsConfig
from couplet.figures import marks
from couplet.figures.base import Cells, FigureKind, Measured
from couplet.reporting.statements import DIMENSIONS
from couplet.reporting.times import unfit

CURVE = ["against", *DIMENSIONS, "row", "seed", "nfe"]
"""The columns that tell the snapshots of one curve from others."""


class Steps(FigureKind):
    """A panel for each kind of budget."""

    config: StepsConfig
    at = ("against", "nfe", "x")
    snapshots = "every"
    ends = "bands are 95 % intervals of their mean"

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
                    ends=marks.interval(floor),
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
        return at_equal_budget(rows, self.config.at)

    def unfit(self, cells: Cells, lower: Mapping[str, Any], than: Mapping[str, Any]) -> str:
        if not lower["against"].startswith("seconds"):
            return ""
        times = {member.cell.name: member.time for member in cells.members}
        return unfit(*(times["-".join(names[key] for key in DIMENSIONS)] for names in (lower, than)))

    def measured(self, cells: Cells) -> str:
        """The sentence of every kind, and the time of a step of each row."""
        times = {cells.names(member)["row"]: member.time for member in cells.members if member.time}
        if not (self.config.timed and times):
            return super().measured(cells)
        how = "; ".join(dict.fromkeys(time.how for time in times.values()))
        listed = ", ".join(f"{row} {time}" for row, time in times.items())
        return (
            f"{super().measured(cells)} Time of a step, median and quartiles over rounds in which all took "
            f"steps by turns in one process ({how}): {listed}."
        )


def _cost_per_step(member: Measured, against: str) -> float:
    if against == "seconds":
        assert member.time is not None
        return member.time.median / 1000
    return member.evaluations_per_step if against == "evaluations" else 1.0


def at_equal_budget(rows: pd.DataFrame, shares: Sequence[float] = (1.0,)) -> tuple[pd.DataFrame, str]:
    """Distance of each seed at ``shares`` of the budget of the study's cheapest run, by kind of budget.

    Between snapshots the logarithm of the distance is interpolated linearly. A row is left out where the
    first snapshot of one of its seeds lies beyond the budget.

    Returns:
        a row per seed, kind of budget and share, and sentences on the rows that are left out. `against` has
        the budget behind its kind: ``seconds (12.3)``.
    """
    compared, remarks = [], []
    for against, curves in rows.groupby("against", sort=False):
        ends = curves.groupby(CURVE, sort=False)["x"].agg(["min", "max"]).reset_index()
        for budget in ends["max"].min() * np.sort(shares):
            named = f"{against} ({budget:.4g})"
            late = list(ends.loc[ends["min"] > budget, "row"].unique())
            if late:
                remarks.append(
                    f" Without {'; '.join(late)} at equal {named}: the first snapshot lies beyond the budget."
                )
            for _, curve in curves[~curves["row"].isin(late)].groupby(CURVE, sort=False):
                logarithm = np.interp(budget, curve["x"], np.log(curve["value"].clip(lower=1e-12)))
                value = float(np.exp(logarithm))
                compared.append({**curve.iloc[-1], "against": named, "x": budget, "value": value})
    return pd.DataFrame(compared, columns=rows.columns), "".join(remarks)
