"""Images in a folder, zip, tar, IDX file or LMDB folder, recognised by content, with labels and splits."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import math
import os
import posixpath
import re
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from couplet.data.archive import CorruptImage, Stream
from couplet.errors import UserError

TEST_NAMES = ("test", "val", "valid")
"""Names of a folder of test images next to `train`; the first existing one is used."""

UNPACK: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZ": bz2.open,
    b"\xfd7": lzma.open,
}
"""Opens a compressed file, by the file's first bytes."""

MOST_CLASSES = 1_000_000
"""Labels from here on are refused as mistakes, because every number up to the largest label is a class."""


def images_at(path: Path, stack: ExitStack) -> dict[str, Stream[Image.Image]]:
    """The images at ``path``, not yet decoded: ``train`` and, if it has two splits, ``test``.

    Args:
        path: a folder, zip, tar (also .gz, .bz2, .xz) or IDX file (also .gz), or an LMDB folder.
        stack: closes the files that stay open until the images are read.

    Raises:
        UserError: ``path`` is missing, damaged, of another format or without images; the images of several
            splits or classes are mixed, or their labels are not allowed.
    """
    if (path / "data.mdb").is_file():
        return {"train": _lmdb_folder(path, stack)}
    if path.is_dir():
        return _folder(path)
    with _readable(path):
        if path.exists() and not path.is_file():  # a pipe or a device may have no end
            raise UserError(f"{path}: must be a folder or a plain file")
        if zipfile.is_zipfile(path):
            return _zip_file(path, stack)
        plain = _plain(path, stack)
        if tarfile.is_tarfile(plain):
            return _tar_file(path, plain)
        if (start := plain.read(8))[:2] == b"\0\0" and len(start) == 8:
            return {"train": _idx_file(path, stack)}
    raise UserError(f"{path}: must be a folder, zip, tar, IDX file or LMDB folder of images")


@contextmanager
def _readable(place: object) -> Iterator[None]:
    """Report as a UserError that ``place`` is missing or damaged."""
    try:
        yield
    except (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{place}: cannot be read ({reason})") from None


def _folder(folder: Path) -> dict[str, Stream[Image.Image]]:
    """The images in all folders below ``folder``; follows links."""
    names: list[str] = []
    seen: set[str] = set()
    for where, _, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:
            raise UserError(f"{where}: is the same folder as {real}; remove the link")
        seen.add(real)
        names += [(Path(where) / name).relative_to(folder).as_posix() for name in files]

    def read(name: str) -> bytes:
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: must be a plain file or a link to one")
        return path.read_bytes()

    return _splits(folder, names, read)


def _zip_file(path: Path, stack: ExitStack) -> dict[str, Stream[Image.Image]]:
    """The images in a zip, which is not unpacked."""
    archive = stack.enter_context(zipfile.ZipFile(path))
    members = {_inside(path, info.filename): info for info in archive.infolist() if not info.is_dir()}
    return _splits(path, members, lambda name: archive.read(members[name]))


def _plain(path: Path, stack: ExitStack) -> IO[bytes]:
    """The file itself, or a temporary decompressed copy that can be read at random."""
    file = stack.enter_context(path.open("rb"))
    unpack = UNPACK.get(file.read(2))
    file.seek(0)
    if unpack is None:
        return file
    plain = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 (the stack closes it)
    with unpack(file) as unpacked:
        shutil.copyfileobj(unpacked, plain, 1 << 20)
    plain.seek(0)
    return plain


def _tar_file(path: Path, plain: IO[bytes]) -> dict[str, Stream[Image.Image]]:
    """The images in a tar, which is not unpacked."""
    places = {}
    with tarfile.open(fileobj=plain, mode="r:") as archive:
        for member in archive:
            name = _inside(path, member.name)
            if member.issparse() or not (member.isreg() or member.isdir()):
                raise UserError(f"{path}: {name!r} is a link or other special file; pack plain files only")
            if member.isreg():
                places[name] = (member.size, member.offset_data)
    # tarfile takes the first unreadable block for the end.
    plain.seek(archive.offset)
    if plain.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"damaged or truncated after {archive.offset} bytes")
    return _splits(path, places, lambda name: os.pread(plain.fileno(), *places[name]))


