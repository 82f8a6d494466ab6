"""The prepared archive: images and labels as memory-mapped arrays, and a card that describes them."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from couplet.config.base import Closed, validated
from couplet.errors import UserError
from couplet.files import read_json, replacing, sha256, write_json

SPLITS = ("train", "test")
"""Training and reporting use ``train``; selection uses ``test``, where there is one."""

CARD = "card.json"
ARRAYS = tuple(f"{split}-{part}.npy" for split in SPLITS for part in ("images", "labels"))
"""Array files of an archive."""

PREVIEW = "preview.png"
"""A picture of the training images, which stage `prepare` draws next to the card."""

BLOCK = 64
"""Images in the unit of work of a decoding thread."""

HEADER = 128
"""Bytes of numpy's header of images, whose padding has room for any number of them."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class CorruptImage(Exception):
    """An image that cannot be decoded; the message holds the reason but not the image's name."""


@dataclass(frozen=True)
class Split:
    """One split of a data set."""

    images: NDArray[np.uint8]
    """[n, h, w, c]."""
    labels: NDArray[np.int64]
    """Class indices [n]."""

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Stream(Generic[Result]):
    """Images that are opened or decoded on demand, such as one split of a data set."""

    names: Sequence[str]
    """Name of each image in messages, [n]."""
    labels: NDArray[np.int64]
    """Class indices [n]; 0 without classes."""
    image: Callable[[int], Result]
    """Image i, called from several threads; of a split uint8 [h, w, c]. Raises CorruptImage."""
    classes: tuple[str, ...] = ()
    """Names of the classes; empty without labels."""

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, chosen: NDArray[np.int64]) -> Stream[Result]:
        """The images with these indices, in the order of the indices."""
        names = [self.names[i] for i in chosen]
        return Stream(names, self.labels[chosen], lambda i: self.image(int(chosen[i])), self.classes)


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
    """Whether to leave out images that cannot be decoded, and list them in the card."""
    folders: Mapping[str, str] = field(default_factory=dict)
    """The folder of each split, where folders are splits."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Numbers of files that are not read, by reason."""


class Card(Closed):
    """Content of card.json."""

    dataset: str
    source: str
    originals: dict[str, str] = {}
    """Digest of each original file, ``md5:…`` or ``sha256:…``; empty for folders of images."""
    shape: Annotated[tuple[int, int, int], Field(strict=False)]
    """Height, width, channels."""
    classes: Annotated[tuple[str, ...], Field(strict=False)]
    """Names of the classes; empty: the images have no labels, and all stored labels are 0."""
    counts: dict[str, int]
    """Images per split."""
    skipped: dict[str, Annotated[tuple[str, ...], Field(strict=False)]] = {}
    """Names of the images in each split that were left out because they cannot be decoded."""
    folders: dict[str, str] = {}
    """The folder that became each split, where folders are splits."""
    left_out: dict[str, int] = {}
    """Numbers of files that were not read, by reason: a suffix, or a word such as `hidden`."""
    empty_classes: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Classes without a training image."""
    files: dict[str, str]
    """SHA-256 of each array file."""
    digest: str
    """SHA-256 over the names and digests of the array files: the identity of the archive."""


class Archive:
    """A folder written by :func:`write`.

    Raises:
        UserError: the card is missing, is no card, or has no training split.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        card = folder / CARD
        self.card = validated(Card, read_json(card), str(card))
        if "train" not in self.card.counts:
            raise UserError(f"{card}: counts = {self.card.counts}: split train is missing")

    @cached_property
    def train(self) -> Split:
        """The training split."""
        return self.split("train")

    def split(self, name: str) -> Split:
        """Images and labels of a split, memory-mapped.

        Raises:
            UserError: the archive has no such split, or its files do not match the card.
        """
        if name not in self.card.counts:
            raise UserError(
                f"{self.folder / CARD}: {self.card.dataset} has no {name} split, only "
                f"{', '.join(self.card.counts)}; set select.split: train, or hold out images with test_images"
            )
        paths = [self.folder / f"{name}-{part}.npy" for part in ("images", "labels")]
        images, labels = map(read_array, paths)
        expected = (self.card.counts[name], *self.card.shape)
        if images.shape != expected or images.dtype != np.uint8 or labels.shape != (len(images),):
            given = f"{images.dtype}{list(images.shape)} with {labels.size} labels"
            allowed = f"the card says uint8{list(expected)}; run `couplet prepare` again"
            raise UserError(f"{paths[0]}: holds {given}, {allowed}")
        last = max(len(self.card.classes), 1) - 1
        if labels.dtype != np.int64 or labels.min(initial=0) < 0 or labels.max(initial=0) > last:
            allowed = f"int64 from 0 to {last}, the classes of the card; run `couplet prepare` again"
            raise UserError(f"{paths[1]}: must hold {allowed}")
        return Split(images, labels)


def read_array(path: Path) -> NDArray[Any]:
    """The array in a .npy file, memory-mapped; UserError if it is missing or damaged."""
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as an array ({error})") from None
    return array


