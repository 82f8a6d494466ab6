"""Drawing marks that figures share: curves over seeds, axes, panels and legends."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from math import ceil, inf, nan
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from couplet.files import replacing
from couplet.reporting.pictures import STYLE

WIDTH = 5.5
"""Width of a text column, in inches."""

Ends = Callable[[pd.Series], tuple[float, float]]
"""The ends of a bar or band, from the values of several seeds."""


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
        style |= {"markeredgecolor": style["color"], "markeredgewidth": 1, "label": ", ".join(texts)}
        yield curve, style


def floor(values: pd.Series, *, always_log: bool = False) -> float:
    """The lowest end of a bar: half the smallest value where the axis is logarithmic, else minus infinity.

    It is logarithmic if values are positive and span more than a decade, or ``always_log``.
    """
    low, high = values.min(), values.max()
    return low / 2 if low > 0 and (always_log or high > 10 * low) else -inf


def deviation(floor: float) -> Ends:
    """Mean ± sample standard deviation, down to ``floor``."""
    return lambda values: (max(values.mean() - values.std(), floor), values.mean() + values.std())


def interval(floor: float) -> Ends:
    """Student's 95 % interval of the mean, down to ``floor``; none with a single value."""

    def ends(values: pd.Series) -> tuple[float, float]:
        from scipy.stats import t  # half a second

        half = t.ppf(0.975, len(values) - 1) * values.sem() if len(values) > 1 else nan
        return max(values.mean() - half, floor), values.mean() + half

    return ends


def extremes(values: pd.Series) -> tuple[float, float]:
    """The smallest and the largest value."""
    return values.min(), values.max()


def curve(
    axes: Axes, rows: pd.DataFrame, x: str, y: str, *, ends: Ends, band: bool = False, **style: Any
) -> None:
    """A line through the means over seeds, with bars or a band.

    Axes become logarithmic afterwards: seaborn averages in the units of the axis.
    """
    import seaborn as sns  # a second

    sns.lineplot(
        rows,
        x=x,
        y=y,
        orient="y" if x == "value" else "x",
        errorbar=ends,
        err_style="band" if band else "bars",
        err_kws={"alpha": 0.15, "lw": 0} if band else {"marker": "", "elinewidth": 0.8},
        legend=False,
        ax=axes,
        **style,
    )


def curves(axes: Axes, rows: pd.DataFrame, *, x: str, by: Sequence[str], always_log: bool = False) -> None:
    """A curve with bars for each combination of the columns ``by``, over ``x``."""
    low = floor(rows["value"], always_log=always_log)
    for line, style in lines(rows, *by):
        curve(axes, line, x, "value", ends=deviation(low), **style)
    if low > 0:
        log_scale(axes, "y", rows["value"])


def distance_curves(path: Path, scores: pd.DataFrame, *, ylabel: str) -> None:
    """Draw mean and range over seeds of the Fréchet distance at every snapshot, a curve per coupling.

    ``scores`` has a row per snapshot and seed: `coupling`, `step`, `value`.
    """
    with mpl.rc_context(fname=STYLE), replacing(path) as temporary:
        figure = Figure(figsize=(5.6, 3.6))
        axes = figure.subplots()
        for line, style in lines(scores, "coupling"):
            style["markeredgewidth"] = 0.75
            curve(
                axes,
                line,
                "step",
                "value",
                ends=lambda values: (values.min(), values.max()),
                band=True,
                **style,
            )
        log_scale(axes, "y", scores["value"])
        axes.set(xlabel="training steps", ylabel=ylabel)
        axes.legend(title="coupling")
        figure.savefig(temporary, format=path.suffix[1:])


def number(value: float, _: object = None) -> str:
    """A tick's label: 0.05, 200, 3×10⁻⁶; a power of ten where that is shorter to read."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:zg}"
    digits, exponent = f"{value:e}".split("e")
    power = f"10^{{{int(exponent)}}}"
    return f"${power}$" if float(digits) == 1 else rf"${float(digits):g}\times{power}$"


def log_scale(axes: Axes, which: str, values: Collection[float]) -> None:
    """Make the axis ``which`` ("x" or "y") logarithmic, with about five labels for its ``values``."""
    low, high = min(values), max(values)
    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    if high < 8 * low:
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    else:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,), numticks=8))
    axis.set_major_formatter(FuncFormatter(number))
    axis.set_minor_locator(NullLocator())


def few_ticks(axes: Axes, xs: Sequence[float]) -> None:
    """A tick at every value of x, if there are at most eight."""
    if len(xs) <= 8:
        axes.set_xticks(xs)
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
        axes.xaxis.set_minor_locator(NullLocator())
        axes.text(low / 2, 0, "//", transform=axes.get_xaxis_transform(), ha="center", va="center_baseline")
    few_ticks(axes, xs)


def unit(against: str, largest: float) -> tuple[float, str]:
    """The divisor of x in a kind of budget, and the label of its axis."""
    if against == "seconds":
        sizes = ((3600, "hours"), (60, "minutes"), (0, "seconds"))
        size, name = next(each for each in sizes if largest > 3 * each[0])
        return size or 1, f"training {name}"
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
