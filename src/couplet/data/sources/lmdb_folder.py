"""LMDB folders of encoded images, such as LSUN's."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np

from couplet.data.sources.collection import Collection, opener
from couplet.errors import UserError


def lmdb_folder(path: Path, stack: ExitStack) -> Collection:
    """The images in the order of their keys, without labels.

    Raises:
        UserError: the folder is damaged or empty.
    """
    import lmdb

    try:
        environment = lmdb.open(str(path), readonly=True, lock=False, readahead=False, max_readers=512)
        stack.callback(environment.close)
        size = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        if (path / "data.mdb").stat().st_size < size:  # reading a missing page would kill the process
            raise UserError(f"{path}: truncated; its data.mdb must have {size} bytes")
        with environment.begin() as view:
            keys = list(view.cursor().iternext(keys=True, values=False))
    except lmdb.Error as error:
        raise UserError(f"{path}: not a readable LMDB ({error})") from None
    if not keys:
        raise UserError(f"{path}: contains no images")
    names = [key.decode("ascii", "backslashreplace") for key in keys]

    def value(index: int) -> bytes:
        with environment.begin() as view:
            return bytes(view.get(keys[index], b""))

    return Collection(names, np.zeros(len(keys), np.int64), (), opener(path, names, value))
