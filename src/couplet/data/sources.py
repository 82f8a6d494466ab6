"""Where images come from: one reader per kind of data set, found by its configuration class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

from couplet.config.datasets import DatasetConfig, Digits
from couplet.data.archive import Split
from couplet.errors import UserError


class Source(NamedTuple):
    """A data set as read, ready to be written as an archive."""

    description: str
    classes: tuple[str, ...]
    splits: Mapping[str, Split]


_READERS: dict[type[DatasetConfig], Callable[[Any], Source]] = {}

Reader = TypeVar("Reader", bound=Callable[[Any], Source])


def reads(config: type[DatasetConfig]) -> Callable[[Reader], Reader]:
    """Registers the reader of a kind of data set: a function decorator."""

    def register(reader: Reader) -> Reader:
        _READERS[config] = reader
        return reader

    return register


def read(config: DatasetConfig) -> Source:
    """The images that ``config`` describes.

    Raises:
        TypeError: nothing reads this class of configuration.
        UserError: the source is not to be had.
    """
    try:
        reader = _READERS[type(config)]
    except KeyError:
        raise TypeError(f"no reader for {type(config).__name__}") from None
    return reader(config)


@reads(Digits)
def read_digits(config: Digits) -> Source:
    """scikit-learn's digits: grey values 0..16 spread over 0..255, split evenly over the classes."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ModuleNotFoundError:
        raise UserError(
            "dataset digits: scikit-learn is not installed; pip install 'couplet[pipeline]'"
        ) from None
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int64)
    train, test = train_test_split(
        np.arange(len(images)), test_size=config.test_images, stratify=labels, random_state=0
    )
    return Source(
        description="sklearn.datasets.load_digits, UCI optical recognition of handwritten digits",
        classes=tuple(str(name) for name in digits.target_names),
        splits={
            name: Split(images[np.sort(chosen)], labels[np.sort(chosen)])
            for name, chosen in (("train", train), ("test", test))
        },
    )
