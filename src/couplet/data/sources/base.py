"""The result of a reader, and held-out test splits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from couplet.config.datasets import DatasetConfig
from couplet.config.variants import build
from couplet.data.archive import Split, Stream
from couplet.errors import UserError


@dataclass(frozen=True)
class Source:
    """A data set, ready to be written as an archive."""

    description: str
    """Origin of the images and how they are cut to size; becomes the card's ``source``."""
    classes: tuple[str, ...]
    """Names of the classes; empty without labels."""
    splits: Mapping[str, Split | Stream]
    """``train`` and, where it exists, ``test``."""
    originals: Mapping[str, str] = field(default_factory=dict)
    """Digest of each original file."""
    skip_corrupt: bool = False
    """Whether to leave out images that cannot be decoded."""


@contextmanager
def read(config: DatasetConfig, raw: Path) -> Iterator[Source]:
    """The images that ``config`` describes; read them inside the block.

    Original files of a named kind are in a subfolder of ``raw`` of its name.

    Raises:
        UserError: files are missing or damaged, or a package is not installed.
    """
    with ExitStack() as stack:
        yield build(config, raw, stack)


def hold_out(labels: NDArray[np.int64], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sorted indices of training images and of ``count`` test images, always the same, even over classes.

    Raises:
        UserError: no training images would remain.
    """
    if count >= len(labels):
        raise UserError(f"test_images = {count}: must be less than the {len(labels)} images of the data set")
    shuffled = np.random.default_rng(0).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    test = np.sort(by_class[(2 * np.arange(count) + 1) * len(labels) // (2 * max(count, 1))])
    train = np.setdiff1d(np.arange(len(labels)), test)
    return train.astype(np.int64), test.astype(np.int64)


def with_held_out(stream: Stream, count: int) -> dict[str, Split | Stream]:
    """``train``, and ``test`` of ``count`` images unless the count is 0."""
    if count == 0:
        return {"train": stream}
    train, test = hold_out(stream.labels, count)
    return {"train": stream[train], "test": stream[test]}
