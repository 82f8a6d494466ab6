"""Images in a folder, zip, tar, IDX file or LMDB, recognised by content, with labels and splits."""

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
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from couplet.config.datasets import labels_beside
from couplet.data.archive import CorruptImage, Stream
from couplet.errors import UserError

Member = TypeVar("Member")

ROLES = {
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("train", "training"), "train"),
}
"""Names of a folder of one split, in lower case, and the split; `test` is taken before `validation`."""

LIKE_A_SPLIT = re.compile(
    rf"(?:[a-z0-9]+[-_ ])?({'|'.join(ROLES)})[-_ ]?(?:set|split|data|folder|im(?:age|g)s?)?[-_ ]?\(?\d*\)?"
)
"""Names that are no split's but may be meant as such: `train2017`, `seg_test`, `testset`."""

UNPACK: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZ": bz2.open,
    b"\xfd7": lzma.open,
}
"""Opens a compressed file, by the file's first bytes."""

LMDB = b"\xde\xc0\xef\xbe"
"""Bytes 16 to 19 of an LMDB file."""

LABELS = "dataset.json"
"""File of labels at the top, as EDM's dataset_tool writes it."""

MOST_CLASSES = 1_000_000
"""Labels from here on are refused as mistakes, because every number up to the largest label is a class."""


@dataclass(frozen=True)
class Found:
    """The images at a path, not yet decoded."""

    splits: Mapping[str, Stream[Image.Image]]
    """``train`` and, if there are two splits, ``test``."""
    folders: Mapping[str, str] = field(default_factory=dict)
    """The folder of each split, where folders are splits."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Numbers of files that are not read, by reason: a suffix, or a word such as `hidden`."""


def images_at(path: Path, stack: ExitStack) -> Found:
    """The images at ``path``.

    Args:
        path: a folder, zip, tar (also .gz, .bz2, .xz) or IDX file (also .gz), or an LMDB folder or file.
        stack: closes the files that stay open until the images are read.

    Raises:
        UserError: ``path`` is missing, damaged, of another format or without images; the images of several
            splits or classes are mixed, or their labels are not allowed.
    """
    if (path / "data.mdb").is_file():
        return Found({"train": _lmdb(path / "data.mdb", stack)})
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
        plain.seek(0)
        start = plain.read(20)
        if start[16:] == LMDB:
            return Found({"train": _lmdb(path, stack)})
        if start[:2] == b"\0\0" and len(start) >= 8:
            return Found({"train": _idx_file(path, stack)})
    raise UserError(f"{path}: must be a folder, zip, tar, IDX file or LMDB folder of images")


