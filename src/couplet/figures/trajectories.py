"""Trajectories of pairs of points of the plane beside the probability-flow ODE's; a column for each row."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from couplet.figures.base import Cells, FigureKind
from couplet.figures.plane import DATA, LINES, MARKERS
from couplet.reporting.statements import DIMENSIONS

PATHS = 16
"""Trajectories in a panel; more would be a tangle."""
POINTS = {"x1": "x", "x2": "y", "ode_x1": "ode_x", "ode_x2": "ode_y"}
"""Coordinates of a pair's x_t and of the ODE's solution, by column; those of the probe have shorter names."""
ODE: dict[str, Any] = {"color": "0.35", "linestyle": (0, (1, 1.2)), "linewidth": 0.9}


class Trajectories(FigureKind):
    """x_t of a pair as t falls, and the ODE's solution from where both start."""

    at = ("path", "x")
    place = ("x", "t =")

    def rows(self, cells: Cells) -> pd.DataFrame:
        """A row per trajectory and noise level, with the deviation of the pair's velocity there."""
        return pd.DataFrame(
            {
                **cells.names(member),
                "path": int(line["path"]),
                "component": int(line["component"]),
                "x": float(line["level"]),
                "value": float(line["deviation"]),
                **{name: float(line[column]) for name, column in POINTS.items()},
            }
            for member in cells.members
            for line in member.numbers
        )

    def ylabel(self, params: object) -> str:
        return "x₂ (data units)"

    def compared(self, rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
        """The mean over trajectories, of each seed at each level; levels rise."""
        means = rows.groupby([*DIMENSIONS, "row", "seed", "x"], sort=False)["value"].mean()
        return means.reset_index().sort_values("x", kind="stable"), ""

    def table(self, rows: pd.DataFrame) -> dict[str, Any]:
        """At ten levels at most."""
        levels = sorted(rows["x"].unique())
        return super().table(rows[rows["x"].isin(levels[:: -(-len(levels) // 10)])])

    def measured(self, cells: Cells) -> str:
        probe: Any = cells.params.probe_named("trajectories")
        return (
            f"E‖ẋ − v(x_t, t)‖² over {probe.pairs} pairs at most, with the velocity v of the "
            f"probability-flow ODE of independent pairs; {cells.seeds}. The picture is of the first; both "
            f"curves start at t = {probe.levels[-1]:g}."
        )

    def picture(self, rows: pd.DataFrame, ylabel: str) -> Figure:
        columns = dict(list(rows[rows["seed"] == rows["seed"].min()].groupby("row", sort=False)))
        size = min(2.6, 7.2 / len(columns))
        picture = Figure(figsize=(size * len(columns) + 0.5, size + 0.8), layout="constrained")
        panels = picture.subplots(1, len(columns), sharex=True, sharey=True, squeeze=False)[0]
        for axes, (label, mine) in zip(panels, columns.items(), strict=True):
            shown = mine["path"].drop_duplicates().iloc[:PATHS]
            for _, path in mine[mine["path"].isin(shown)].groupby("path", sort=False):
                path = path.sort_values("x", ascending=False)
                component, end = path["component"].iloc[0] % len(LINES), path.iloc[-1]
                mark = {"color": LINES[component]["color"], "marker": MARKERS[component]}
                axes.plot(path["ode_x1"], path["ode_x2"], marker="", zorder=1, **ODE)
                axes.plot(path["x1"], path["x2"], marker="", linewidth=0.9, **LINES[component])
                axes.plot(end["x1"], end["x2"], **mark, **DATA)
            axes.set(title=label, xlabel="x₁ (data units)", aspect="equal")
            axes.grid(visible=False)
        panels[0].set_ylabel(ylabel)
        handles = [
            Line2D([], [], marker=marker, label=f"pair of a point of mode {k}", **line)
            for k, (line, marker) in enumerate(zip(LINES, MARKERS, strict=True), start=1)
        ]
        handles.append(Line2D([], [], label="probability-flow ODE", **ODE))
        picture.legend(handles=handles, loc="outside lower center", ncols=len(handles))
        return picture
