"""Published files: verified, and downloaded if they are missing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from couplet.errors import UserError
from couplet.files import replacing


@dataclass(frozen=True)
class Original:
    """A file as its authors published it."""

    name: str
    """Path below the folder of its data set."""
    digest: str | None
    """Published checksum, ``md5:…`` or ``sha256:…``."""
    urls: tuple[str, ...] = ()
    """Addresses of the file, in order of preference."""
    drive: str | None = None
    """Its id on Google Drive, tried last."""
    note: str = ""
    """Tells a person how to get the file."""


def fetch(folder: Path, *originals: Original) -> dict[str, str]:
    """Digests of files below ``folder`` by name; downloads missing files.

    Raises:
        UserError: a file has other content than published, or is missing and cannot be downloaded.
    """
    digests = {}
    for original in originals:
        path = folder / original.name
        if not path.is_file():
            _download(original, path)
        digest = digests[original.name] = _digest(original, path)
        if original.digest not in (None, digest):
            raise UserError(
                f"{path}: is {digest}, published is {original.digest}; put the published file there"
            )
    return digests


def digest_of(path: Path, algorithm: str = "sha256") -> str:
    """The file's digest as ``algorithm:…``.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            # The authors published MD5; it is no defence against an attacker.
            new = hashlib.new(algorithm, usedforsecurity=False)
            return f"{algorithm}:{hashlib.file_digest(file, lambda: new).hexdigest()}"
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def _digest(original: Original, path: Path) -> str:
    """The digest of ``path`` by the algorithm of the published checksum."""
    return digest_of(path, (original.digest or "sha256").partition(":")[0])


def _download(original: Original, path: Path) -> None:
    """Download the file to ``path``, which appears only with the published content."""
    ways: list[tuple[str, Callable[[str, Path], None]]] = [(url, _from_url) for url in original.urls]
    if original.drive is not None:
        ways.append((f"Google Drive {original.drive}", _from_drive))
    failures = []
    for place, download in ways:
        try:
            with replacing(path) as temporary:
                download(place, temporary)
                digest = _digest(original, temporary)
                if original.digest not in (None, digest):
                    raise ValueError(f"the downloaded file is {digest}")
            return
        except ValueError as error:
            failures.append(f"{place}: {error}")
    hints = [original.note, f"published: {original.digest}" if original.digest else "no published checksum"]
    if failures:
        hints.append(f"the download failed: {'; '.join(failures)}")
    raise UserError(f"{path}: is missing; put it there by hand ({'; '.join(filter(None, hints))})")


def _from_url(url: str, path: Path) -> None:
    """Download a file and show the progress.

    Raises:
        ValueError: the download failed.
    """
    import pooch
    from requests import RequestException

    # A compressed transfer would arrive unpacked: other bytes for a server's own .gz file.
    download = pooch.HTTPDownloader(progressbar=True, headers={"Accept-Encoding": "identity"})
    try:
        download(url, str(path), None)
    except RequestException as error:
        raise ValueError(error) from None


def _from_drive(place: str, path: Path) -> None:
    """Download the file whose id is the last word of ``place``.

    Raises:
        ValueError: the download failed.
    """
    from torchvision.datasets.utils import download_file_from_google_drive

    try:
        download_file_from_google_drive(place.split()[-1], path.parent, path.name)
    except Exception as error:  # gdown, which does the work, has its own exceptions
        raise ValueError(error) from None
