"""Files appear whole or not at all, also when the process is killed or the power fails."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from couplet.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block succeeds.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        with suppress(OSError):  # Some network disks cannot do this for a folder.
            _sync(path.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Returns when the disk has what was written."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporary(folder: Path) -> None:
    """Removes what killed processes left of :func:`replacing`; only for who alone works in ``folder``."""
    for path in folder.rglob(".*.tmp"):
        path.unlink()


def append(path: Path, text: str) -> None:
    """Adds ``text`` to a file. Who is killed or out of space here leaves a part of it.

    Raises:
        UserError: the file cannot be written, or the disk is full.
    """
    try:
        with path.open("a") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None


@contextmanager
def locked(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Holds the lock ``path``, a file of this name, for the time of the block; a dead process holds none.

    It is a POSIX record lock: other nodes that share a network disk see it, and child processes do not
    inherit it. Where the disk has no locks, ``say`` is called with a warning, and nothing is held.

    Raises:
        UserError: another process holds it, or the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _open_locked(path, say)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None
    with file:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


def _open_locked(path: Path, say: Callable[[str], None]) -> TextIO:
    """The file, made if need be, with an exclusive lock on it."""
    while True:
        file = path.open("a+")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who held it removes it before letting go: only a lock on the file that is there now counts.
            with suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                    return file
        except (BlockingIOError, PermissionError):
            file.seek(0)
            holder = file.read() or "another process"
            file.close()
            raise UserError(f"{path}: {holder} is at work; wait for it or choose another folder") from None
        except OSError as error:
            if error.errno in NO_LOCKS:
                say(f"{path}: this disk has no locks; see to it that no other process works here")
                return file
            file.close()
            raise
        file.close()


def write_json(path: Path, content: Any) -> None:
    """``content`` as readable JSON with sorted keys: the same content gives the same bytes."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
