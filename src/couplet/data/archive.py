"""The prepared archive: images and labels as memory-mapped arrays, and a card that describes them."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
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
"""Training and reporting use ``train``; selection uses ``test``, where there is one."""

CARD = "card.json"
ARRAYS = tuple(f"{split}-{part}.npy" for split in SPLITS for part in ("images", "labels"))
"""Files of an archive."""

PREVIEW = "preview.png"
"""A contact sheet of training images beside the card, for people."""

BLOCK = 64
"""Images that a thread decodes at a time."""

Counting = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Called with a title and a total; gives a function to call with the number of images just done."""


@contextmanager
def silent(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows no progress."""
    yield lambda done: None


class CorruptImage(Exception):
    """An image that cannot be decoded; the message says why, without its name."""


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
class Stream:
    """One split of a data set whose images are decoded when they are asked for."""

    names: Sequence[str]
    """What an image is called in messages, [n]."""
    labels: NDArray[np.int64]
    """Class indices [n]."""
    image: Callable[[int], NDArray[np.uint8]]
    """Image i as [h, w, c]; called from several threads. Raises CorruptImage."""

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(cls, split: Split | Stream) -> Stream:
        """``split`` itself, or its arrays as a stream."""
        if isinstance(split, Stream):
            return split
        return cls([str(i) for i in range(len(split))], split.labels, split.images.__getitem__)

    def __getitem__(self, chosen: NDArray[np.int64]) -> Stream:
        """The part of the stream with these indices, in their order."""
        names = [self.names[i] for i in chosen]
        return Stream(names, self.labels[chosen], lambda i: self.image(int(chosen[i])))


class Card(Closed):
    """What stands in card.json."""

    dataset: str
    source: str
    """Where the images came from and how they were cut to size, in words."""
    originals: dict[str, str] = {}
    """Digest of each file that was read, as ``md5:…`` or ``sha256:…``; none for folders of images."""
    shape: Annotated[tuple[int, int, int], Field(strict=False)]
    """Height, width, channels."""
    classes: Annotated[tuple[str, ...], Field(strict=False)]
    """Names of the classes; none: the images have no labels, and all stored ones are 0."""
    counts: dict[str, int]
    """Images per split."""
    skipped: dict[str, Annotated[tuple[str, ...], Field(strict=False)]] = {}
    """Names of the images of a split that were left out because they cannot be decoded."""
    files: dict[str, str]
    """SHA-256 of each array file."""
    digest: str
    """SHA-256 over the names and digests of the array files: the identity of the archive."""


class Archive:
    """A folder that :func:`write` made.

    Raises:
        UserError: the folder holds no card, or its arrays do not match the card.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        card = folder / CARD
        self.card = validated(Card, read_json(card), str(card))
        if "train" not in self.card.counts:
            raise UserError(f"{card}: counts = {self.card.counts}: split train is missing")

    @property
    def splits(self) -> tuple[str, ...]:
        """Which of :data:`SPLITS` there are."""
        return tuple(name for name in SPLITS if name in self.card.counts)

    @cached_property
    def train(self) -> Split:
        return self.split("train")

    @cached_property
    def test(self) -> Split:
        return self.split("test")

    def split(self, name: str) -> Split:
        """Images and labels of a split, mapped from disk, not read.

        Raises:
            UserError: there is no such split, or its files do not match the card.
        """
        if name not in self.card.counts:
            raise UserError(
                f"{self.folder / CARD}: {self.card.dataset} has no {name} split, only "
                f"{', '.join(self.splits)}: set select.split: train, or hold images out with test_images"
            )
        images, labels = (read_array(self.folder / f"{name}-{part}.npy") for part in ("images", "labels"))
        expected = (self.card.counts[name], *self.card.shape)
        if images.shape != expected or images.dtype != np.uint8 or labels.shape != (len(images),):
            raise UserError(
                f"{self.folder / f'{name}-images.npy'}: holds {images.dtype}{list(images.shape)} with "
                f"{labels.size} labels, the card says uint8{list(expected)}; run `couplet prepare` again"
            )
        known = max(len(self.card.classes), 1)
        if labels.dtype != np.int64 or labels.min(initial=0) < 0 or labels.max(initial=0) >= known:
            raise UserError(
                f"{self.folder / f'{name}-labels.npy'}: must hold int64 from 0 to {known - 1}, the classes "
                "of the card; run `couplet prepare` again"
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
    splits: Mapping[str, Split | Stream],
    originals: Mapping[str, str] | None = None,
    skip_corrupt: bool = False,
    workers: int = 1,
    counting: Counting = silent,
) -> Card:
    """Writes a data set as an archive, image by image, so that memory does not grow with their number.

    The card comes last: a card means a whole archive. The bytes do not depend on ``workers``.

    Args:
        folder: where to; what stands there of an earlier archive is replaced.
        dataset: its name.
        source: where the images came from, in words.
        classes: names of the classes.
        splits: ``train`` and, where there is one, ``test``.
        originals: digest of each file that was read.
        skip_corrupt: leave out images that cannot be decoded and name them in the card.
        workers: threads that decode.
        counting: shows progress.

    Raises:
        UserError: images cannot be decoded, or ``folder`` holds something else or cannot be written; the
            archive that was there is then as it was.
    """
    _refuse_others(folder)
    done: dict[str, _Written] = {}
    files: dict[str, str] = {}
    with ExitStack() as stack, _naming(folder):
        for name, split in splits.items():
            stream = Stream.of(split)
            # All files take their places together, when the last image has been decoded.
            images = stack.enter_context(replacing(folder / f"{name}-images.npy"))
            labels = stack.enter_context(replacing(folder / f"{name}-labels.npy"))
            with counting(f"{dataset}: {name}", len(stream)) as advance:
                done[name] = _write_images(images, stream, workers, advance)
            with labels.open("wb") as file:
                np.save(file, stream.labels[done[name].kept], allow_pickle=False)
            files |= {f"{name}-images.npy": done[name].digest, f"{name}-labels.npy": sha256(labels)}
        _check(dataset, done, skip_corrupt)
        for stale in {CARD, *ARRAYS} - {*files}:
            (folder / stale).unlink(missing_ok=True)
    _write_preview(folder, classes)
    card = Card(
        dataset=dataset,
        source=source,
        originals=dict(originals or {}),
        shape=done["train"].shape,
        classes=classes,
        counts={name: len(written.kept) for name, written in done.items()},
        skipped={
            name: tuple(image for image, _ in written.corrupt)
            for name, written in done.items()
            if written.corrupt
        },
        files=files,
        digest=hashlib.sha256("".join(f"{n} {d}\n" for n, d in sorted(files.items())).encode()).hexdigest(),
    )
    write_json(folder / CARD, card.model_dump(mode="json"))
    return card


def _refuse_others(folder: Path) -> None:
    """Refuses a folder with anything else in it than an archive; what is hidden does not count."""
    if not folder.is_dir():
        return
    own = {CARD, PREVIEW, *ARRAYS}
    others = sorted(file.name for file in folder.iterdir() if file.name not in own and file.name[0] != ".")
    if others:
        raise UserError(
            f"{folder}: holds {others[0]!r}, which is no part of a prepared data set; choose another folder"
        )


@contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Names the folder that cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from None


@dataclass
class _Written:
    """What became of the images of a split."""

    shape: tuple[int, int, int] = (0, 0, 0)
    kept: list[int] = field(default_factory=list)
    corrupt: list[tuple[str, str]] = field(default_factory=list)
    """Name and reason."""
    digest: str = ""


def _write_images(path: Path, stream: Stream, workers: int, advance: Callable[[int], None]) -> _Written:
    """Writes the images that can be decoded as uint8 [n, h, w, c]."""
    written, digest = _Written(), hashlib.sha256()
    with path.open("w+b") as file:
        for index, image in enumerate(_decoded(stream, workers)):
            if isinstance(image, CorruptImage):
                written.corrupt.append((stream.names[index], str(image)))
            else:
                if not written.kept:
                    height, width, channels = image.shape
                    written.shape = (height, width, channels)
                    _write_header(file, (len(stream), *written.shape))
                    file.seek(0)
                    digest.update(file.read())
                if image.shape != written.shape or image.dtype != np.uint8:
                    raise ValueError(
                        f"{stream.names[index]}: {image.dtype}{image.shape}, not {written.shape}"
                    )
                row = image.tobytes()
                file.write(row)
                digest.update(row)
                written.kept.append(index)
            advance(1)
        if written.kept and written.corrupt:
            # numpy leaves room in the header for any first axis, so that it can be rewritten in place.
            file.seek(0)
            _write_header(file, (len(written.kept), *written.shape))
    written.digest = sha256(path) if written.corrupt else digest.hexdigest()
    return written


def _write_header(file: Any, shape: tuple[int, ...]) -> None:
    header = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)),
        "fortran_order": False,
        "shape": shape,
    }
    np.lib.format.write_array_header_1_0(file, header)