def write(
    folder: Path,
    dataset: str,
    source: Source,
    *,
    workers: int = 1,
    counting: Callable[[str, int], AbstractContextManager[Callable[[int], None]]] = (
        lambda title, total: nullcontext(lambda done: None)
    ),
) -> Card:
    """Write a data set as an archive, image by image: memory does not grow with the number of images.

    The card is written last, so that a folder with a card holds a complete archive. The bytes do not depend
    on ``workers``.

    Args:
        folder: folder of the archive; an earlier archive in it is replaced.
        dataset: name of the data set in the card.
        source: its images.
        workers: number of decoding threads.
        counting: called with a title and a total; its context is a function to call with each number of
            finished images.

    Raises:
        UserError: images cannot be decoded, ``folder`` contains other files, or it cannot be written. An
            earlier archive is then unchanged.
    """
    own = {CARD, PREVIEW, *ARRAYS}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.name not in own and file.name[0] != ".":
            problem = f"contains {file.name!r}, which is no part of an archive"
            raise UserError(f"{folder}: {problem}; choose another folder")
    counts: dict[str, int] = {}
    corrupt: dict[str, dict[str, str]] = {}
    files: dict[str, str] = {}
    present: set[int] = set()
    with ExitStack() as stack:
        for name, split in source.splits.items():
            if isinstance(split, Split):
                split = Stream([*map(str, range(len(split)))], split.labels, split.images.__getitem__)
            # The files replace earlier ones together, after the last image is decoded.
            images = stack.enter_context(replacing(folder / f"{name}-images.npy"))
            labels = stack.enter_context(replacing(folder / f"{name}-labels.npy"))
            with counting(f"{dataset}: {name}", len(split)) as advance:
                shape, kept, corrupt[name] = _write_images(images, split, workers, advance)
            counts[name] = len(kept)
            with labels.open("wb") as written:
                np.save(written, split.labels[kept], allow_pickle=False)
            if name == "train":
                present = {*np.unique(split.labels[kept]).tolist()}
            files |= {f"{name}-images.npy": sha256(images), f"{name}-labels.npy": sha256(labels)}
        reasons = [f"{name}: {why}" for name in corrupt for why in corrupt[name].values()]
        if reasons and not source.skip_corrupt:
            first = ", ".join(reasons[:5]) + (", …" if len(reasons) > 5 else "")
            raise UserError(
                f"dataset {dataset}: {len(reasons)} images cannot be decoded: {first}; repair them, "
                "or leave them out with skip_corrupt: true (with --from: --skip-corrupt)"
            )
        if empty := [name for name, count in counts.items() if not count]:
            raise UserError(f"dataset {dataset}: no image of split {empty[0]} can be decoded")
        for stale in own - {*files}:
            (folder / stale).unlink(missing_ok=True)
    card = Card(
        dataset=dataset,
        source=source.description,
        originals=dict(source.originals),
        shape=shape,
        classes=source.classes,
        counts=counts,
        skipped={name: tuple(images) for name, images in corrupt.items() if images},
        folders=dict(source.folders),
        left_out=dict(source.left_out),
        empty_classes=tuple(name for label, name in enumerate(source.classes) if label not in present),
        files=files,
        digest=hashlib.sha256("".join(f"{n} {d}\n" for n, d in sorted(files.items())).encode()).hexdigest(),
    )
    write_json(folder / CARD, card.model_dump(mode="json"))
    return card


def _write_images(
    path: Path, stream: Stream, workers: int, advance: Callable[[int], None]
) -> tuple[Any, list[int], dict[str, str]]:
    """Write the images that can be decoded as uint8 [n, h, w, c].

    Returns:
        Height, width and channels; indices of the written images; messages about the others, by name.
    """
    shape: Any = ()
    kept: list[int] = []
    corrupt: dict[str, str] = {}
    with path.open("wb") as file:
        file.write(bytes(HEADER))
        for index, image in enumerate(_decoded(stream, workers)):
            name = stream.names[index]
            if isinstance(image, CorruptImage):
                corrupt[name] = f"{name} ({image})"
            else:
                shape = shape or image.shape
                if image.shape != shape or image.dtype != np.uint8:
                    raise ValueError(f"{name}: {image.dtype}{image.shape}, not {shape}")
                file.write(image.tobytes())
                kept.append(index)
            advance(1)
        file.seek(0)
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(kept), *shape)}
        np.lib.format.write_array_header_1_0(file, header)
        assert file.tell() == HEADER
    return shape, kept, corrupt


def _decoded(stream: Stream, workers: int) -> Iterator[NDArray[np.uint8] | CorruptImage]:
    """The images in order, decoded a few blocks ahead by ``workers`` threads."""

    def image(index: int) -> NDArray[np.uint8] | CorruptImage:
        try:
            return stream.image(index)
        except CorruptImage as error:
            return error

    def block(start: int) -> list[NDArray[np.uint8] | CorruptImage]:
        return [image(index) for index in range(start, min(start + BLOCK, len(stream)))]

    for images in prefetched(block, range(0, len(stream), BLOCK), threads=workers, most=2 * workers):
        yield from images


def prefetched(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int, most: int
) -> Generator[Result, None, None]:
    """``function`` of each item, in order, computed by threads while the caller works on earlier results.

    No more than ``most`` results wait; for 0 there are no threads. Exceptions are raised at their item. The
    threads end with the iterator, even if that is closed early.
    """
    if not most:
        yield from map(function, items)
        return
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, "prefetch") as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
