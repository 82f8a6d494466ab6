"""Images in a folder, zip, tar, IDX file or LMDB folder, recognised by content."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import IO, Any

from couplet.data.sources.collection import Collection
from couplet.data.sources.idx import idx_file
from couplet.data.sources.lmdb_folder import lmdb_folder
from couplet.data.sources.tree import collections_of
from couplet.errors import UserError


def images_at(path: Path, stack: ExitStack) -> dict[str, Collection]:
    """The images at ``path``: ``train`` and, if it has two splits, ``test``.

    Args:
        path: a folder, zip, tar (also .gz, .bz2, .xz) or IDX file (also .gz), or an LMDB folder.
        stack: closes the files that stay open until the images are read.

    Raises:
        UserError: ``path`` is missing, is damaged, has another format or contains no images.
    """
    if (path / "data.mdb").is_file():
        return {"train": lmdb_folder(path, stack)}
    if path.is_dir():
        return _folder(path)
    try:
        if path.exists() and not path.is_file():  # a pipe or a device may have no end
            raise UserError(f"{path}: must be a folder or a plain file")
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
    raise UserError(f"{path}: must be a folder, zip, tar, IDX file or LMDB folder of images")


def _folder(folder: Path) -> dict[str, Collection]:
    """The images in all folders below ``folder``; follows links.

    Raises:
        UserError: a link leads to a folder that is read already, or a file is not readable.
    """
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

    return collections_of(folder, sorted(names), read)


def zip_file(path: Path, stack: ExitStack) -> dict[str, Collection]:
    """The images in a zip, which is not unpacked.

    Raises:
        UserError: the zip is damaged, contains no images, or a name leads out of it.
    """
    try:
        archive = stack.enter_context(zipfile.ZipFile(path))
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a readable zip ({error})") from None
    members = {_inside(path, info.filename): info for info in archive.infolist() if not info.is_dir()}
    return collections_of(path, sorted(members), lambda name: archive.read(members[name]))


def _tar_file(path: Path, stack: ExitStack) -> dict[str, Collection]:
    """The images in a tar, which is not unpacked."""
    try:
        plain = _without_compression(path, stack)
        places = {}
        with tarfile.open(fileobj=plain, mode="r:") as archive:
            for member in archive:
                name = _inside(path, member.name)
                if member.issparse() or not (member.isreg() or member.isdir()):
                    raise UserError(
                        f"{path}: {name!r} is a link or other special file; pack plain files only"
                    )
                if member.isreg():
                    places[name] = (member.size, member.offset_data)
            # tarfile takes the first unreadable block for the end.
            plain.seek(archive.offset)
            if plain.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"damaged or truncated after {archive.offset} bytes")
    except (OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{path}: not a readable tar ({error})") from None
    return collections_of(path, sorted(places), lambda name: os.pread(plain.fileno(), *places[name]))


def _without_compression(path: Path, stack: ExitStack) -> IO[bytes]:
    """The tar itself, or a temporary decompressed copy that can be read at random."""
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
    """``name`` without ``./``; refuses a name that leads out of the archive."""
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts:
        raise UserError(f"{path}: {name!r} leads out of the archive")
    return parts.as_posix()
