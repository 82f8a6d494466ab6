"""The pictures of studies, from numbers of single seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import singledispatch
from itertools import product
from math import ceil, isfinite, isnan
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from couplet.config.study import (
    DotsConfig,
    EvaluationsConfig,
    FigureConfig,
    PlaneConfig,
    ProbeFigureConfig,
    StepsConfig,
    SweepConfig,
)
from couplet.files import replacing
from couplet.reporting.figures import STYLE, log_scale, number

Row = Mapping[str, Any]
Line = tuple[str, int | None]
"""What is drawn as one curve: a row's label and its NFE, None where rows have none."""

WIDTH = 5.5
"""Of a text column, in inches."""

LINKS = 150
"""Lines between points in a panel of the plane; more would be a grey area."""


def draw(figure: FigureConfig, rows: Sequence[Row], out: Path, *, ylabel: str) -> None:
    """Writes ``out`` twice, with the suffixes .svg and .png; the same rows give the same bytes.

    Args:
        figure: what is drawn; see :func:`render` for the columns that ``rows`` need.
        rows: one for each seed, never averaged.
        out: the file's name; its suffix, which it must have, is replaced.
        ylabel: what the values are, with their unit.

    Raises:
        TypeError: nothing draws the figure's class.
        ValueError: ``rows`` do not fit the figure; the message names the column or the row.
        UserError: a file cannot be written.
    """
    with mpl.rc_context(fname=STYLE):
        drawn = render(figure, rows, ylabel)
        for suffix, metadata in ((".svg", {"Date": None}), (".png", None)):
            with replacing(out.with_suffix(suffix)) as temporary:
                drawn.savefig(temporary, format=suffix[1:], metadata=metadata)


@singledispatch
def render(figure: FigureConfig, rows: Sequence[Row], ylabel: str) -> Figure:
    """The figure, in the style that is set. Labels stand in the order of their first row.

    Columns of every row but a plane's: ``row`` (label), ``seed``, ``value``; and

    - dots, evaluations: ``nfe``;
    - sweep: ``nfe``, ``x``;
    - steps: ``nfe``, ``x``, ``against`` ("steps", "seconds" or "evaluations", what x counts);
    - probe: ``x``, a noise level, or a training step where gradients are probed;
    - plane: ``row``, ``part``, ``component`` (0 or 1) and ``x0``, ``y0``, ``x1``, ``y1``: noise and what one
      evaluation makes of it ("sample"), data and its noise ("pair"), mean and standard deviations of a
      Gaussian ("posterior").

    A mark is the mean over seeds, its bar or band the sample standard deviation, left out for a single seed.

    Raises:
        TypeError: nothing draws the figure's class.
        ValueError: there is no row, a column is missing, a number is not finite, or a seed is there twice.
    """
    raise TypeError(f"no picture for {type(figure).__name__}")


@render.register
def _dots(figure: DotsConfig, rows: Sequence[Row], ylabel: str) -> Figure:
    points = _by_seed(figure, rows, "row", "nfe")
    labels, nfes = _unique(rows, "row"), sorted(_unique(rows, "nfe"))
    marks = _styles([(labels[0], nfe) for nfe in nfes])
    spacing = min(0.22, 0.7 / len(nfes))
    height = len(labels) * max(0.24, 0.11 * len(nfes) + 0.06)
    picture, axes = _panels(1, height=height + 0.75)
    floor = _value_scale(axes[0], "x", [row["value"] for row in rows])
    for j, nfe in enumerate(nfes):
        there = [(i, points[label, nfe]) for i, label in enumerate(labels) if (label, nfe) in points]
        y = np.array([i for i, _ in there]) + (j - (len(nfes) - 1) / 2) * spacing
        spreads = [_spread(list(seeds.values()), floor) for _, seeds in there]
        style = {**marks[labels[0], nfe], "linestyle": "none", "zorder": 3}
        means, name = [s.mean for s in spreads], f"NFE {nfe}"
        axes[0].errorbar(means, y, xerr=_bars(spreads), label=name, elinewidth=0.8, **style)
        # Below their mean, which would cover them.
        singles = [
            (value, at + 0.45 * spacing)
            for (_, seeds), at in zip(there, y, strict=True)
            for value in seeds.values()
        ]
        faint = {**style, "markersize": 2.2, "markeredgewidth": 0.5, "alpha": 0.5, "zorder": 2}
        axes[0].plot(*zip(*singles, strict=True), **faint)
    axes[0].set(xlabel=ylabel, yticks=range(len(labels)), yticklabels=labels, ylim=(len(labels) - 0.5, -0.5))
    axes[0].tick_params(axis="y", length=0)
    _legend(picture, axes[0])
    return picture


