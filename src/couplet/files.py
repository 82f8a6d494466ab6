"""Files that appear complete or not at all, even if the process is killed or the power fails."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from couplet.errors import UserError


@contextmanager
def reported(path: Path, verb: str) -> Iterator[None]:
    """Report an OSError as a UserError: ``path`` cannot be ``verb``, `read` or `written`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be {verb} ({error.strerror or error})") from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path, for a file or a folder, that replaces ``path`` when the block succeeds.

    Raises:
        UserError: ``path`` cannot be written.
    """
    temporary, former = (path.with_name(f".{path.name}.{os.getpid()}.{end}") for end in ("tmp", "former.tmp"))
    try:
        with reported(path, "written"):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _sync(temporary)
            if temporary.is_dir() and path.is_dir():
                path.replace(former)
            temporary.replace(path)
            shutil.rmtree(former, ignore_errors=True)
        with suppress(OSError):  # Some network disks cannot do this for a folder.
            _sync(path.parent)
    finally:
        with suppress(OSError):
            shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until the disk has the content of a file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporary(folder: Path) -> None:
    """Delete temporary files of killed processes. Call only while holding the folder's lock."""
    for path in [*folder.rglob(".*.tmp")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def append(path: Path, text: str) -> None:
    """Append ``text`` to a file, or raise UserError. A kill or a full disk may leave a partial line."""
    with reported(path, "written"), path.open("a") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def locked(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock file ``path`` during the block; a dead process holds no lock.

    On a disk without locks, ``say`` is called with a warning instead. Nodes that share a network disk see
    each other's locks if the disk passes them on.

    Raises:
        UserError: another process holds it, or the file cannot be written.
    """
    # Waits in case a holder is just removing the file.
    lock = FileLock(path, timeout=0.1, fallback_to_soft=False)
    with reported(path, "written"):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        except Timeout:
            holder = ""
            with suppress(OSError):
                holder = path.read_text()
            at_work = f"{holder or 'another process'} is at work"
            raise UserError(f"{path}: {at_work}; wait for it or choose another folder") from None
        except OSError as error:
            lock.release()
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            say(f"{path}: this disk has no locks; make sure that no other process works here")
    try:
        yield
    finally:
        # Before the release, so that nobody locks a file that is then removed.
        path.unlink(missing_ok=True)
        lock.release()


def write_json(path: Path, content: Any) -> None:
    """Write readable JSON with sorted keys: the same content gives the same bytes."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; UserError if it is missing or is not JSON."""
    try:
        with reported(path, "read"):
            return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None


def sha256(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal; UserError if it cannot be read."""
    with reported(path, "read"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
