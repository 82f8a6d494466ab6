"""Picture of a data set, for people: a contact sheet of its images, or its points in the plane."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from couplet.config.datasets import is_plane
from couplet.data.archive import Split

ROWS, COLUMNS = 10, 10
TILE, LARGEST, GAP, NAMES = 64, 256, 4, 110
"""Smallest and largest side of an image, gap between images, width of the class names; in pixels."""

DOT, AXIS = 2, 220
"""Side of a point in pixels; grey value of the axes."""
COLOURS = np.array([(31, 119, 180), (214, 39, 40)], np.uint8)
"""RGB colour of the points of a class; classes take turns."""
MOST_POINTS = 5000
"""Number of points to draw, evenly spaced in the split."""


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
        chosen = np.linspace(0, len(split) - 1, min(MOST_POINTS, len(split))).astype(int)
        return Image.fromarray(scatter(split.images[chosen], split.labels[chosen]))
    longer = max(split.images.shape[1:3])
    shrink, scale = -(-longer // LARGEST), -(-TILE // longer)
    height, width = (-(-side // shrink) * scale for side in split.images.shape[1:3])
    left = NAMES if classes else 0
    rows = _rows(split, classes)
    step_x, step_y = width + GAP, height + GAP
    columns = max(len(indices) for _, indices in rows)
    sheet = Image.new("RGB", (left + GAP + columns * step_x, GAP + len(rows) * step_y), "white")
    for y, (name, indices) in enumerate(rows):
        top = GAP + y * step_y
        ImageDraw.Draw(sheet).text((GAP, top + step_y // 2), name[:16], fill="black")
        for x, index in enumerate(indices):
            pixels = split.images[index]
            image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).reduce(shrink)
            sheet.paste(
                image.resize((width, height), Image.Resampling.NEAREST), (left + GAP + x * step_x, top)
            )
    return sheet


def _rows(split: Split, classes: tuple[str, ...]) -> list[tuple[str, list[int]]]:
    """Name and image indices of each row."""
    if not classes:
        indices = np.unique(np.linspace(0, len(split) - 1, ROWS * COLUMNS).round().astype(int)).tolist()
        return [("", indices[start : start + COLUMNS]) for start in range(0, len(indices), COLUMNS)]
    labels = np.asarray(split.labels)
    chosen = np.unique(np.linspace(0, len(classes) - 1, ROWS).round().astype(int))
    return [(classes[label], np.flatnonzero(labels == label)[:COLUMNS].tolist()) for label in chosen]
