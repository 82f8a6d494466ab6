"""The look that all figures share: style file, tick labels, logarithmic axes."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

STYLE = Path(__file__).with_name("couplet.mplstyle")


def number(value: float, _: object = None) -> str:
    """A tick's label: 0.05, 200, 3×10⁻⁶; a power of ten where that is shorter to read."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:g}"
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