def _inside(path: Path, name: str) -> str:
    """``name`` without ``./``; refuses a name that leads out of the archive."""
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts:
        raise UserError(f"{path}: {name!r} leads out of the archive")
    return parts.as_posix()


def _splits(path: Path, files: Iterable[str], read: Callable[[str], bytes]) -> dict[str, Stream[Image.Image]]:
    """The images among the files, by split; labels come from folders or dataset.json."""
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    names = sorted(files)
    images = [name for name in names if _is_image(PurePosixPath(name), endings)]
    if not images:
        raise UserError(f"{path}: contains no image files ({len(names)} files of other kinds)")
    for name in names:
        if name.endswith("/dataset.json"):
            raise UserError(f"{path}: {name}: move dataset.json to the top, where labels are read from")

    def split(names: list[str], labels: NDArray[np.int64], classes: tuple[str, ...]) -> Stream[Image.Image]:
        return Stream(names, labels, lambda i: _opened(path, names[i], lambda: read(names[i])), classes)

    if "dataset.json" in names:
        return {"train": split(images, *_json_labels(path, images, read("dataset.json")))}
    folders = _folders(path, images)
    classes = tuple(sorted({label for labels in folders.values() for label in labels.values()} - {""}))
    if len(classes) < 2:  # a single folder is no label
        classes = ()
    unknown = sorted({*folders.get("test", {}).values()} - {*folders["train"].values()})
    if classes and unknown:
        raise UserError(f"{path}: class {unknown[0]!r} of the test split is not in the training split")
    number = {label: index for index, label in enumerate(classes)}
    splits = {}
    for name, labels in folders.items():
        numbers = np.array([number.get(label, 0) for label in labels.values()], np.int64)
        splits[name] = split([*labels], numbers, classes)
    return splits


def _opened(path: Path, name: str, read: Callable[[], bytes]) -> Image.Image:
    """The image ``name`` in ``path``, whose encoded bytes ``read`` returns, not yet decoded."""
    try:
        content = read()
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise CorruptImage(str(error)) from None
    except (OSError, RuntimeError) as error:  # includes encrypted zips and unknown compression
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: {name}: cannot be read ({reason})") from None
    try:
        return Image.open(io.BytesIO(content))
    except Image.UnidentifiedImageError:
        raise CorruptImage("not an image" if content else "empty file") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise CorruptImage(str(error)) from None


def _is_image(name: PurePosixPath, endings: set[str]) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.parts)
    return not hidden and name.suffix.lower() in endings


def _folders(path: Path, images: list[str]) -> dict[str, dict[str, str]]:
    """Images and their labels in folders `train` and `test` (`val`, `valid`), else all as `train`.

    Those folders may be in others, such as `cifar10/train`.
    """
    common = posixpath.commonpath({posixpath.dirname(posixpath.dirname(name)) for name in images})
    base = "".join(f"{part}/" for part in takewhile("train".__ne__, PurePosixPath(common).parts))
    tops = {name[len(base) :].partition("/")[0] for name in images}
    if "train" not in tops:
        return {"train": _labels(path, images, base)}
    if others := sorted(tops - {"train", *TEST_NAMES}):
        raise UserError(f"{path}: {others[0]!r} next to 'train' must be one of {', '.join(TEST_NAMES)}")
    tests = [name for name in TEST_NAMES if name in tops][:1]
    splits = zip(("train", "test"), ("train", *tests), strict=False)
    return {split: _labels(path, images, f"{base}{top}/") for split, top in splits}


def _labels(path: Path, images: list[str], folder: str) -> dict[str, str]:
    """Each image below ``folder`` with the name of its folder directly below, empty without one."""
    inside = {name: name.removeprefix(folder) for name in images if name.startswith(folder)}
    labels = {name: rest.partition("/")[0] if "/" in rest else "" for name, rest in inside.items()}
    flat = [name for name, label in labels.items() if not label]
    if flat and len(flat) < len(labels):
        raise UserError(f"{path}: {flat[0]} is next to folders of classes; move it into one of them")
    return labels