@render.register
def _sweep(figure: SweepConfig, rows: Sequence[Row], ylabel: str) -> Figure:
    points = _by_seed(figure, rows, "row", "nfe", "x")
    picture, axes = _panels(1)
    _lines(axes[0], {((row, nfe), x): seeds for (row, nfe, x), seeds in points.items()})
    axes[0].set(xlabel=figure.xlabel, ylabel=ylabel)
    xs = sorted(_unique(rows, "x"))
    if figure.log:
        _log_with_zero(axes[0], xs)
    elif len(xs) <= 8:
        axes[0].xaxis.set_major_locator(FixedLocator(xs))
        axes[0].xaxis.set_major_formatter(FuncFormatter(number))
    _legend(picture, axes[0])
    return picture


def _log_with_zero(axes: Axes, xs: Sequence[float]) -> None:
    """A logarithmic x axis, on which 0 stands left of a break.

    Raises:
        ValueError: a value is negative, or none is positive.
    """
    positive = [x for x in xs if x > 0]
    if xs[0] < 0 or not positive:
        raise ValueError(f"x = {xs[0]:g}: a logarithmic axis has no place for it")
    low, high = positive[0], positive[-1]
    if xs[0] > 0:
        log_scale(axes, "x", low, high)
    else:
        axes.set_xscale("symlog", linthresh=low, linscale=0.5)
        axes.set_xlim(-0.15 * low, high * (high / low) ** 0.05 if high > low else 2 * high)
        axes.xaxis.set_minor_locator(FixedLocator([]))
        axes.text(low / 2, 0, "//", transform=axes.get_xaxis_transform(), ha="center", va="center_baseline")
    if len(xs) <= 8:
        axes.xaxis.set_major_locator(FixedLocator(xs))
        axes.xaxis.set_major_formatter(FuncFormatter(number))