@contextmanager
def _readable(place: object) -> Iterator[None]:
    """Report as a UserError that ``place`` is missing or damaged."""
    try:
        yield
    except (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{place}: cannot be read ({reason})") from None


def _folder(folder: Path) -> Found:
    """The images in all folders below ``folder``; follows links."""
    files: list[tuple[str, Path]] = []
    seen: set[str] = set()
    for where, _, names in os.walk(folder, onerror=_unreadable, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:
            raise UserError(f"{where}: is the same folder as {real}; remove the link")
        seen.add(real)
        paths = (Path(where) / name for name in names)
        files += [(path.relative_to(folder).as_posix(), path) for path in paths]

    def read(path: Path) -> bytes:
        if not path.is_file():
            raise UserError(f"{path}: must be a plain file or a link to one")
        return path.read_bytes()

    return _splits(folder, _members(folder, files), read)


def _unreadable(error: OSError) -> None:
    """Report a folder that cannot be listed, which `os.walk` would leave out."""
    raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from None


def _zip_file(path: Path, stack: ExitStack) -> Found:
    """The images in a zip, which is not unpacked."""
    archive = stack.enter_context(zipfile.ZipFile(path))
    files = ((info.filename, info) for info in archive.infolist() if info.filename[-1:] not in ("/", "\\"))
    return _splits(path, _members(path, files), archive.read)


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


def _tar_file(path: Path, plain: IO[bytes]) -> Found:
    """The images in a tar, which is not unpacked."""
    places = []
    with tarfile.open(fileobj=plain, mode="r:") as archive:
        for member in archive:
            if member.issparse() or not (member.isreg() or member.isdir()):
                raise UserError(
                    f"{path}: {member.name!r} is a link or other special file; pack plain files only"
                )
            if member.isreg():
                places.append((member.name, (member.size, member.offset_data)))
    # tarfile takes the first unreadable block for the end.
    plain.seek(archive.offset)
    if plain.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"damaged or truncated after {archive.offset} bytes")
    return _splits(path, _members(path, places), lambda place: os.pread(plain.fileno(), *place))


def _plain_name(name: str) -> str:
    """``name`` without ``./``, and with slashes where Windows wrote backslashes."""
    return PurePosixPath(name.replace("\\", "/")).as_posix()


def _members(path: Path, files: Iterable[tuple[str, Member]]) -> dict[str, Member]:
    """Files by plain name; refuses a name that leads out of ``path``, and two files of one name."""
    members: dict[str, Member] = {}
    for written, member in files:
        name = _plain_name(written)
        if name.startswith("/") or ".." in name.split("/"):
            raise UserError(f"{path}: {written!r} leads out of the archive")
        if name in members:
            raise UserError(f"{path}: contains two files of the name {name!r}; remove one")
        members[name] = member
    return members


def _splits(path: Path, members: Mapping[str, Member], read: Callable[[Member], bytes]) -> Found:
    """The images among the files, by split; labels come from folders or dataset.json."""
    left_out: Counter[str] = Counter()
    images = []
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    for name in sorted(members):
        if name.endswith("/dataset.json"):
            raise UserError(f"{path}: {name}: move dataset.json to the top, where labels are read from")
        reason = _no_image(PurePosixPath(name), endings)
        if reason is None:
            images.append(name)
        elif name != LABELS:
            left_out[reason] += 1
    if not images:
        kinds = f": {counted_words(left_out)}" if left_out else ""
        raise UserError(f"{path}: contains no image files ({left_out.total()} files of other kinds{kinds})")
    folders = _folders(path, images)
    names = {split: [name for name in images if name.startswith(folder)] for split, folder in folders.items()}
    if "unused" in names:
        left_out[f"images in {folders.pop('unused')[:-1]}"] = len(names.pop("unused"))
    for split, folder in folders.items():
        _check_below(path, names[split], folder)
    if LABELS in members:
        label_of = _json_labels(path, read(members[LABELS]))
        left_out += Counter({"labels without an image": len(label_of.keys() - {*images})})
        numbers, classes = _looked_up(path, names, label_of)
    else:
        numbers, classes = _folder_labels(path, names, folders)

    def stream(names: list[str], labels: NDArray[np.int64]) -> Stream[Image.Image]:
        return Stream(
            names, labels, lambda i: _opened(path, names[i], lambda: read(members[names[i]])), classes
        )

    splits = {split: stream(names[split], numbers[split]) for split in folders}
    chosen = {split: folder[:-1] for split, folder in folders.items() if _role(folder)}
    return Found(splits, chosen, dict(left_out))


def counted_words(left_out: Mapping[str, int]) -> str:
    """``8 .heic, 2 hidden``."""
    return ", ".join(f"{count} {reason}" for reason, count in left_out.items())


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
        return Image.open(io.BytesIO(content), formats=_formats())
    except Image.UnidentifiedImageError:
        raise CorruptImage("not an image" if content else "empty file") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise CorruptImage(str(error)) from None


@cache
def _formats() -> tuple[str, ...]:
    """Pillow's formats; last those that the first bytes do not tell, each of which is a failed attempt."""
    Image.init()
    return tuple(sorted(Image.ID, key=lambda name: Image.OPEN[name][1] is None))


def _no_image(name: PurePosixPath, endings: set[str]) -> str | None:
    """Reason why a file is no image: ``hidden``, or its suffix."""
    if any(part.startswith(".") or part == "__MACOSX" for part in name.parts):
        return "hidden"
    suffix = name.suffix.lower()
    return None if suffix in endings else suffix or "without suffix"


def _role(folder: str) -> str | None:
    """The split that a folder is named after."""
    return ROLES.get(PurePosixPath(folder).name.lower())


def _folders(path: Path, images: list[str]) -> dict[str, str]:
    """The folder of each split, with a slash at its end, or the one of all images as `train`.

    Folders named after splits may be in others, such as `cifar10/train`. Without a test split the validation
    split takes its place; else it is `unused`. A single folder is `train`, whatever its name.

    Raises:
        UserError: folders of splits are next to other ones, or have names that may be meant as splits.
    """
    common = posixpath.commonpath({posixpath.dirname(posixpath.dirname(name)) for name in images})
    parts = takewhile(lambda part: _role(part) is None, PurePosixPath(common).parts)
    base = "".join(f"{part}/" for part in parts)
    tops = sorted({name[len(base) :].partition("/")[0] for name in images})
    by_role: dict[str, str] = {}
    for top in filter(_role, tops):
        role = ROLES[top.lower()]
        if role in by_role:
            raise UserError(f"{path}: {by_role[role]!r} and {top!r} both name the {role} split; rename one")
        by_role[role] = top
    if not by_role:
        alike = {top: match[1] for top in tops if (match := LIKE_A_SPLIT.fullmatch(top.lower()))}
        meant = [top for top, name in alike.items() if ROLES[name] != "train"]
        if meant and len(tops) > 1:
            other = next((top for top in alike if top != meant[0]), "")
            raise UserError(
                f"{path}: {meant[0]!r}{f' and {other!r}' if other else ''} may be a class or a split; name "
                "splits train and test, and classes otherwise"
            )
        return {"train": base}
    if others := [top for top in tops if top not in by_role.values()]:
        split = by_role.get("train", next(iter(by_role.values())))
        raise UserError(f"{path}: {others[0]!r} next to {split!r} must be one of {', '.join(ROLES)}")
    if len(by_role) > 1 and "train" not in by_role:
        raise UserError(f"{path}: {' and '.join(by_role.values())} are splits; train is missing")
    ordered = [f"{base}{by_role[role]}/" for role in ("train", "test", "validation") if role in by_role]
    return dict(zip(("train", "test", "unused"), ordered, strict=False))


def _check_below(path: Path, names: list[str], folder: str) -> None:
    """Raise UserError for a split's folder inside that of a class, whose images would all be trained on."""
    for name in names:
        for part in PurePosixPath(name.removeprefix(folder)).parts[:-1]:
            if _role(part):
                raise UserError(f"{path}: {name}: {part!r} is the name of a split, which must be on top")


def _folder_labels(
    path: Path, names: Mapping[str, list[str]], folders: Mapping[str, str]
) -> tuple[dict[str, NDArray[np.int64]], tuple[str, ...]]:
    """Labels of the images of each split from the folders directly below the split's, and the classes."""
    labels: dict[str, list[str]] = {}
    for split, folder in folders.items():
        rests = [name.removeprefix(folder) for name in names[split]]
        labels[split] = [rest.partition("/")[0] if "/" in rest else "" for rest in rests]
        flat = [name for name, label in zip(names[split], labels[split], strict=True) if not label]
        if flat and len(flat) < len(rests):
            raise UserError(f"{path}: {flat[0]} is next to folders of classes; move it into one of them")
    classes = tuple(sorted({label for each in labels.values() for label in each} - {""}))
    if len(classes) < 2:  # a single folder is no label
        classes = ()
    unknown = sorted({*labels.get("test", [])} - {*labels["train"]})
    if classes and unknown:
        raise UserError(f"{path}: class {unknown[0]!r} of the test split is not in the training split")
    number = {label: index for index, label in enumerate(classes)}
    numbers = {
        split: np.array([number.get(label, 0) for label in each], np.int64) for split, each in labels.items()
    }
    return numbers, classes


def _json_labels(path: Path, content: bytes) -> dict[str, Any]:
    """Labels by name in EDM's dataset.json: ``{"labels": [[name, int], …]}``, or null."""
    label_of: dict[str, Any] = {}
    try:
        for written, label in json.loads(content)["labels"] or ():
            name = _plain_name(str(written))
            if name in label_of:
                raise UserError(f"{path}: dataset.json: {name} has two labels, {label_of[name]} and {label}")
            label_of[name] = label
    except (ValueError, TypeError, KeyError, RecursionError):
        raise UserError(f"{path}: dataset.json must contain 'labels': null or [[name, integer], …]") from None
    return label_of


def _looked_up(
    path: Path, names: Mapping[str, list[str]], label_of: Mapping[str, Any]
) -> tuple[dict[str, NDArray[np.int64]], tuple[str, ...]]:
    """Labels of the images of each split from those by name, and the classes; none without labels."""
    if not label_of:
        return {split: np.zeros(len(each), np.int64) for split, each in names.items()}, ()
    for name in (name for each in names.values() for name in each):
        label = label_of.get(name)
        if type(label) is not int or not 0 <= label < MOST_CLASSES:
            allowed = f"must be 0, 1, … {MOST_CLASSES - 1}"
            raise UserError(f"{path}: dataset.json: label of {name} = {label!r}: {allowed}")
    numbers = {split: np.array([label_of[name] for name in each], np.int64) for split, each in names.items()}
    return numbers, _numbered(numbers.values())


def _idx_file(path: Path, stack: ExitStack) -> Stream[Image.Image]:
    """The images of an IDX file (MNIST's format), with the labels of a file labels-idx1 next to it."""
    pixels = _idx_array(path, 3, stack)
    labels: NDArray[np.int64] = np.zeros(len(pixels), np.int64)
    classes: tuple[str, ...] = ()
    if (file := labels_beside(path)) is not None:
        labels = _idx_array(file, 1, stack).astype(np.int64)
        classes = _numbered([labels])
        if len(labels) != len(pixels):
            raise UserError(f"{file}: contains {len(labels)} labels for {len(pixels)} images")
    names = [str(index) for index in range(len(pixels))]
    return Stream(names, labels, lambda index: Image.fromarray(pixels[index]), classes)


def _numbered(labels: Iterable[NDArray[np.int64]]) -> tuple[str, ...]:
    """All numbers up to the largest label as classes."""
    return tuple(map(str, range(1 + max(int(each.max()) for each in labels))))


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


def _lmdb(path: Path, stack: ExitStack) -> Stream[Image.Image]:
    """The images of the file of an LMDB, such as LSUN's, in the order of their keys, without labels."""
    import lmdb

    try:
        environment = lmdb.open(
            str(path), subdir=False, readonly=True, lock=False, readahead=False, max_readers=512
        )
        stack.callback(environment.close)
        size = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        if path.stat().st_size < size:  # reading a missing page would kill the process
            raise UserError(f"{path}: truncated; must have {size} bytes")
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