def _json_labels(path: Path, images: list[str], content: bytes) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels and classes of EDM's dataset.json: ``{"labels": [[name, int], …]}``, or null."""
    try:
        pairs = json.loads(content)["labels"]
        label_of = {str(name): label for name, label in pairs} if pairs is not None else None
    except (ValueError, TypeError, KeyError, RecursionError):
        raise UserError(f"{path}: dataset.json must contain 'labels': null or [[name, integer], …]") from None
    if not label_of:
        return np.zeros(len(images), np.int64), ()
    for name in images:
        label = label_of.get(name)
        if type(label) is not int or not 0 <= label < MOST_CLASSES:
            allowed = f"must be 0, 1, … {MOST_CLASSES - 1}"
            raise UserError(f"{path}: dataset.json: label of {name} = {label!r}: {allowed}")
    return _numbered([label_of[name] for name in images])


def _idx_file(path: Path, stack: ExitStack) -> Stream[Image.Image]:
    """The images of an IDX file (MNIST's format), with the labels of a file labels-idx1 next to it."""
    pixels = _idx_array(path, 3, stack)
    labels: NDArray[np.int64] = np.zeros(len(pixels), np.int64)
    classes: tuple[str, ...] = ()
    name, replaced = re.subn(r"images([-.])idx3", r"labels\1idx1", path.name.removesuffix(".gz"))
    for file in (path.with_name(name), path.with_name(f"{name}.gz")):
        if replaced and file.is_file():
            labels, classes = _numbered(_idx_array(file, 1, stack))
            if len(labels) != len(pixels):
                raise UserError(f"{file}: contains {len(labels)} labels for {len(pixels)} images")
            break
    names = [str(index) for index in range(len(pixels))]
    return Stream(names, labels, lambda index: Image.fromarray(pixels[index]), classes)


def _numbered(labels: Any) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels as an array, and all numbers up to the largest as classes."""
    return np.array(labels, np.int64), tuple(map(str, range(int(max(labels)) + 1)))


def _idx_array(path: Path, axes: int, stack: ExitStack) -> NDArray[np.uint8]:
    """The unsigned bytes of an IDX file, as an array with this number of axes."""
    with _readable(path):
        content = _plain(path, stack).read()
    if content[:4] != bytes([0, 0, 8, axes]):
        raise UserError(
            f"{path}: IDX type {content[:4].hex()}: must be 000008{axes:02x}, unsigned bytes of {axes} axes"
        )
    start = 4 + 4 * axes
    shape = np.frombuffer(content, ">i4", axes, 4).tolist() if len(content) >= start else [0]
    if min(shape) < 1 or len(content) - start != math.prod(shape):
        raise UserError(f"{path}: contains {max(len(content) - start, 0)} bytes for shape {shape}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _lmdb_folder(path: Path, stack: ExitStack) -> Stream[Image.Image]:
    """The images of an LMDB folder, such as LSUN's, in the order of their keys, without labels."""
    import lmdb

    try:
        environment = lmdb.open(str(path), readonly=True, lock=False, readahead=False, max_readers=512)
        stack.callback(environment.close)
        size = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        if (path / "data.mdb").stat().st_size < size:  # reading a missing page would kill the process
            raise UserError(f"{path}: truncated; its data.mdb must have {size} bytes")
        with environment.begin() as view:
            keys = list(view.cursor().iternext(keys=True, values=False))
    except lmdb.Error as error:
        raise UserError(f"{path}: not a readable LMDB ({error})") from None
    if not keys:
        raise UserError(f"{path}: contains no images")
    names = [key.decode("ascii", "backslashreplace") for key in keys]

    def value(index: int) -> bytes:
        with environment.begin() as view:
            return bytes(view.get(keys[index], b""))

    labels = np.zeros(len(keys), np.int64)
    return Stream(names, labels, lambda i: _opened(path, names[i], lambda: value(i)))
