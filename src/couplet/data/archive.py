"""The prepared archive: images and labels as memory-mapped arrays, and a card that describes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from couplet.config.base import Closed, validated
from couplet.errors import UserError
from couplet.files import read_json, replacing, sha256, write_json

SPLITS = ("train", "test")
"""Training and reporting use ``train``; selection uses ``test``."""


@dataclass(frozen=True)
class Split:
    """One split of a data set."""

    images: NDArray[np.uint8]
    """[n, h, w, c]."""
    labels: NDArray[np.int64]
    """Class indices [n]."""

    def __len__(self) -> int:
        return len(self.images)


class Card(Closed):
    """What stands in card.json."""

    dataset: str
    source: str
    """Where the images came from, in words."""
    shape: Annotated[tuple[int, int, int], Field(strict=False)]
    """Height, width, channels."""
    classes: Annotated[tuple[str, ...], Field(strict=False)]
    counts: dict[str, int]
    """Images per split."""
    files: dict[str, str]
    """SHA-256 of each array file."""


class Archive:
    """A folder that :func:`write` made.

    Raises:
        UserError: the folder holds no card, or its arrays do not match the card.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        card = folder / "card.json"
        self.card = validated(Card, read_json(card), str(card))
        for split in SPLITS:
            if split not in self.card.counts:
                raise UserError(f"{card}: counts = {self.card.counts}: split {split} is missing")

    @cached_property
    def train(self) -> Split:
        return self.split("train")

    @cached_property
    def test(self) -> Split:
        return self.split("test")

    def split(self, name: str) -> Split:
        """Images and labels of a split, mapped from disk, not read."""
        images, labels = (read_array(self.folder / f"{name}-{part}.npy") for part in ("images", "labels"))
        expected = (self.card.counts[name], *self.card.shape)
        if images.shape != expected or images.dtype != np.uint8 or len(labels) != len(images):
            raise UserError(
                f"{self.folder / f'{name}-images.npy'}: holds {images.dtype}{list(images.shape)} with "
                f"{len(labels)} labels, the card says uint8{list(expected)}; run `couplet prepare` again"
            )
        return Split(images, labels)


def read_array(path: Path) -> NDArray[Any]:
    """The array in a .npy file, mapped from disk, not read.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as an array ({error})") from None
    return array


def write(
    folder: Path,
    *,
    dataset: str,
    source: str,
    classes: tuple[str, ...],
    splits: Mapping[str, Split],
) -> Card:
    """Writes a data set as an archive; the card comes last, so that a card means a whole archive."""
    files = {}
    for name, split in splits.items():
        for part in ("images", "labels"):
            path = folder / f"{name}-{part}.npy"
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.save(file, getattr(split, part), allow_pickle=False)
            files[path.name] = sha256(path)
    height, width, channels = next(iter(splits.values())).images.shape[1:]
    card = Card(
        dataset=dataset,
        source=source,
        shape=(height, width, channels),
        classes=classes,
        counts={name: len(split) for name, split in splits.items()},
        files=files,
    )
    write_json(folder / "card.json", card.model_dump(mode="json"))
    return card
