"""Collections of encoded images: folder, zip, tar, IDX and LMDB, told apart by what they hold."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import math
import os
import re
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from couplet.data.archive import CorruptImage
from couplet.data.sources.base import needed
from couplet.errors import UserError

TEST_NAMES = ("test", "val", "valid")
"""Folders that hold a test split beside `train`; the first of them that is there counts."""


MOST_CLASSES = 1_000_000
"""A label beyond is taken for a mistake: every number up to the largest label is a class."""


@dataclass(frozen=True)
class Collection:
    """Images by name, to be opened one by one."""

    names: Sequence[str]
    labels: NDArray[np.int64]
    """Class indices [n]; 0 where there are no labels."""
    classes: tuple[str, ...]
    """None where there are no labels."""
    open: Callable[[int], Image.Image]
    """Opens image i, from several threads. Raises CorruptImage."""

    def __len__(self) -> int:
        return len(self.names)


def images_at(path: Path, stack: ExitStack) -> dict[str, Collection]:
    """What is at ``path``: ``train`` and, where it holds two splits, ``test``.

    Args:
        path: a folder, zip, tar (also .gz, .bz2, .xz) or IDX file (also .gz), or an LMDB folder.
        stack: closes what has to stay open until the images are read.

    Raises:
        UserError: nothing is there, or it is none of these, or it holds no images.
    """
    if (path / "data.mdb").is_file():
        return {"train": lmdb_folder(path, stack)}
    if path.is_dir():
        return _arranged(path, _folder_names(path), _reader(path))
    try:
        if path.exists() and not path.is_file():  # a pipe or a device may have no end
            raise UserError(f"{path}: neither a folder nor a plain file")
        with path.open("rb") as file:
            start = file.read(8)
        if zipfile.is_zipfile(path):
            return zip_file(path, stack)
        if tarfile.is_tarfile(path):
            return _tar_file(path, stack)
        if start[:2] == b"\x1f\x8b":
            with gzip.open(path) as unpacked:
                start = unpacked.read(8)
        if start[:2] == b"\0\0" and len(start) == 8:
            return {"train": idx_file(path)}
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    raise UserError(f"{path}: no folder, zip, tar, IDX file or LMDB folder of images")


def zip_file(path: Path, stack: ExitStack) -> dict[str, Collection]:
    """The images in a zip, read in place.

    Raises:
        UserError: it is damaged, holds no images, or a name in it leads out of it.
    """
    try:
        archive = stack.enter_context(zipfile.ZipFile(path))
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a readable zip ({error})") from None
    places = {_inside(path, info.filename): info for info in archive.infolist() if not info.is_dir()}
    return _arranged(path, sorted(places), lambda name: archive.read(places[name]))


def _tar_file(path: Path, stack: ExitStack) -> dict[str, Collection]:
    """The images in a tar, read in place: nothing is unpacked, so nothing can be written elsewhere."""
    try:
        plain = _without_compression(path, stack)
        places = {}
        with tarfile.open(fileobj=plain, mode="r:") as archive:
            for member in archive:
                name = _inside(path, member.name)
                if member.issparse() or not (member.isreg() or member.isdir()):
                    raise UserError(
                        f"{path}: {name!r} is a link or other special file; only plain files are read"
                    )
                if member.isreg():
                    places[name] = (member.size, member.offset_data)
            # tarfile takes the first block that it cannot read for the end.
            plain.seek(archive.offset)
            if plain.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"damaged or cut off after {archive.offset} bytes")
    except (OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{path}: not a readable tar ({error})") from None
    return _arranged(path, sorted(places), lambda name: os.pread(plain.fileno(), *places[name]))


def _without_compression(path: Path, stack: ExitStack) -> IO[bytes]:
    """The tar itself, or a temporary file with what is compressed in it, for reading at random."""
    with tarfile.open(path) as archive:
        unpacked: Any = archive.fileobj
        if isinstance(unpacked, io.BufferedReader):
            return stack.enter_context(path.open("rb"))
        plain = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 (the stack closes it)
        unpacked.seek(0)
        shutil.copyfileobj(unpacked, plain, 1 << 20)
    plain.seek(0)
    return plain


def _inside(path: Path, name: str) -> str:
    """``name`` without ``./``; refuses one that leads out of the archive."""
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts:
        raise UserError(f"{path}: {name!r} leads out of the archive")
    return parts.as_posix()


def _folder_names(folder: Path) -> list[str]:
    """All files below ``folder``, also through links, with their relative names, sorted.

    Raises:
        UserError: a link leads to a folder that is there already.
    """
    found: list[str] = []
    seen: set[str] = set()
    for where, _, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:
            raise UserError(f"{where}: is the same folder as {real}")
        seen.add(real)
        base = Path(where).relative_to(folder).as_posix()
        found += [name if base == "." else f"{base}/{name}" for name in files]
    return sorted(found)


def _reader(folder: Path) -> Callable[[str], bytes]:
    def read(name: str) -> bytes:
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: not a plain file, or a link to nothing")
        return path.read_bytes()

    return read


def _is_image(name: PurePosixPath, endings: set[str]) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.parts)
    return not hidden and name.suffix.lower() in endings


def _arranged(path: Path, names: Sequence[str], read: Callable[[str], bytes]) -> dict[str, Collection]:
    """Image files by split, with their labels."""
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    images = [name for name in names if _is_image(PurePosixPath(name), endings)]
    if not images:
        raise UserError(f"{path}: holds no image files ({len(names)} files of other kinds)")
    for name in names:
        if name.endswith("/dataset.json"):
            raise UserError(f"{path}: {name}: labels are read from dataset.json at the top only")
    if "dataset.json" in names:
        labels, classes = _json_labels(path, images, read("dataset.json"))
        return {"train": _collection(path, images, labels, classes, read)}
    base = _common_folder(images)
    splits = _splits(path, images, base)
    known = {name: _first_folders(path, chosen, folder) for name, (folder, chosen) in splits.items()}
    classes = tuple(sorted({label for labels in known.values() for label in labels} - {""}))
    if len(classes) < 2:  # one folder for all says nothing
        classes, known = (), {name: [""] * len(labels) for name, labels in known.items()}
    if unknown := sorted(set(known.get("test", ())) - set(known["train"])):
        raise UserError(f"{path}: class {unknown[0]!r} of the test split is none of the training split")
    index = {label: number for number, label in enumerate(classes)} or {"": 0}
    return {
        name: _collection(
            path, chosen, np.array([index[label] for label in known[name]], np.int64), classes, read
        )
        for name, (_, chosen) in splits.items()
    }


def _collection(
    path: Path,
    names: Sequence[str],
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
    read: Callable[[str], bytes],
) -> Collection:
    def image(index: int) -> Image.Image:
        return _opened(lambda: read(names[index]), f"{path}: {names[index]}")

    return Collection(names, labels, classes, image)


def _opened(read: Callable[[], bytes], name: str) -> Image.Image:
    """The image in the bytes that ``read`` gives, not yet decoded; ``name`` is for messages.

    Raises:
        CorruptImage: they are no image.
        UserError: they cannot be read.
    """
    try:
        content = read()
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise CorruptImage(str(error)) from None
    except (OSError, RuntimeError) as error:  # of a zip also: encrypted, or packed in an unknown way
        raise UserError(f"{name}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    try:
        return Image.open(io.BytesIO(content))
    except Image.UnidentifiedImageError:
        raise CorruptImage("not an image" if content else "empty file") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise CorruptImage(str(error)) from None


def _common_folder(images: Sequence[str]) -> str:
    """The folder that wraps everything, as ``cifar10/`` round ``train`` and ``test``; else nothing."""
    base = ""
    while True:
        below = [name[len(base) :].partition("/") for name in images]
        tops = {top for top, slash, _ in below if slash}
        if len(tops) != 1 or not all(slash and "/" in rest for _, slash, rest in below):
            return base
        (top,) = tops
        if top == "train":
            return base
        base += f"{top}/"


def _splits(path: Path, images: Sequence[str], base: str) -> dict[str, tuple[str, list[str]]]:
    """Folder and images of each split: folders `train` and `test` (`val`, `valid`), else all is `train`."""
    tops = {name[len(base) :].partition("/")[0] for name in images}
    if "train" not in tops:
        return {"train": (base, list(images))}
    tests = [name for name in TEST_NAMES if name in tops]
    if strange := sorted(tops - {"train", *TEST_NAMES}):
        raise UserError(f"{path}: {strange[0]!r} beside 'train' is none of {', '.join(TEST_NAMES)}")
    folders = {"train": f"{base}train/"} | ({"test": f"{base}{tests[0]}/"} if tests else {})
    return {
        name: (folder, [image for image in images if image.startswith(folder)])
        for name, folder in folders.items()
    }


def _first_folders(path: Path, images: Sequence[str], folder: str) -> list[str]:
    """First-level folder of each image; empty where all lie in one place."""
    firsts = [name[len(folder) :].partition("/") for name in images]
    flat = [name for name, (_, slash, _) in zip(images, firsts, strict=True) if not slash]
    if flat and len(flat) < len(images):
        raise UserError(f"{path}: {flat[0]} lies beside folders of classes")
    return [top if slash else "" for top, slash, _ in firsts]


def _json_labels(
    path: Path, images: Sequence[str], content: bytes
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels of EDM's dataset.json: ``{"labels": null}`` or ``{"labels": [[name, int], …]}``."""
    try:
        labels = json.loads(content)["labels"]
        known = {str(name): label for name, label in labels} if labels is not None else None
    except (ValueError, TypeError, KeyError, RecursionError):
        raise UserError(f"{path}: dataset.json holds no 'labels': null or [[name, integer], …]") from None
    if not known:
        return np.zeros(len(images), np.int64), ()
    for name in images:
        label = known.get(name)
        if type(label) is not int or not 0 <= label < MOST_CLASSES:
            allowed = f"must be 0, 1, … {MOST_CLASSES - 1}"
            raise UserError(f"{path}: dataset.json: label of {name} = {label!r}: {allowed}")
    found = np.array([known[name] for name in images], np.int64)
    return found, tuple(str(label) for label in range(int(found.max()) + 1))


