"""Files of checkpoints: recognised by their first bytes, read without executing anything in them."""

from __future__ import annotations

import json
import mmap
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

from torch import Tensor

from couplet.interop import pickles
from couplet.interop.pickles import STORAGES, Storage
from couplet.tensors import load_tensors

_ZIP = b"PK\x03\x04"
_LARGEST_JSON = 1_000_000
_LARGEST_HEADER = 100_000_000
_BEGINNINGS = {
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.": "a file of torch.save before 1.6",
    b"version https://git-lfs": "a pointer of Git LFS, whose file was not fetched (git lfs pull)",
    b"\x1f\x8b": "compressed by gzip",
    b"\xfd7zXZ": "compressed by xz",
    b"BZh": "compressed by bzip2",
    b"\x28\xb5\x2f\xfd": "compressed by zstandard",
    b"PK\x05\x06": "an empty zip",
    b"\x89HDF": "an HDF5 file",
    b"\x89PNG": "a picture",
    b"<": "a page of HTML or XML, not the file that it describes",
    b"{": "a JSON file",
}


class Refused(Exception):
    """A file is not what was expected; the text says what was found."""


class Needed(Refused):
    """An option is missing or wrong."""


class Content(NamedTuple):
    """What a file holds."""

    value: Any
    """The object that was saved; of a safetensors file, its tensors by name."""
    texts: dict[str, str]
    """Texts beside the tensors of a safetensors file."""


def read(path: Path) -> Content:
    """Read a pickle, a file of torch.save or a safetensors file. Tensors stay in the file until read.

    Raises:
        Refused: the file is none of them.
        Exception: nearly any, where it is damaged.
    """
    with path.open("rb") as file:
        beginning = file.read(32)
    for first, kind in _BEGINNINGS.items():
        if beginning.startswith(first):
            raise Refused(kind)
    if not beginning:
        raise Refused("empty")
    if beginning.startswith(_ZIP):
        return Content(_torch_zip(path), {})
    if beginning[8:9] == b"{":
        texts, tensors = _safetensors(path)
        return Content(tensors, texts)
    if not beginning.startswith(b"\x80"):
        raise Refused("a file of no known kind")
    return Content(pickles.load(path.read_bytes()), {})


def read_json(path: Path) -> dict[str, Any]:
    """A small JSON object; Refused if it is none."""
    if path.stat().st_size > _LARGEST_JSON:
        raise Refused(f"a JSON file of {path.stat().st_size} bytes")
    content = json.loads(path.read_text())
    if not isinstance(content, dict):
        raise Refused("JSON that is no object")
    return content


def _safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
    if length > min(size, _LARGEST_HEADER):
        raise Refused(f"a safetensors file whose header claims {length} bytes of {size}")
    return load_tensors(path)


def _torch_zip(path: Path) -> Any:
    """The object that torch.save wrote; its storages stay in the mapped file."""
    with path.open("rb") as file:
        blob = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        parts = _parts(archive.infolist(), blob)
    pickled = [name for name in parts if name == "data.pkl"]
    if not pickled:
        raise Refused("a zip without data.pkl, not a file of torch.save")
    if "byteorder" in parts and bytes(parts["byteorder"]()) != b"little":
        raise UnpicklingError("numbers are not in little-endian order")

    @cache
    def storage(pid: Any) -> Storage:
        tag, dtype, key, _, count = pid
        if tag != "storage" or dtype not in STORAGES.values() or type(count) is not int:
            raise UnpicklingError("a tensor storage in an unknown format")
        load = parts[f"data/{key}"]
        if count * dtype.itemsize > lengths[f"data/{key}"]:
            raise UnpicklingError(f"storage {key} of {count} elements is shorter in the file")
        return Storage(dtype, count * dtype.itemsize, load)

    lengths = {name: part.length for name, part in parts.items()}
    return pickles.load(bytes(parts["data.pkl"]()), storage)


class _Part:
    """An entry of a zip; called, its bytes, whose checksum is then verified."""

    def __init__(self, data: memoryview, checksum: int, name: str) -> None:
        self.length = len(data)

        @cache
        def checked() -> memoryview:
            if zlib.crc32(data) != checksum:
                raise UnpicklingError(f"{name} does not match its checksum")
            return data

        self._checked: Callable[[], memoryview] = checked

    def __call__(self) -> memoryview:
        return self._checked()


def _parts(entries: list[zipfile.ZipInfo], blob: memoryview) -> dict[str, _Part]:
    """Entries by name inside their one folder, none compressed, encrypted, twice there or overlapping."""
    parts: dict[str, _Part] = {}
    free = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        name = entry.filename.partition("/")[2]
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise UnpicklingError(f"{entry.filename[:80]} is compressed, which torch.save does not do")
        if entry.flag_bits & 1 or not name or ".." in name.split("/") or name in parts:
            raise UnpicklingError(f"entry {entry.filename[:80]} is none of torch.save")
        header = blob[entry.header_offset : entry.header_offset + 30]
        if entry.header_offset < free or header[:4] != _ZIP:
            raise UnpicklingError(f"entry {name} overlaps another")
        start = entry.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
        free = start + entry.file_size
        if free > len(blob):
            raise UnpicklingError(f"entry {name} is longer than the file")
        parts[name] = _Part(blob[start:free], entry.CRC, name)
    return parts
