"""Images and points as pictures: the preview of a data set, and samples side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import accumulate, zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from couplet.config.datasets import is_plane, panel_size
from couplet.data.archive import Split

STYLE = Path(__file__).with_name("couplet.mplstyle")
"""The look that all figures share."""

PREVIEW_POINTS = 5000
"""Images or points in a panel of samples, and points in a preview, at most."""

ROWS, COLUMNS = 10, 10
"""Of a preview."""
TILE, LARGEST, GAP = 64, 256, 4
"""Of a preview: smallest and largest side of an image, and the gap, in pixels."""

SIDE = 64
"""Smaller images of a grid are enlarged to at least this side, in pixels."""
ACROSS, SMALL, PANELS = 4, 32, 16
"""Of panels side by side: images in a row, their least side, and the gap in pixels; five panels of 8×8 digits
fit a page unreduced."""
TEXT = 15
"""Height of letters, in pixels."""

DOT, FRAME = 2, 220
"""Side of a point in pixels; grey value of the frame around points."""
COLOURS = np.array([(31, 119, 180), (214, 39, 40)], np.uint8)
"""RGB colour of the points of a class; classes take turns."""


def evenly(length: int, count: int) -> NDArray[np.int64]:
    """Indices of at most ``count`` items, evenly spaced: many data sets are sorted by class."""
    return np.linspace(0, length - 1, min(count, length)).astype(int)


def scatter(images: NDArray[np.uint8], labels: NDArray[np.int64] | None = None) -> NDArray[np.uint8]:
    """Draw points [n, 1, 1, 2] in the square [-1, 1]² as a picture with a frame, uint8 [512, 512, 3].

    The second coordinate points up. ``labels`` are class indices [n], which decide the colours.
    """
    picture = np.full((256, 256, 3), 255, np.uint8)
    picture[[0, -1]] = picture[:, [0, -1]] = FRAME
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

    def drawn(index: int) -> Image.Image:
        return image_of(split.images[index]).reduce(shrink).resize((width, height), Image.Resampling.NEAREST)

    return sheet([(name[:16], [*map(drawn, chosen)]) for name, chosen in _rows(split, classes)], gap=GAP)


def _rows(split: Split, classes: tuple[str, ...]) -> list[tuple[str, list[int]]]:
    if not classes:
        indices = np.unique(np.linspace(0, len(split) - 1, ROWS * COLUMNS).round().astype(int)).tolist()
        return [("", indices[start : start + COLUMNS]) for start in range(0, len(indices), COLUMNS)]
    labels = np.asarray(split.labels)
    chosen = np.unique(np.linspace(0, len(classes) - 1, ROWS).round().astype(int))
    return [(classes[label], np.flatnonzero(labels == label)[:COLUMNS].tolist()) for label in chosen]


def image_of(pixels: NDArray[np.uint8]) -> Image.Image:
    """An array [h, w, c] as an image: grey or RGB, each with transparency if c is 2 or 4."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def sheet(
    rows: Sequence[tuple[str, Sequence[Image.Image | None]]], titles: Sequence[str] = (), *, gap: int
) -> Image.Image:
    """Pictures in rows, each after its name, and in columns, each below its title.

    Names and titles take the room that they need, and none if all are blank.

    Args:
        rows: name and pictures of each row; None leaves a place empty.
        titles: of the columns.
        gap: between pictures, in pixels.
    """
    font = ImageFont.load_default(TEXT)
    left = max(_width(font, name) for name, _ in rows)
    top = 2 * TEXT if any(titles) else 0
    columns = zip_longest(*(pictures for _, pictures in rows))
    widths = [
        max(_width(font, title or "") - gap, *(picture.width for picture in column if picture), 1)
        for title, column in zip_longest(titles, columns, fillvalue=())
    ]
    heights = [max((picture.height for picture in pictures if picture), default=0) for _, pictures in rows]
    xs = [*accumulate(widths, lambda x, width: x + width + gap, initial=left)]
    ys = [*accumulate(heights, lambda y, height: y + height + gap, initial=top)]
    drawn = Image.new("RGB", (xs[-1] - gap, ys[-1] - gap), "white")
    pen = ImageDraw.Draw(drawn)
    for x, title in zip(xs, titles, strict=False):
        pen.text((x, TEXT * 3 // 4), title, "black", font, anchor="lm")
    for y, height, (name, pictures) in zip(ys, heights, rows, strict=False):
        pen.text((0, y + height // 2), name, "black", font, anchor="lm")
        for x, picture in zip(xs, pictures, strict=False):
            if picture is not None:
                drawn.paste(picture, (x, y))
    return drawn


def _width(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text: str) -> int:
    """Room for a name and the space after it, in pixels."""
    return int(font.getlength(text)) + TEXT if text else 0


def tile(
    images: NDArray[np.uint8], columns: int = 6, *, side: int = SIDE, gap: int = 255
) -> NDArray[np.uint8]:
    """Images [n, h, w, c] as one picture, enlarged by a whole number to at least ``side`` pixels.

    Between the images are thin lines of the value ``gap``; the end of the last row has it too. Points of the
    plane, [n, 1, 1, 2], become a scatter plot, [512, 512, 3].
    """
    if is_plane(images.shape[1:]):
        return scatter(images)
    scale = -(-side // max(images.shape[1:3]))
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    line = max(1, images.shape[1] // 16)
    missing = -len(images) % columns
    images = np.pad(images, ((0, missing), (0, line), (0, line), (0, 0)), constant_values=gap)
    n, height, width, channels = images.shape
    grid = images.reshape(n // columns, columns, height, width, channels)
    return grid.transpose(0, 2, 1, 3, 4).reshape(-1, columns * width, channels)[:-line, :-line]


def sample_grids(panels: Mapping[str, Mapping[str, NDArray[np.uint8]]]) -> bytes:
    """Draw panels of samples as a PNG file: a row per NFE, a column per coupling.

    ``panels[row][column]`` has images [n, h, w, c], of which the first :func:`panel_size` are drawn; image i
    of every panel in a row has the same noise. A column without a panel in a row is empty there.
    """
    names = list(dict.fromkeys(name for row in panels.values() for name in row))

    def drawn(images: NDArray[np.uint8] | None) -> Image.Image | None:
        return (
            None
            if images is None
            else image_of(tile(images[: panel_size(images.shape[1:])], ACROSS, side=SMALL))
        )

    rows = [(row, [drawn(images.get(name)) for name in names]) for row, images in panels.items()]
    file = BytesIO()
    sheet(rows, names, gap=PANELS).save(file, format="PNG")
    return file.getvalue()
