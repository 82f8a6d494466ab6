"""Pictures of the grid: samples side by side, and distance against training steps."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from couplet.config.datasets import is_plane
from couplet.files import replacing
from couplet.reporting.preview import scatter
from couplet.reporting.style import STYLE, log_scale

if TYPE_CHECKING:
    import pandas as pd

mpl.use("Agg")
from matplotlib import pyplot as plt

IMAGES, POINTS = 36, 1000
"""Images or points in a panel, at most."""


def panel_size(shape: tuple[int, ...]) -> int:
    """Number of images [h, w, c] of this shape in a panel."""
    return POINTS if is_plane(shape) else IMAGES


def tile(images: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
    """Images [n, h, w, c] as one picture with thin grey lines; the end of the last row is grey.

    Points of the plane, [n, 1, 1, 2], become a scatter plot, [512, 512, 3].
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
    """Draw panels of samples: a row per NFE, a column per coupling.

    ``panels[row][column]`` has images [n, h, w, c], of which the first :func:`panel_size` are drawn; image i
    of every panel in a row has the same noise. A column without a panel in a row is empty there.
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


def distance_curves(path: Path, scores: pd.DataFrame, *, ylabel: str) -> None:
    """Draw mean and range over seeds of the Fréchet distance at every snapshot, a curve per coupling.

    ``scores`` has a row per snapshot and seed: `coupling`, `step`, `value`.
    """
    import seaborn as sns  # a second

    with mpl.rc_context(fname=STYLE), replacing(path) as temporary:
        figure, axis = plt.subplots(figsize=(5.6, 3.6))
        styles = cycle(mpl.rcParams["axes.prop_cycle"])
        for name, curve in scores.groupby("coupling", sort=False):
            style = {**next(styles), "markeredgecolor": "auto", "errorbar": ("pi", 100), "legend": False}
            err_kws = {"alpha": 0.15, "lw": 0}
            sns.lineplot(curve, x="step", y="value", label=name, ax=axis, err_kws=err_kws, **style)
        log_scale(axis, "y", scores["value"])
        axis.set(xlabel="training steps", ylabel=ylabel)
        axis.legend(title="coupling")
        figure.savefig(temporary, format=path.suffix[1:])
        plt.close(figure)
