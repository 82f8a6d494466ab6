"""Images to measure, as they lie: a prepared data set, an array, or a folder or archive of image files."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from couplet.data.archive import ARRAYS, Archive, CorruptImage, read_array
from couplet.errors import UserError, installed
from couplet.files import reported

T = TypeVar("T")

NPY = b"\x93NUMPY"
"""The first bytes of a .npy file."""

MOST_CHANNELS = 3


class ImageArray(Protocol):
    """Images uint8 [n, h, w, c]: an array, or files that are decoded on demand."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> NDArray[np.uint8]: ...


@dataclass(frozen=True)
class Decoded:
    """Image files of one size, decoded slice by slice."""

    shape: tuple[int, ...]
    """[n, h, w, c]."""
    image: Callable[[int], NDArray[np.uint8]]
    """Image i, [h, w, c]."""

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice) -> NDArray[np.uint8]:
        return np.stack([self.image(i) for i in range(*part.indices(len(self)))])


def pixels_at(path: Path, split: str, stack: ExitStack) -> ImageArray:
    """The images at ``path``.

    Args:
        path: an output folder of `couplet prepare`; a .npy file, or an .npz file with one array of images,
            such as `arr_0` in those of OpenAI's code; a folder, zip, tar, IDX file or LMDB of image files.
        split: the split of a prepared data set.
        stack: closes the files that stay open until the images are read.

    Raises:
        UserError: there are no images, or fewer than two; they are of several sizes or splits.
    """
    if (path / ARRAYS[0]).exists():
        return Archive(path).split(split).images
    if is_npz(path):
        names = npz_names(path)
        found: ImageArray = npz_array(path, "arr_0" if "arr_0" in names or len(names) != 1 else names[0])
    elif _begins_with(path, NPY):
        found = read_array(path)
    else:
        found = _decoded(path, stack)
    if isinstance(found, np.ndarray):
        check_images(found, path)
    if len(found) < 2:
        raise UserError(f"{path}: holds {len(found)} image{'s' * (len(found) != 1)}, needed are 2 or more")
    return found


def check_images(array: NDArray[Any], place: object) -> None:
    """Raise UserError unless an array, called ``place`` in messages, is uint8 [n, h, w, c]."""
    if array.dtype != np.uint8 or array.ndim != 4 or not 1 <= array.shape[-1] <= MOST_CHANNELS:
        given = f"{array.dtype}{list(array.shape)}"
        allowed = f"must be images, uint8[number, height, width, channels] of 1 to {MOST_CHANNELS} channels"
        raise UserError(f"{place}: holds {given}, {allowed}")


def is_npz(path: Path) -> bool:
    """Whether ``path`` is a zip of arrays; UserError if its name alone says so."""
    if not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        if path.suffix == ".npz":
            raise UserError(f"{path}: cannot be read as a zip of arrays ({error})") from None
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)


def npz_names(path: Path) -> list[str]:
    """The names of the arrays in an .npz file."""
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def npz_array(path: Path, name: str) -> NDArray[Any]:
    """The array ``name`` of an .npz file; UserError if there is none, or it is damaged or of objects."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if name not in arrays.files:
                held = ", ".join(arrays.files) or "nothing"
                raise UserError(f"{path}: has no array {name!r}, only {held}")
            array: NDArray[Any] = arrays[name]
            return array
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: {name} cannot be read as an array ({error})") from None


def _begins_with(path: Path, beginning: bytes) -> bool:
    if not path.is_file():
        return False
    with reported(path, "read"), path.open("rb") as file:
        return file.read(len(beginning)) == beginning


def _decoded(path: Path, stack: ExitStack) -> Decoded:
    """The image files at ``path``, which must agree in size and channels; all are opened, none decoded."""
    with installed("image files"):
        from couplet.data.sources.containers import images_at
        from couplet.data.sources.images import checked, first_shape, pixels

    found = images_at(path, stack)
    if len(found.splits) > 1:
        raise UserError(f"{path}: has splits {' and '.join(found.folders.values())}; give the folder of one")
    (files,) = found.splits.values()
    height, width, channels = first_shape(files, str(path))
    alike = checked(files, str(path), size=(height, width), channels=channels)

    def named(index: int, function: Callable[[int], T]) -> T:
        try:
            return function(index)
        except CorruptImage as error:
            problem = f"cannot be decoded ({error}); repair it or take it out"
            raise UserError(f"{path}: {files.names[index]}: {problem}") from None

    for index in range(len(files)):
        named(index, alike.image)  # before hours of work on the others
    return Decoded(
        (len(files), height, width, channels),
        lambda index: named(index, lambda i: pixels(alike.image(i), channels)),
    )
