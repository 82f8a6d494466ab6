"""Pictures of a data set, so that people look at what they train on: a contact sheet, or its points."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from couplet.data.archive import Split

ROWS, COLUMNS = 10, 10
TILE, LARGEST, GAP, NAMES = 64, 256, 4, 110
"""Least and largest side of an image, space between images, width of the class names; in pixels."""

DOT, AXIS = 2, 220
"""Side of a point in pixels, so that each of 256 values has its place; grey of the axes."""
COLOURS = np.array([(31, 119, 180), (214, 39, 40)], np.uint8)
"""Of the points of a class, RGB; taken in turn."""
MOST_POINTS = 5000
"""Of more points, so many evenly spaced ones are drawn."""


def are_points(shape: tuple[int, ...]) -> bool:
    """Whether images [h, w, c] of this shape are points of the plane: one pixel of two channels."""
    return shape == (1, 1, 2)


def scatter(images: NDArray[np.uint8], labels: NDArray[np.int64] | None = None) -> NDArray[np.uint8]:
    """Points [n, 1, 1, 2] in the square [-1, 1]², with its axes, as a picture uint8 [512, 512, 3].

    The second coordinate points up. ``labels`` are class indices [n], each class in a colour of its own.
    """
    picture = np.full((256, 256, 3), 255, np.uint8)
    picture[[127, 128]] = picture[:, [127, 128]] = AXIS
    x, y = images[:, 0, 0].T
    picture[255 - y, x] = COLOURS[0 if labels is None else labels % len(COLOURS)]
    return picture.repeat(DOT, axis=0).repeat(DOT, axis=1)


def contact_sheet(split: Split, classes: tuple[str, ...]) -> Image.Image:
    """The first images of each class, a row each (ten classes, spread evenly over all, if there are more).

    Without classes: images spread evenly over the split. Points of the plane: all in one picture.
    """
    if are_points(split.images.shape[1:]):
        shown = np.linspace(0, len(split) - 1, min(MOST_POINTS, len(split))).astype(int)
        return Image.fromarray(scatter(split.images[shown], split.labels[shown]))
    longer = max(split.images.shape[1:3])
    shrink, scale = -(-longer // LARGEST), -(-TILE // longer)
    height, width = (-(-side // shrink) * scale for side in split.images.shape[1:3])
    left = NAMES if classes else 0
    rows = _rows(split, classes)
    step_x, step_y = width + GAP, height + GAP
    columns = max(len(chosen) for _, chosen in rows)
    sheet = Image.new("RGB", (left + GAP + columns * step_x, GAP + len(rows) * step_y), "white")
    for y, (name, chosen) in enumerate(rows):
        top = GAP + y * step_y
        ImageDraw.Draw(sheet).text((GAP, top + step_y // 2), name[:16], fill="black")
        for x, index in enumerate(chosen):
            pixels = split.images[index]
            image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).reduce(shrink)
            sheet.paste(
                image.resize((width, height), Image.Resampling.NEAREST), (left + GAP + x * step_x, top)
            )
    return sheet


def _rows(split: Split, classes: tuple[str, ...]) -> list[tuple[str, list[int]]]:
    """Name and image indices of each row."""
    if not classes:
        chosen = np.unique(np.linspace(0, len(split) - 1, ROWS * COLUMNS).round().astype(int)).tolist()
        return [("", chosen[start : start + COLUMNS]) for start in range(0, len(chosen), COLUMNS)]
    labels = np.asarray(split.labels)
    shown = np.unique(np.linspace(0, len(classes) - 1, ROWS).round().astype(int))
    return [(classes[label], np.flatnonzero(labels == label)[:COLUMNS].tolist()) for label in shown]
