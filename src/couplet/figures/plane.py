"""Points of the plane: one-step map, posteriors of the encoder, pairs in training; a column for each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse

from couplet.figures.base import Cells, FigureKind
from couplet.reporting.pictures import evenly
from couplet.reporting.statements import Statement

PARTS = ("sample", "posterior", "pair")
POINTS = ["x0", "y0", "x1", "y1"]
"""Noise and its one-step map (part "sample"), data and its noise ("pair"), mean and standard deviations of a
Gaussian ("posterior")."""
LINKS = 150
"""Lines between points in a panel; more would be a grey area."""

LINES: tuple[dict[str, Any], ...] = (
    {"color": "#0b3d73", "linestyle": "-"},
    {"color": "#e08a1e", "linestyle": (0, (4, 1.5))},
)
MARKERS = ("o", "^")
"""Of both components: dark, solid and round; light, dashed and triangular: apart in grey."""
GAUSSIAN: dict[str, Any] = {"linewidth": 1.3}
PRIOR: dict[str, Any] = {"color": "0.25", "linestyle": ":", "linewidth": 0.9}
NOISE: dict[str, Any] = {"linestyle": "none", "marker": ".", "markersize": 3.2, "markeredgewidth": 0}
DATA: dict[str, Any] = {
    "linestyle": "none",
    "markersize": 3.4,
    "markeredgecolor": "white",
    "markeredgewidth": 0.25,
    "zorder": 4,
}


class Plane(FigureKind):
    """The one-step map above, pairs in training below."""

    at = ()

    def rows(self, cells: Cells) -> pd.DataFrame:
        """The points of the probe."""
        return pd.DataFrame(
            {
                **cells.names(member),
                "part": line["part"],
                "component": int(line["component"]),
                **{column: float(line[column]) for column in POINTS},
            }
            for member in cells.members
            for line in member.numbers
        )

    def ylabel(self, params: object) -> str:
        return "x₂ (data units)"

    def statements(self, rows: pd.DataFrame, cells: Cells) -> list[Statement]:
        """None: the picture is to be looked at."""
        return []

    def measured(self, cells: Cells) -> str:
        return f"Nothing is averaged: {cells.seeds}."

    def table(self, rows: pd.DataFrame) -> dict[str, Any]:
        """No numbers to read."""
        return {"columns": [], "rows": []}

    def picture(self, rows: pd.DataFrame, ylabel: str) -> Figure:
        columns = dict(list(rows.groupby("row", sort=False)))
        limit = 1.05 * max(2.0, _reach(rows))
        size = min(1.85, 7.2 / len(columns))
        picture = Figure(figsize=(size * len(columns) + 0.5, 2 * size + 0.85), layout="constrained")
        axes = picture.subplots(2, len(columns), sharex=True, sharey=True, squeeze=False)
        for (above, below), (label, points) in zip(axes.T, columns.items(), strict=True):
            sample, posterior, pair = (points[points["part"] == part] for part in PARTS)
            _one_step_map(above, sample, posterior)
            _pairs(below, pair)
            above.set_title(label)
            below.set_xlabel("x₁ (data units)")
        for axis, name in zip(axes[:, 0], ("one-step map", "pairs in training"), strict=True):
            axis.set_ylabel(f"{name}\n{ylabel}")
        for axis in axes.flat:
            axis.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
            axis.grid(visible=False)
            axis.locator_params(nbins=5)
        handles = _handles(with_posterior="posterior" in set(rows["part"]))
        picture.legend(handles=handles, loc="outside lower center", ncols=min(3, len(columns)))
        return picture


def _handles(*, with_posterior: bool) -> list[Line2D]:
    """Entries of the legend; lines, since an ellipse would be a box there."""
    handles = [
        Line2D([], [], label="prior N(0, I), 1 and 2 std", **PRIOR),
        Line2D([], [], label="noise", color=LINES[0]["color"], **NOISE),
    ]
    for k, (line, marker) in enumerate(zip(LINES, MARKERS, strict=True), start=1):
        mark = {"label": f"mode {k}: data, generated", "color": line["color"], "marker": marker}
        handles.append(Line2D([], [], **mark, **DATA))
    for k, line in enumerate(LINES if with_posterior else (), start=1):
        handles.append(Line2D([], [], label=f"mode {k}: posterior, 1 and 2 std", **line, **GAUSSIAN))
    return handles


def _reach(rows: pd.DataFrame) -> float:
    x0, y0, x1, y1 = (rows[column].abs() for column in POINTS)
    ellipse = rows["part"] == "posterior"
    ends = [x0 + 2 * x1 * ellipse, y0 + 2 * y1 * ellipse, x1[~ellipse], y1[~ellipse]]
    return float(pd.concat(ends).max())


def _one_step_map(axes: Axes, samples: pd.DataFrame, posteriors: pd.DataFrame) -> None:
    """Noise and its image after one evaluation, over the posteriors and the prior N(0, I)."""
    _links(axes, samples, color="0.55", linestyle="-", alpha=0.6)
    _ellipses(axes, (0, 0), (1, 1), **PRIOR)
    for k, (line, marker) in enumerate(zip(LINES, MARKERS, strict=True)):
        points = samples[samples["component"] == k]
        axes.plot(points["x0"], points["y0"], color=line["color"], alpha=0.55, **NOISE)
        axes.plot(points["x1"], points["y1"], color=line["color"], marker=marker, **DATA)
        for gaussian in posteriors.loc[posteriors["component"] == k, POINTS].to_numpy():
            _ellipses(axes, gaussian[:2], gaussian[2:], **line, **GAUSSIAN)


def _pairs(axes: Axes, pairs: pd.DataFrame) -> None:
    """Lines from data to the noise that it is paired with."""
    for k, (line, marker) in enumerate(zip(LINES, MARKERS, strict=True)):
        points = pairs[pairs["component"] == k]
        _links(axes, points, alpha=0.55, **line)
        axes.plot(points["x1"], points["y1"], color=line["color"], **NOISE)
        axes.plot(points["x0"], points["y0"], color=line["color"], marker=marker, **DATA)


def _ellipses(axes: Axes, mean: Sequence[float], std: Sequence[float], **style: Any) -> None:
    """N(mean, diag(std²)) at one and two standard deviations."""
    for k in (1, 2):
        width, height = 2 * k * std[0], 2 * k * std[1]
        axes.add_patch(Ellipse((mean[0], mean[1]), width, height, fill=False, zorder=3, **style))


def _links(axes: Axes, points: pd.DataFrame, **style: Any) -> None:
    """Thin lines between both points of at most LINKS rows."""
    for x0, y0, x1, y1 in points[POINTS].to_numpy()[evenly(len(points), LINKS)]:
        axes.plot((x0, x1), (y0, y1), marker="", linewidth=0.4, zorder=1, **style)
