"""Drawing marks that figure kinds share: curves over seeds, axes, panels and legends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil, inf
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from couplet.reporting.style import log_scale, number

WIDTH = 5.5
"""Width of a text column, in inches."""


def lines(rows: pd.DataFrame, *columns: str) -> Iterator[tuple[pd.DataFrame, dict[str, Any]]]:
    """The rows of each curve with its style and label; columns with one value do not tell curves apart.

    The first column that varies decides colour and marker, a second one the line; markers are filled and
    white in turn along NFE.
    """
    varied = [column for column in columns if rows[column].nunique() > 1] or list(columns[-1:])
    values = {column: list(rows[column].unique()) for column in varied}
    cycle = list(mpl.rcParams["axes.prop_cycle"])
    for names, curve in rows.groupby(varied, sort=False):
        places = [values[column].index(name) for column, name in zip(varied, names, strict=True)]
        turn, first = divmod(places[0], len(cycle))
        style = dict(cycle[first])
        if len(places) > 1:
            style["linestyle"] = cycle[places[1] % len(cycle)]["linestyle"]
        if (turn + (places[-1] if varied[-1] == "nfe" else 0)) % 2:
            style["markerfacecolor"] = "white"
        texts = [f"NFE {n}" if column == "nfe" else n for column, n in zip(varied, names, strict=True)]
        yield curve, style | {"markeredgecolor": style["color"], "label": ", ".join(texts)}


def floor(values: pd.Series, *, always_log: bool = False) -> float:
    """The lowest end of a bar: half the smallest value where the axis is logarithmic, else minus infinity.

    It is logarithmic if values are positive and span more than a decade, or ``always_log``.
    """
    low, high = values.min(), values.max()
    return low / 2 if low > 0 and (always_log or high > 10 * low) else -inf


def curve(
    axes: Axes, rows: pd.DataFrame, x: str, y: str, *, floor: float, band: bool = False, **style: Any
) -> None:
    """A line through the means over seeds, with their sample standard deviation down to ``floor``.

    Axes become logarithmic afterwards: seaborn averages in the units of the axis.
    """
    import seaborn as sns  # a second

    sns.lineplot(
        rows,
        x=x,
        y=y,
        orient="y" if x == "value" else "x",
        errorbar=lambda values: (max(values.mean() - values.std(), floor), values.mean() + values.std()),
        err_style="band" if band else "bars",
        err_kws={"alpha": 0.15, "lw": 0} if band else {"marker": "", "elinewidth": 0.8},
        legend=False,
        ax=axes,
        markeredgewidth=1,
        **style,
    )


def curves(axes: Axes, rows: pd.DataFrame, *, x: str, by: Sequence[str], always_log: bool = False) -> None:
    """A curve with bars for each combination of the columns ``by``, over ``x``."""
    low = floor(rows["value"], always_log=always_log)
    for line, style in lines(rows, *by):
        curve(axes, line, x, "value", floor=low, **style)
    if low > 0:
        log_scale(axes, "y", rows["value"])


def few_ticks(axes: Axes, xs: Sequence[float]) -> None:
    """A tick at every value of x, if there are at most eight."""
    if len(xs) <= 8:
        axes.xaxis.set_major_locator(FixedLocator(xs))
        axes.xaxis.set_major_formatter(FuncFormatter(number))


def log_with_zero(axes: Axes, xs: Sequence[float]) -> None:
    """A logarithmic x axis for sorted values; 0 is left of a break.

    Raises:
        ValueError: a value is negative, or none is positive.
    """
    positive = [x for x in xs if x > 0]
    if xs[0] < 0 or not positive:
        raise ValueError(f"x = {xs[0]:g}: a logarithmic axis has no place for it")
    low, high = positive[0], positive[-1]
    if xs[0] > 0:
        log_scale(axes, "x", xs)
    else:
        axes.set_xscale("symlog", linthresh=low, linscale=0.5)
        axes.set_xlim(-0.15 * low, high * (high / low) ** 0.05 if high > low else 2 * high)
        axes.xaxis.set_minor_locator(FixedLocator([]))
        axes.text(low / 2, 0, "//", transform=axes.get_xaxis_transform(), ha="center", va="center_baseline")
    few_ticks(axes, xs)


def unit(against: str, largest: float) -> tuple[float, str]:
    """The divisor of x in a kind of budget, and the label of its axis."""
    if against == "seconds":
        for size, name in ((3600, "hours"), (60, "minutes")):
            if largest > 3 * size:
                return size, f"training {name} (as measured)"
        return 1, "training seconds (as measured)"
    label = {"steps": "training steps", "evaluations": "network evaluations\nper training image"}[against]
    for exponent, sign in ((6, "⁶"), (3, "³")):
        if largest >= 2 * 10**exponent:
            return 10**exponent, f"{label} (×10{sign})"
    return 1, label


def panels(count: int = 1, *, height: float = 2.8) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side that share their y axis."""
    picture = Figure(figsize=(WIDTH if count < 3 else 7.2, height), layout="constrained")
    return picture, list(picture.subplots(1, count, sharey=True, squeeze=False)[0])


def legend(picture: Figure, axes: Axes) -> None:
    """A legend above the panels: one line, or columns of equal height."""
    handles, names = axes.get_legend_handles_labels()
    width = picture.get_figwidth()
    columns = width / (0.06 * max(map(len, names)) + 0.5)
    one_line = len(names) * 0.5 + 0.055 * len("".join(names)) < width
    lines = 1 if one_line else ceil(len(names) / columns)
    picture.legend(handles, names, loc="outside upper center", ncols=ceil(len(names) / lines))
