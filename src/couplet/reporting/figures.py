"""Pictures of the grid: samples side by side, and distance against training steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from couplet.config.datasets import is_plane
from couplet.files import replacing
from couplet.reporting.preview import scatter

mpl.use("Agg")
from matplotlib import pyplot as plt

STYLE = Path(__file__).with_name("couplet.mplstyle")
"""Of every figure of the project."""


def number(value: float, _: object = None) -> str:
    """A tick's label: 0.05, 200, 3×10⁻⁶; a power of ten where that is shorter to read."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:g}"
    digits, exponent = f"{value:e}".split("e")
    power = f"10^{{{int(exponent)}}}"
    return f"${power}$" if float(digits) == 1 else rf"${float(digits):g}\times{power}$"


def log_scale(axes: Axes, which: str, low: float, high: float) -> None:
    """Makes the axis ``which`` ("x" or "y") logarithmic, with some five labels for values in [low, high]."""
    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    if high < 8 * low:
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    else:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,), numticks=8))
    axis.set_major_formatter(FuncFormatter(number))
    axis.set_minor_locator(NullLocator())


IMAGES, POINTS = 36, 1000
"""What a panel shows."""


def panel_size(shape: tuple[int, ...]) -> int:
    """How many images [h, w, c] of this shape a panel shows."""
    return POINTS if is_plane(shape) else IMAGES


def tile(images: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
    """Images [n, h, w, c] as one picture with thin grey lines; what is missing in the last row is grey.

    Points of the plane, [n, 1, 1, 2], are drawn as such: [512, 512, 3].
    """
    if is_plane(images.shape[1:]):
        return scatter(images)
    gap = max(1, images.shape[1] // 16)
    missing = -len(images) % columns
    images = np.pad(images, ((0, missing), (0, gap), (0, gap), (0, 0)), constant_values=110)
    n, height, width, channels = images.shape
    grid = images.reshape(n // columns, columns, height, width, channels)
    return grid.transpose(0, 2, 1, 3, 4).reshape(-1, columns * width, channels)


def sample_grids(
    path: Path, panels: Mapping[str, Mapping[str, NDArray[np.uint8]]], *, columns: int = 6
) -> None:
    """Panels of samples: a row per NFE, a column per coupling.

    ``panels[row][column]`` holds images [n, h, w, c], of which the first :func:`panel_size` are shown;
    image i of every panel in a row has the same noise. Columns without a panel in a row stay empty there.
    """
    rows = list(panels)
    names = list(dict.fromkeys(name for row in panels.values() for name in row))
    with mpl.rc_context({"axes.grid": False}, fname=STYLE), replacing(path) as temporary:
        figure, axes = plt.subplots(
            len(rows),
            len(names),
            squeeze=False,
            figsize=(2.2 * len(names), 2.4 * len(rows)),
            layout="constrained",
        )
        for i, row in enumerate(rows):
            for j, name in enumerate(names):
                axis = axes[i][j]
                axis.axis("off")
                if name not in panels[row]:
                    continue
                images = panels[row][name]
                picture = tile(images[: panel_size(images.shape[1:])], columns)
                axis.imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=255, aspect="equal")
                if i == 0:
                    axis.set_title(name)
            axes[i][0].axis("on")
            axes[i][0].set(xticks=[], yticks=[], ylabel=row)
        figure.savefig(temporary, format=path.suffix[1:])
        plt.close(figure)


def distance_curves(path: Path, curves: Mapping[str, Sequence[Mapping[int, float]]], *, ylabel: str) -> None:
    """Mean and range over seeds of the Fréchet distance at every snapshot, one curve per name.

    ``curves[name]`` holds one {step: distance} per seed.
    """
    with mpl.rc_context(fname=STYLE), replacing(path) as temporary:
        figure, axis = plt.subplots(figsize=(5.6, 3.6))
        for name, seeds in curves.items():
            steps = sorted(seeds[0])
            values = np.array([[seed[step] for step in steps] for seed in seeds])
            (line,) = axis.plot(steps, values.mean(0), label=name)
            axis.fill_between(steps, values.min(0), values.max(0), color=line.get_color(), alpha=0.15, lw=0)
        log_scale(axis, "y", axis.dataLim.ymin, axis.dataLim.ymax)
        axis.set_xlabel("training steps")
        axis.set_ylabel(ylabel)
        axis.legend(title="coupling")
        figure.savefig(temporary, format=path.suffix[1:])
        plt.close(figure)