def _decoded(stream: Stream, workers: int) -> Iterator[NDArray[np.uint8] | CorruptImage]:
    """The images in order, decoded by ``workers`` threads a few blocks ahead."""

    def block(start: int) -> list[NDArray[np.uint8] | CorruptImage]:
        return [_image(stream, index) for index in range(start, min(start + BLOCK, len(stream)))]

    starts = range(0, len(stream), BLOCK)
    if workers == 1:
        for start in starts:
            yield from block(start)
        return
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[Future[list[NDArray[np.uint8] | CorruptImage]]] = deque()
        for start in starts:
            ahead.append(pool.submit(block, start))
            if len(ahead) > 2 * workers:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()


def _image(stream: Stream, index: int) -> NDArray[np.uint8] | CorruptImage:
    try:
        return stream.image(index)
    except CorruptImage as error:
        return error


def _check(dataset: str, done: Mapping[str, _Written], skip_corrupt: bool) -> None:
    """Refuses corrupt images, and splits without any other."""
    corrupt = [(f"{name}: {image}", why) for name, written in done.items() for image, why in written.corrupt]
    if corrupt and not skip_corrupt:
        first = ", ".join(f"{image} ({why})" for image, why in corrupt[:5])
        raise UserError(
            f"dataset {dataset}: {len(corrupt)} images cannot be decoded: {first}"
            f"{', …' if len(corrupt) > 5 else ''}; mend them, or leave them out: skip_corrupt: true, "
            "--skip-corrupt with --from"
        )
    for name, written in done.items():
        if not written.kept:
            raise UserError(f"dataset {dataset}: split {name} holds no image that can be decoded")


def _write_preview(folder: Path, classes: tuple[str, ...]) -> None:
    # Pillow comes with the pipeline; a node that only trains reads archives without it.
    from couplet.data.preview import contact_sheet

    images, labels = (read_array(folder / f"train-{part}.npy") for part in ("images", "labels"))
    with replacing(folder / PREVIEW) as temporary:
        contact_sheet(Split(images, labels), classes).save(temporary, format="PNG")
