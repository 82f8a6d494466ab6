"""Reading a data set of any kind, and held-out test splits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from couplet.config.datasets import DatasetConfig
from couplet.config.variants import build
from couplet.data.archive import Source, Split, Stream
from couplet.errors import UserError


@contextmanager
def read(config: DatasetConfig, raw: Path) -> Iterator[Source]:
    """The images that ``config`` describes; read them inside the block.

    Original files of a named kind are in a subfolder of ``raw`` of its name.

    Raises:
        UserError: files are missing or damaged, or a package is not installed.
    """
    with ExitStack() as stack:
        yield build(config, raw, stack)


def with_held_out(stream: Stream, count: int) -> dict[str, Split | Stream]:
    """``train``, and ``test`` of ``count`` images unless the count is 0.

    The test images are always the same, and even over classes.

    Raises:
        UserError: no training images would remain.
    """
    if count == 0:
        return {"train": stream}
    total = len(stream)
    if count >= total:
        raise UserError(f"test_images = {count}: must be less than the {total} images of the data set")
    shuffled = np.random.default_rng(0).permutation(total)
    by_class = shuffled[np.argsort(stream.labels[shuffled], kind="stable")]
    test = np.sort(by_class[(2 * np.arange(count) + 1) * total // (2 * count)])
    return {"train": stream[np.setdiff1d(np.arange(total), test)], "test": stream[test]}
