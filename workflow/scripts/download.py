"""Download or copy a published file and check its SHA-256: download.py ADDRESS OUT [SHA256]."""

import shutil
import sys
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

from couplet.data.sources.published import retrieve
from couplet.errors import UserError
from couplet.files import replacing, sha256


def download(address: str, out: Path, wanted: str | None) -> None:
    """Write the content of ``address`` to ``out``; UserError if it cannot be read or is another one."""
    with replacing(out) as temporary:
        try:
            if (url := urlparse(address)).scheme == "file":
                shutil.copyfile(url2pathname(url.path), temporary)
            else:
                retrieve(address, temporary)
        except (ValueError, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{address}: cannot be downloaded ({reason}); give its path as `file`") from None
        with temporary.open("rb") as file:
            start = file.read(512).lstrip().lower()
        if start.startswith((b"<!doctype html", b"<html")):
            raise UserError(f"{address}: answers with a page; download the file and give its path as `file`")
        if wanted and (found := sha256(temporary)) != wanted:
            raise UserError(f"{address}: has SHA-256 {found}, the list says {wanted}; it is another file")


if __name__ == "__main__":
    try:
        download(sys.argv[1], Path(sys.argv[2]), next(iter(sys.argv[3:]), None))
    except UserError as error:
        print(f"couplet: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