def idx_file(path: Path) -> Collection:
    """Images of an IDX file, with the labels of the file beside it (images-idx3 → labels-idx1), if any.

    Raises:
        UserError: it is damaged, does not hold bytes, or its labels do not fit.
    """
    pixels = _idx_array(path, 3)
    names = [str(index) for index in range(len(pixels))]
    labels = np.zeros(len(pixels), np.int64)
    classes: tuple[str, ...] = ()
    beside = _labels_beside(path)
    if beside is not None:
        labels = _idx_array(beside, 1).astype(np.int64)
        if len(labels) != len(pixels):
            raise UserError(f"{beside}: holds {len(labels)} labels for {len(pixels)} images")
        classes = tuple(str(label) for label in range(int(labels.max()) + 1))
    return Collection(names, labels, classes, lambda index: Image.fromarray(pixels[index]))


def _labels_beside(path: Path) -> Path | None:
    name, found = re.subn(r"images([-.])idx3", r"labels\1idx1", path.name.removesuffix(".gz"))
    candidates = (path.with_name(name), path.with_name(f"{name}.gz")) if found else ()
    return next((file for file in candidates if file.is_file()), None)


def _idx_array(path: Path, axes: int) -> NDArray[np.uint8]:
    """The unsigned bytes in an IDX file of so many axes."""
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if content[:4] != bytes([0, 0, 8, axes]):
        raise UserError(
            f"{path}: IDX type {content[:4].hex()}: only unsigned bytes of {axes} axes, 000008{axes:02x}"
        )
    shape = (
        tuple(int(size) for size in np.frombuffer(content, ">i4", axes, 4))
        if len(content) > 4 * axes
        else (0,)
    )
    start = 4 + 4 * axes
    if min(shape) < 1 or len(content) - start != math.prod(shape):
        raise UserError(f"{path}: holds {max(len(content) - start, 0)} bytes for shape {list(shape)}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def lmdb_folder(path: Path, stack: ExitStack) -> Collection:
    """Images of an LMDB folder of encoded images, as LSUN's, in the order of its keys; without labels.

    Raises:
        UserError: the package lmdb is missing, or the folder is damaged or empty.
    """
    lmdb = needed("lmdb", str(path), "lmdb")
    try:
        environment = lmdb.open(str(path), readonly=True, lock=False, readahead=False, max_readers=512)
        stack.callback(environment.close)
        whole = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        if (path / "data.mdb").stat().st_size < whole:  # to read on would kill the process
            raise UserError(f"{path}: cut off, its data.mdb must have {whole} bytes")
        with environment.begin() as view:
            keys = list(view.cursor().iternext(keys=True, values=False))
    except lmdb.Error as error:
        raise UserError(f"{path}: not a readable LMDB ({error})") from None
    if not keys:
        raise UserError(f"{path}: holds no images")
    names = [key.decode("ascii", "backslashreplace") for key in keys]

    def value(index: int) -> bytes:
        with environment.begin() as view:
            return bytes(view.get(keys[index]))

    def image(index: int) -> Image.Image:
        return _opened(lambda: value(index), f"{path}: {names[index]}")

    return Collection(names, np.zeros(len(keys), np.int64), (), image)
