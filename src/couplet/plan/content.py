"""Digests of files and folders that results are made from, whatever they are called."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from couplet.errors import UserError
from couplet.files import replacing, sha256

SETTLED = 1_000_000_000
"""Nanoseconds after its last change from which on the time of a file tells a later change apart."""

ABSENT = "absent"
"""Digest of a file that is not there (yet)."""


def content_of(path: Path) -> str:
    """SHA-256 of a file, or of all files of a folder with their names; :data:`ABSENT` if there is none.

    Hidden files do not count, which desktops write to folders of images and no reader opens; nor do LMDB's
    locks. Files are read again only when their names, sizes or times have changed since the last time.
    """
    files = list(_files(path))
    if not files:
        return ABSENT
    listing, newest = hashlib.sha256(), 0
    for name, file in files:
        status = file.stat()
        newest = max(newest, status.st_ctime_ns)
        listing.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}\n".encode())
    stamp, place = listing.hexdigest(), str(path.absolute())
    remembered = _read_memory()
    if (entry := remembered.get(place)) is not None and entry.get("stamp") == stamp:
        return str(entry["digest"])
    content = hashlib.sha256()
    for name, file in files:
        content.update(f"{name}\0{sha256(file)}\n".encode())
    digest = sha256(path) if path.is_file() else content.hexdigest()
    if time.time_ns() - newest > SETTLED:
        _write_memory({**_read_memory(), place: {"stamp": stamp, "digest": digest}})
    return digest


def _files(path: Path) -> Iterator[tuple[str, Path]]:
    """Names below ``path`` and files, in order; a file itself has an empty name."""
    if path.is_file():
        yield "", path
        return
    seen: set[str] = set()
    for folder, inner, names in os.walk(path, followlinks=True):
        real = os.path.realpath(folder)
        inner[:] = sorted(
            name for name in inner if name[0] != "." and name != "__MACOSX" and real not in seen
        )
        seen.add(real)
        for name in sorted(names):
            file = Path(folder, name)
            if file.is_file() and name[0] != "." and name != "lock.mdb":
                yield file.relative_to(path).as_posix(), file


def _memory() -> Path:
    """The file that remembers digests: a cache, which may be deleted at any time."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "couplet" / "content.json"


def _read_memory() -> dict[str, Any]:
    try:
        content = json.loads(_memory().read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {place: entry for place, entry in content.items() if isinstance(entry, dict)}


def _write_memory(content: dict[str, Any]) -> None:
    try:
        with replacing(_memory()) as temporary:
            temporary.write_text(json.dumps(content))
    except UserError:
        return  # A home that cannot be written costs time, no result.
