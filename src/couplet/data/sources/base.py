"""The registry of readers, and what a reader gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from couplet.config.datasets import DatasetConfig
from couplet.data.archive import Split, Stream
from couplet.errors import UserError


@dataclass(frozen=True)
class Source:
    """A data set, ready to be written as an archive."""

    description: str
    """Where the images come from and how they are cut to size; stands in the card."""
    classes: tuple[str, ...]
    """Names of the classes; none where there are no labels."""
    splits: Mapping[str, Split | Stream]
    """``train`` and, where there is one, ``test``."""
    originals: Mapping[str, str] = field(default_factory=dict)
    """Digest of each file that is read."""
    skip_corrupt: bool = False
    """Whether images that cannot be decoded may be left out."""


Reader = Callable[[Any, Path, ExitStack], Source]
"""Reads a configuration's images, given the folder of originals and a stack for what has to stay open
until they are written."""

_READERS: dict[type[DatasetConfig], Reader] = {}

AnyReader = TypeVar("AnyReader", bound=Reader)


def reads(config: type[DatasetConfig]) -> Callable[[AnyReader], AnyReader]:
    """Registers the reader of a kind of data set: a function decorator."""

    def register(reader: AnyReader) -> AnyReader:
        _READERS[config] = reader
        return reader

    return register


@contextmanager
def read(config: DatasetConfig, raw: Path) -> Iterator[Source]:
    """The images that ``config`` describes; they can be read inside the block.

    Args:
        config: which data set.
        raw: folder of originals; those of a named kind lie in a folder of its name.

    Raises:
        TypeError: nothing reads this class of configuration.
        UserError: the source is not to be had.
    """
    # Decoding needs packages that a node which only trains does not have.
    for module in ("digits", "mixture", "published", "images"):
        needed(f"couplet.data.sources.{module}", f"dataset {config.kind}", "pipeline")
    if type(config) not in _READERS:
        raise TypeError(f"no reader for {type(config).__name__}")
    with ExitStack() as stack:
        yield _READERS[type(config)](config, raw, stack)


def needed(module: str, what: str, extra: str) -> Any:
    """The module of that name.

    Raises:
        UserError: a package is not installed; names the extra of couplet that brings it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or module).partition(".")[0]
        raise UserError(f"{what}: {missing} is not installed; pip install 'couplet[{extra}]'") from None


def hold_out(labels: NDArray[np.int64], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices that stay in training and ``count`` that are held out: drawn evenly from the classes, the
    same every time; both in order.

    Raises:
        UserError: that leaves nothing to train on.
    """
    if count >= len(labels):
        raise UserError(f"test_images = {count}: must be less than the {len(labels)} images there are")
    shuffled = np.random.default_rng(0).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    test = np.sort(by_class[(2 * np.arange(count) + 1) * len(labels) // (2 * max(count, 1))])
    train = np.setdiff1d(np.arange(len(labels)), test)
    return train.astype(np.int64), test.astype(np.int64)


def with_held_out(stream: Stream, count: int) -> dict[str, Split | Stream]:
    """``train``, and ``test`` of ``count`` images; none of it where the count is 0."""
    if count == 0:
        return {"train": stream}
    train, test = hold_out(stream.labels, count)
    return {"train": stream[train], "test": stream[test]}
