"""IDX files, the format of MNIST."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from couplet.data.sources.collection import Collection
from couplet.errors import UserError


def idx_file(path: Path) -> Collection:
    """The images of an IDX file, with labels if the file next to it (images-idx3 → labels-idx1) exists.

    Raises:
        UserError: a file is damaged, contains other values than bytes, or the labels do not fit the images.
    """
    pixels = _array(path, 3)
    names = [str(index) for index in range(len(pixels))]
    labels = np.zeros(len(pixels), np.int64)
    classes: tuple[str, ...] = ()
    labels_path = _labels_path(path)
    if labels_path is not None:
        labels = _array(labels_path, 1).astype(np.int64)
        if len(labels) != len(pixels):
            raise UserError(f"{labels_path}: contains {len(labels)} labels for {len(pixels)} images")
        classes = tuple(str(label) for label in range(int(labels.max()) + 1))
    return Collection(names, labels, classes, lambda index: Image.fromarray(pixels[index]))


def _labels_path(path: Path) -> Path | None:
    name, replaced = re.subn(r"images([-.])idx3", r"labels\1idx1", path.name.removesuffix(".gz"))
    candidates = (path.with_name(name), path.with_name(f"{name}.gz")) if replaced else ()
    return next((file for file in candidates if file.is_file()), None)


def _array(path: Path, axes: int) -> NDArray[np.uint8]:
    """The unsigned bytes of an IDX file, as an array with this number of axes."""
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if content[:4] != bytes([0, 0, 8, axes]):
        raise UserError(
            f"{path}: IDX type {content[:4].hex()}: must be 000008{axes:02x}, unsigned bytes of {axes} axes"
        )
    start = 4 + 4 * axes
    shape = np.frombuffer(content, ">i4", axes, 4).tolist() if len(content) >= start else [0]
    if min(shape) < 1 or len(content) - start != math.prod(shape):
        raise UserError(f"{path}: contains {max(len(content) - start, 0)} bytes for shape {shape}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
