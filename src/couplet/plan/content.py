"""Digests of files and folders that results are made from, whatever they are called."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
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
    names = dict(_files(path))
    if not names:
        return ABSENT
    facts = {name: file.stat() for name, file in names.items()}
    stamp = _digest([[name, of.st_size, of.st_mtime_ns, of.st_ctime_ns] for name, of in facts.items()])
    place = str(path.absolute())
    remembered = _read_memory().get(place)
    if isinstance(remembered, dict) and remembered.get("stamp") == stamp:
        return str(remembered["digest"])
    digest = sha256(path) if path.is_file() else _digest({name: sha256(names[name]) for name in names})
    if time.time_ns() - max(of.st_ctime_ns for of in facts.values()) > SETTLED:
        memory = {**_read_memory(), place: {"stamp": stamp, "digest": digest}}
        # A home that cannot be written costs time, no result.
        with suppress(UserError), replacing(_memory()) as temporary:
            temporary.write_text(json.dumps(memory))
    return digest


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


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
    with suppress(OSError, ValueError):
        content = json.loads(_memory().read_text())
        return content if isinstance(content, dict) else {}
    return {}