@render.register
def _steps(figure: StepsConfig, rows: Sequence[Row], ylabel: str) -> Figure:
    points = _by_seed(figure, rows, "against", "row", "nfe", "x", together=("x",))
    values = [row["value"] for row in rows]
    picture, axes = _panels(len(figure.against), sharey=True)
    styles = _styles(list(dict.fromkeys((row, nfe) for _, row, nfe in points)))
    names = _names(styles)
    for axis, against in zip(axes, figure.against, strict=True):
        here = {(row, nfe): seeds for (kind, row, nfe), seeds in points.items() if kind == against}
        if not here:
            raise ValueError(f"against: no row has {against!r}")
        floor = _value_scale(axis, "y", values, always=True)
        scale, label = _unit(
            against, max(x for seeds in here.values() for xs in seeds.values() for x, _ in xs)
        )
        for line, seeds in here.items():
            if len({len(snapshots) for snapshots in seeds.values()}) > 1:
                raise ValueError(f"row = {line[0]!r}: its seeds have different numbers of snapshots")
            curve = np.array(
                [sorted(snapshots) for snapshots in seeds.values()]
            )  # [seeds, snapshots, x and y]
            x = curve[:, :, 0].mean(0) / scale
            spreads = [_spread(snapshot, floor) for snapshot in curve[:, :, 1].T]
            style = {"markevery": max(1, len(x) // 8), **styles[line]}
            (drawn,) = axis.plot(x, [s.mean for s in spreads], label=names[line], **style)
            low, high = [s.low for s in spreads], [s.high for s in spreads]
            axis.fill_between(x, low, high, color=drawn.get_color(), alpha=0.15, lw=0)
        axis.set_xlabel(label)
    axes[0].set_ylabel(ylabel)
    _legend(picture, axes[0])
    return picture


def _unit(against: str, largest: float) -> tuple[float, str]:
    """What x is divided by, and the axis' label."""
    if against == "seconds":
        for size, name in ((3600, "hours"), (60, "minutes")):
            if largest > 3 * size:
                return size, f"training {name} (as measured)"
        return 1, "training seconds (as measured)"
    what = {"steps": "training steps", "evaluations": "network evaluations\nper training image"}[against]
    for exponent, sign in ((6, "⁶"), (3, "³")):
        if largest >= 2 * 10**exponent:
            return 10**exponent, f"{what} (×10{sign})"
    return 1, what


@render.register
def _evaluations(figure: EvaluationsConfig, rows: Sequence[Row], ylabel: str) -> Figure:
    points = _by_seed(figure, rows, "row", "nfe")
    picture, axes = _panels(1)
    _lines(axes[0], {((row, None), nfe): seeds for (row, nfe), seeds in points.items()})
    axes[0].set(xlabel="network evaluations per sample (NFE)", ylabel=ylabel)
    axes[0].xaxis.set_major_locator(MaxNLocator(8, integer=True))
    _legend(picture, axes[0])
    return picture


@render.register
def _probe(figure: ProbeFigureConfig, rows: Sequence[Row], ylabel: str) -> Figure:
    points = _by_seed(figure, rows, "row", "x")
    picture, axes = _panels(1)
    scale, label = 1.0, "noise level t"
    xs = sorted(_unique(rows, "x"))
    if figure.probe == "gradient":
        scale, label = _unit("steps", xs[-1])
    else:
        _log_with_zero(axes[0], xs)
    _lines(axes[0], {((row, None), x / scale): seeds for (row, x), seeds in points.items()}, always=True)
    axes[0].set(xlabel=label, ylabel=ylabel)
    _legend(picture, axes[0])
    return picture


PARTS = ("sample", "pair", "posterior")
COMPONENTS: tuple[dict[str, Any], ...] = (
    {"color": "#0b3d73", "linestyle": "-", "marker": "o"},
    {"color": "#e08a1e", "linestyle": (0, (4, 1.5)), "marker": "^"},
)
"""Dark, solid and round; light, dashed and triangular: apart in grey."""
PRIOR: dict[str, Any] = {"color": "0.25", "linestyle": ":", "linewidth": 0.9}
NOISE: dict[str, Any] = {"linestyle": "none", "marker": ".", "markersize": 3.2, "markeredgewidth": 0}
DATA: dict[str, Any] = {
    "linestyle": "none",
    "markersize": 3.4,
    "markeredgecolor": "white",
    "markeredgewidth": 0.25,
    "zorder": 4,
}


@render.register
def _plane(figure: PlaneConfig, rows: Sequence[Row], ylabel: str) -> Figure:
    _check(figure, rows, text=("row", "part"), numbers=("component", "x0", "y0", "x1", "y1"))
    for row in rows:
        for column, allowed in (("part", PARTS), ("component", (0, 1))):
            if row[column] not in allowed:
                raise ValueError(
                    f"{column} = {row[column]!r}: must be one of {', '.join(map(repr, allowed))}"
                )
    labels = _unique(rows, "row")
    limit = 1.05 * max(2.0, *(abs(number) for row in rows for number in _reach(row)))
    size = min(1.85, 7.2 / len(labels))
    picture = Figure(figsize=(size * len(labels) + 0.5, 2 * size + 0.85), layout="constrained")
    axes = picture.subplots(2, len(labels), sharex=True, sharey=True, squeeze=False)
    for j, label in enumerate(labels):
        here = {part: [row for row in rows if (row["row"], row["part"]) == (label, part)] for part in PARTS}
        _one_step_map(axes[0][j], here["sample"], here["posterior"])
        _pairs(axes[1][j], here["pair"])
        axes[0][j].set_title(label)
        axes[1][j].set_xlabel("x₁ (data units)")
    for axis, name in zip(axes[:, 0], ("one-step map", "pairs in training"), strict=True):
        axis.set_ylabel(f"{name}\nx₂ (data units)")
    for axis in axes.flat:
        axis.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
        axis.grid(visible=False)
        axis.locator_params(nbins=5)
    handles = _plane_handles(with_posterior=any(row["part"] == "posterior" for row in rows))
    picture.legend(handles=handles, loc="outside lower center", ncols=max(1, min(3, len(labels))))
    return picture


def _plane_handles(*, with_posterior: bool) -> list[Line2D]:
    """What the legend shows; lines, since an ellipse would be a box there."""
    handles = [
        Line2D([], [], label="prior N(0, I), 1 and 2 std", **PRIOR),
        Line2D([], [], label="noise", color=COMPONENTS[0]["color"], **NOISE),
    ]
    for k, style in enumerate(COMPONENTS):
        mark = {**DATA, "color": style["color"], "marker": style["marker"]}
        handles.append(Line2D([], [], label=f"mode {k + 1}: data, generated", **mark))
    for k, style in enumerate(COMPONENTS if with_posterior else ()):
        line = {"color": style["color"], "linestyle": style["linestyle"], "linewidth": 1.3}
        handles.append(Line2D([], [], label=f"mode {k + 1}: posterior, 1 and 2 std", **line))
    return handles


def _reach(row: Row) -> tuple[float, ...]:
    """The coordinates that must lie in the panel."""
    if row["part"] == "posterior":
        return abs(row["x0"]) + 2 * row["x1"], abs(row["y0"]) + 2 * row["y1"]
    return row["x0"], row["y0"], row["x1"], row["y1"]


def _one_step_map(axes: Axes, samples: Sequence[Row], posteriors: Sequence[Row]) -> None:
    """Noise and what one evaluation makes of it, over the posteriors and the prior N(0, I)."""
    _links(axes, samples, color="0.55", linestyle="-", alpha=0.6)
    _ellipses(axes, 0, 0, 1, 1, **PRIOR)
    for k, style in enumerate(COMPONENTS):
        x0, y0, x1, y1 = _coordinates(samples, k)
        axes.plot(x0, y0, color=style["color"], alpha=0.55, **NOISE)
        axes.plot(x1, y1, color=style["color"], marker=style["marker"], **DATA)
        for gaussian in zip(*_coordinates(posteriors, k), strict=True):
            _ellipses(axes, *gaussian, color=style["color"], linestyle=style["linestyle"], linewidth=1.3)


def _pairs(axes: Axes, pairs: Sequence[Row]) -> None:
    """Lines from data to the noise that it is paired with."""
    for k, style in enumerate(COMPONENTS):
        x0, y0, x1, y1 = _coordinates(pairs, k)
        of = [row for row in pairs if row["component"] == k]
        _links(axes, of, color=style["color"], linestyle=style["linestyle"], alpha=0.55)
        axes.plot(x1, y1, color=style["color"], **NOISE)
        axes.plot(x0, y0, color=style["color"], marker=style["marker"], **DATA)


def _ellipses(axes: Axes, x: float, y: float, std_x: float, std_y: float, **style: Any) -> None:
    """N((x, y), diag(std_x², std_y²)) at one and two standard deviations."""
    for k in (1, 2):
        axes.add_patch(Ellipse((x, y), 2 * k * std_x, 2 * k * std_y, fill=False, zorder=3, **style))


def _coordinates(rows: Sequence[Row], component: int) -> list[list[float]]:
    """The columns x0, y0, x1 and y1 of a component."""
    of = [row for row in rows if row["component"] == component]
    return [[row[column] for row in of] for column in ("x0", "y0", "x1", "y1")]


def _links(axes: Axes, rows: Sequence[Row], **style: Any) -> None:
    """Thin lines between both points of at most LINKS rows."""
    shown = np.linspace(0, len(rows) - 1, min(LINKS, len(rows))).astype(int)
    for row in (rows[i] for i in shown):
        axes.plot((row["x0"], row["x1"]), (row["y0"], row["y1"]), marker="", linewidth=0.4, zorder=1, **style)


class _Spread(NamedTuple):
    mean: float
    low: float
    high: float
    """Mean minus and plus the sample standard deviation; NaN for a single seed."""


def _spread(values: Sequence[float], floor: float) -> _Spread:
    """Mean and spread over seeds; the spread does not go below ``floor``."""
    mean = float(np.mean(values))
    std = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return _Spread(mean, np.maximum(mean - std, floor), mean + std)


def _bars(spreads: Sequence[_Spread]) -> tuple[list[float], list[float]] | None:
    """Lengths of the bars to both sides of the means; None if every one is of a single seed."""
    if all(isnan(s.low) for s in spreads):
        return None
    return [s.mean - s.low for s in spreads], [s.high - s.mean for s in spreads]


def _lines(
    axes: Axes, points: Mapping[tuple[Line, float], Mapping[int, float]], *, always: bool = False
) -> None:
    """A curve with bars for each line, over x; ``points[line, x]`` holds a value for each seed."""
    values = [value for seeds in points.values() for value in seeds.values()]
    floor = _value_scale(axes, "y", values, always=always)
    styles = _styles(list(dict.fromkeys(line for line, _ in points)))
    names = _names(styles)
    for line, style in styles.items():
        curve = sorted((x, list(seeds.values())) for (of, x), seeds in points.items() if of == line)
        spreads = [_spread(seeds, floor) for _, seeds in curve]
        x, mean = [x for x, _ in curve], [s.mean for s in spreads]
        axes.errorbar(x, mean, yerr=_bars(spreads), label=names[line], elinewidth=0.8, **style)


def _value_scale(axes: Axes, which: str, values: Sequence[float], *, always: bool = False) -> float:
    """Makes the axis logarithmic if values span more than a decade, or ``always``, and are all positive.

    Returns the lowest end of a bar: half the smallest value where there is no place for 0.
    """
    low, high = min(values), max(values)
    if low <= 0 or not (always or high / low > 10):
        return float("-inf")
    log_scale(axes, which, low, high)
    return low / 2


def _styles(lines: Sequence[Line]) -> dict[Line, dict[str, Any]]:
    """Colour and marker by row; line and filling by NFE where there are several of both."""
    rows, nfes = (list(dict.fromkeys(column)) for column in zip(*lines, strict=True))
    cycle = list(mpl.rcParams["axes.prop_cycle"])
    styles = {}
    for row, nfe in lines:
        i, j = (rows.index(row), nfes.index(nfe)) if len(rows) > 1 else (nfes.index(nfe), 0)
        style = dict(cycle[i % len(cycle)])
        if len(rows) > 1 and len(nfes) > 1:
            style["linestyle"] = cycle[j % len(cycle)]["linestyle"]
        if (i // len(cycle) + j + (i if len(rows) == 1 else 0)) % 2:
            style["markerfacecolor"] = "white"
        styles[row, nfe] = style
    return styles


def _names(lines: Iterable[Line]) -> dict[Line, str]:
    """What tells a line from the others: its label, its NFE, or both."""
    lines = list(lines)
    rows, nfes = {row for row, _ in lines}, {nfe for _, nfe in lines}
    names = {}
    for row, nfe in lines:
        parts = [row] if len(rows) > 1 or nfe is None else []
        parts += [f"NFE {nfe}"] if nfe is not None and (len(nfes) > 1 or not parts) else []
        names[row, nfe] = ", ".join(parts)
    return names


def _panels(count: int, *, height: float = 2.8, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side."""
    picture = Figure(figsize=(WIDTH if count < 3 else 7.2, height), layout="constrained")
    return picture, list(picture.subplots(1, count, sharey=sharey, squeeze=False)[0])


def _legend(picture: Figure, axes: Axes) -> None:
    """A legend above the panels if something is to be told apart: one line, or columns of equal height."""
    handles, names = axes.get_legend_handles_labels()
    room = picture.get_figwidth() / (0.06 * max(map(len, names)) + 0.5)
    lines = (
        1
        if len(names) * 0.5 + 0.055 * len("".join(names)) < picture.get_figwidth()
        else ceil(len(names) / room)
    )
    picture.legend(handles, names, loc="outside upper center", ncols=ceil(len(names) / lines))


def _unique(rows: Sequence[Row], column: str) -> list[Any]:
    """A column's values, each once, in their order."""
    return list(dict.fromkeys(row[column] for row in rows))


def _check(figure: FigureConfig, rows: Sequence[Row], *, text: Sequence[str], numbers: Sequence[str]) -> None:
    """Raises ValueError if there is no row, a column is missing or a number is not finite."""
    if not rows:
        raise ValueError(f"{figure.kind}: there is no row to draw")
    for row, column in product(rows, (*text, *numbers)):
        if column not in row:
            raise ValueError(f"{figure.kind}: a row lacks {column}: {dict(row)}")
        if column in numbers and not isfinite(row[column]):
            raise ValueError(f"{figure.kind}: {column} = {row[column]} is not a number to draw: {dict(row)}")


def _by_seed(
    figure: FigureConfig, rows: Sequence[Row], *keys: str, together: Sequence[str] = ()
) -> dict[tuple[Any, ...], dict[int, Any]]:
    """Values of each seed by the columns ``keys``, in the order of the rows.

    Columns that stand in ``together`` do not tell entries apart: a seed then has a list of (x, value).

    Raises:
        ValueError: see :func:`render`.
    """
    text = ("row", "against")
    numbers = [key for key in keys if key not in text]
    _check(figure, rows, text=[key for key in keys if key in text], numbers=[*numbers, "seed", "value"])
    found: dict[tuple[Any, ...], dict[int, Any]] = {}
    seen = set()
    for row in rows:
        key = tuple(row[name] for name in keys)
        if (*key, row["seed"]) in seen:
            raise ValueError(f"{figure.kind}: seed {row['seed']} is there twice: {dict(row)}")
        seen.add((*key, row["seed"]))
        seeds = found.setdefault(tuple(row[name] for name in keys if name not in together), {})
        if together:
            seeds.setdefault(row["seed"], []).append((row["x"], row["value"]))
        else:
            seeds[row["seed"]] = row["value"]
    return found
