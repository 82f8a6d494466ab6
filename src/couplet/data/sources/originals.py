"""Published files: verified where they lie, else downloaded, else asked for by name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

from couplet.errors import UserError
from couplet.files import replacing


@dataclass(frozen=True)
class Original:
    """A file as its authors published it."""

    name: str
    """Path below the folder of its data set."""
    digest: str | None
    """``md5:…`` or ``sha256:…`` as published; None: no checksum was."""
    urls: tuple[str, ...] = ()
    """Where it can be downloaded, in order of preference."""
    drive: str | None = None
    """Its id on Google Drive, where that is the only place."""
    note: str = ""
    """Where a person finds it."""


def fetch(original: Original, folder: Path) -> tuple[Path, dict[str, str]]:
    """Path and digest of ``original`` below ``folder``, downloaded if it is not there.

    Raises:
        UserError: it is there with other content, or is not there and cannot be downloaded.
    """
    path = folder / original.name
    if not path.is_file():
        _download(original, path)
    digest = digest_of(path, (original.digest or "sha256").partition(":")[0])
    if original.digest is not None and digest != original.digest:
        raise UserError(f"{path}: is {digest}, published is {original.digest}; put the published file there")
    return path, {original.name: digest}


def digest_of(path: Path, algorithm: str = "sha256") -> str:
    """The file's digest as ``algorithm:…``.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            # MD5 is what the authors published; nothing here relies on it against an attacker.
            new = hashlib.new(algorithm, usedforsecurity=False)
            return f"{algorithm}:{hashlib.file_digest(file, lambda: new).hexdigest()}"
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


class _Failed(Exception):
    """One way of downloading did not work; the message says which and why."""


def _download(original: Original, path: Path) -> None:
    """Puts the file at ``path``, showing how far it is; only with the published content."""
    ways: list[Callable[[Path], None]] = [partial(_from_url, url) for url in original.urls]
    if original.drive is not None:
        ways.append(partial(_from_drive, original.drive))
    failures = []
    for way in ways:
        try:
            with replacing(path) as temporary:
                way(temporary)
                _compare(original, temporary)
            return
        except _Failed as failure:
            failures.append(str(failure))
    where = [original.note, f"published: {original.digest}" if original.digest else "no published checksum"]
    if failures:
        where.append(f"the download failed: {'; '.join(failures)}")
    raise UserError(f"{path}: not there; put it there by hand ({'; '.join(filter(None, where))})")


def _from_url(url: str, path: Path) -> None:
    from torch.hub import download_url_to_file

    try:
        download_url_to_file(url, str(path))
    except (URLError, HTTPException, ConnectionError, TimeoutError) as error:
        raise _Failed(f"{url}: {error}") from None


def _from_drive(key: str, path: Path) -> None:
    from torchvision.datasets.utils import download_file_from_google_drive

    try:
        download_file_from_google_drive(key, path.parent, path.name)
    except Exception as error:  # gdown, which does the work, has exceptions of its own
        raise _Failed(f"Google Drive {key}: {error}") from None


def _compare(original: Original, path: Path) -> None:
    if original.digest is not None:
        digest = digest_of(path, original.digest.partition(":")[0])
        if digest != original.digest:
            raise _Failed(f"what came is {digest}")
