"""Published files: verified, and downloaded if they are missing."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from couplet.errors import UserError
from couplet.files import replacing

DRIVE = "Google Drive "


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


def _digest(original: Original, path: Path) -> str:
    """The digest of ``path`` by the algorithm of the published checksum."""
    algorithm = (original.digest or "sha256").partition(":")[0]
    try:
        with path.open("rb") as file:
            # The authors published MD5; it is no defence against an attacker.
            new = hashlib.new(algorithm, usedforsecurity=False)
            return f"{algorithm}:{hashlib.file_digest(file, lambda: new).hexdigest()}"
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def _download(original: Original, path: Path) -> None:
    """Download the file to ``path``, which appears only with the published content."""
    drive = () if original.drive is None else (f"{DRIVE}{original.drive}",)
    failures = []
    for place in original.urls + drive:
        try:
            with replacing(path) as temporary:
                _retrieve(place, temporary)
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


def _retrieve(place: str, path: Path) -> None:
    """Download a file from an address, or from Google Drive, and show the progress.

    Raises:
        ValueError: the download failed.
    """
    import pooch
    from requests import RequestException
    from torchvision.datasets import utils

    # A compressed transfer would arrive unpacked: other bytes for a server's own .gz file.
    http = pooch.HTTPDownloader(progressbar=True, headers={"Accept-Encoding": "identity"})
    drive = place.startswith(DRIVE)
    try:
        if drive:
            utils.download_file_from_google_drive(place.removeprefix(DRIVE), path.parent, path.name)
        else:
            http(place, str(path), None)
    except Exception as error:
        # gdown, which torchvision uses, has its own exceptions; a full disk is no failure of the server.
        if drive or isinstance(error, RequestException):
            raise ValueError(error) from None
        raise
