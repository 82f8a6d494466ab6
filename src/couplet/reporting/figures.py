"""Pictures of the grid: samples side by side, and distance against training steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from couplet.data.preview import are_points, scatter
from couplet.files import replacing

mpl.use("Agg")
from matplotlib import pyplot as plt

STYLE: dict[Any, Any] = {
    "figure.dpi": 150,
    "savefig.bbox": "tight",
    "font.size": 9,
    "axes.grid": True,
    "axes.grid.which": "both",
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
LINES = ("-", "--", "-.", ":")
MARKERS = "osD^vP*X"
"""Line and marker tell curves apart in grey."""

IMAGES, POINTS = 36, 1000
"""What a panel shows."""


def panel_size(shape: tuple[int, ...]) -> int:
    """How many images [h, w, c] of this shape a panel shows."""
    return POINTS if are_points(shape) else IMAGES


def tile(images: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
    """Images [n, h, w, c] as one picture with thin grey lines; what is missing in the last row is grey.

    Points of the plane, [n, 1, 1, 2], are drawn as such: [512, 512, 3].
    """
    if are_points(images.shape[1:]):
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
    with mpl.rc_context({**STYLE, "axes.grid": False}), replacing(path) as temporary:
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
    with mpl.rc_context(STYLE), replacing(path) as temporary:
        figure, axis = plt.subplots(figsize=(5.6, 3.6))
        for i, (name, seeds) in enumerate(curves.items()):
            steps = sorted(seeds[0])
            values = np.array([[seed[step] for step in steps] for seed in seeds])
            (line,) = axis.plot(
                steps,
                values.mean(0),
                LINES[i % len(LINES)] + MARKERS[i % len(MARKERS)],
                label=name,
                markersize=4,
            )
            axis.fill_between(steps, values.min(0), values.max(0), color=line.get_color(), alpha=0.15, lw=0)
        axis.set_yscale("log")
        axis.set_xlabel("training steps")
        axis.set_ylabel(ylabel)
        axis.legend(title="coupling", frameon=False)
        figure.savefig(temporary, format=path.suffix[1:])
        plt.close(figure)
