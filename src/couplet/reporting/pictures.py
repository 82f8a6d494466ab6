"""Images and points as pictures: the preview of a data set, and samples side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from couplet.config.datasets import is_plane
from couplet.data.archive import Split
from couplet.files import replacing

STYLE = Path(__file__).with_name("couplet.mplstyle")
"""The look that all figures share."""

IMAGES, POINTS, PREVIEW_POINTS = 36, 1000, 5000
"""Images or points in a panel of samples, and points in a preview, at most."""

ROWS, COLUMNS = 10, 10
TILE, LARGEST, GAP, NAMES = 64, 256, 4, 110
"""Of a preview: smallest and largest side of an image, gap, width of the class names; in pixels."""

DOT, AXIS = 2, 220
"""Side of a point in pixels; grey value of the axes."""
COLOURS = np.array([(31, 119, 180), (214, 39, 40)], np.uint8)
"""RGB colour of the points of a class; classes take turns."""


def evenly(length: int, count: int) -> NDArray[np.int64]:
    """Indices of at most ``count`` items, evenly spaced: many data sets are sorted by class."""
    return np.linspace(0, length - 1, min(count, length)).astype(int)


def scatter(images: NDArray[np.uint8], labels: NDArray[np.int64] | None = None) -> NDArray[np.uint8]:
    """Draw points [n, 1, 1, 2] and axes of the square [-1, 1]² as a picture, uint8 [512, 512, 3].

    The second coordinate points up. ``labels`` are class indices [n], which decide the colours.
    """
    picture = np.full((256, 256, 3), 255, np.uint8)
    picture[[127, 128]] = picture[:, [127, 128]] = AXIS
    x, y = images[:, 0, 0].T
    picture[255 - y, x] = COLOURS[0 if labels is None else labels % len(COLOURS)]
    return picture.repeat(DOT, axis=0).repeat(DOT, axis=1)


def contact_sheet(split: Split, classes: tuple[str, ...]) -> Image.Image:
    """Draw the first images of each class in a row; of more than ten classes, ten that are evenly spaced.

    Without classes: images evenly spaced in the split. Points of the plane: a scatter plot.
    """
    if is_plane(split.images.shape[1:]):
        chosen = evenly(len(split), PREVIEW_POINTS)
        return Image.fromarray(scatter(split.images[chosen], split.labels[chosen]))
    longer = max(split.images.shape[1:3])
    shrink, scale = -(-longer // LARGEST), -(-TILE // longer)
    height, width = (-(-side // shrink) * scale for side in split.images.shape[1:3])
    left = GAP + (NAMES if classes else 0)
    rows = _rows(split, classes)
    step_x, step_y = width + GAP, height + GAP
    columns = max(len(indices) for _, indices in rows)
    sheet = Image.new("RGB", (left + columns * step_x, GAP + len(rows) * step_y), "white")
    for y, (name, indices) in enumerate(rows):
        top = GAP + y * step_y
        ImageDraw.Draw(sheet).text((GAP, top + step_y // 2), name[:16], fill="black")
        for x, index in enumerate(indices):
            pixels = split.images[index]
            image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).reduce(shrink)
            sheet.paste(image.resize((width, height), Image.Resampling.NEAREST), (left + x * step_x, top))
    return sheet


def _rows(split: Split, classes: tuple[str, ...]) -> list[tuple[str, list[int]]]:
    if not classes:
        indices = np.unique(np.linspace(0, len(split) - 1, ROWS * COLUMNS).round().astype(int)).tolist()
        return [("", indices[start : start + COLUMNS]) for start in range(0, len(indices), COLUMNS)]
    labels = np.asarray(split.labels)
    chosen = np.unique(np.linspace(0, len(classes) - 1, ROWS).round().astype(int))
    return [(classes[label], np.flatnonzero(labels == label)[:COLUMNS].tolist()) for label in chosen]


def panel_size(shape: tuple[int, ...]) -> int:
    """Number of images [h, w, c] of this shape in a panel."""
    return POINTS if is_plane(shape) else IMAGES


def tile(images: NDArray[np.uint8], columns: int = 6) -> NDArray[np.uint8]:
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


def sample_grids(path: Path, panels: Mapping[str, Mapping[str, NDArray[np.uint8]]]) -> None:
    """Draw panels of samples: a row per NFE, a column per coupling.

    ``panels[row][column]`` has images [n, h, w, c], of which the first :func:`panel_size` are drawn; image i
    of every panel in a row has the same noise. A column without a panel in a row is empty there.
    """
    names = list(dict.fromkeys(name for row in panels.values() for name in row))
    # Imported here because it takes half a second and other pictures do not need it.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"axes.grid": False}, fname=STYLE), replacing(path) as temporary:
        figure = Figure(figsize=(2.2 * len(names), 2.4 * len(panels)), layout="constrained")
        axes = figure.subplots(len(panels), len(names), squeeze=False)
        for axis, name in zip(axes[0], names, strict=True):
            axis.set_title(name)
        for line, (row, images) in zip(axes, panels.items(), strict=True):
            for axis, name in zip(line, names, strict=True):
                axis.axis("off")
                if name in images:
                    picture = tile(images[name][: panel_size(images[name].shape[1:])])
                    axis.imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=255, aspect="equal")
            line[0].axis("on")
            line[0].set(xticks=[], yticks=[], ylabel=row)
        figure.savefig(temporary, format=path.suffix[1:])
