"""Exceptions whose message is written for users."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Bad input: a file, key or value that couplet cannot work with.

    The message is one line that names the file or key, the value and what is allowed. The command line prints
    it to stderr and exits with code 2; no other exception does so.
    """


class Stopped(Exception):
    """A signal ended a run after a complete step; its state is saved and the same command resumes it.

    The command line exits with code 75, EX_TEMPFAIL of sysexits.h: not an error, try again.
    """


class Lost(Exception):
    """Another of the processes that share the work is gone, without a word.

    The command line exits with code 75, too: the same command goes on from what is saved.
    """


PACKAGES = {
    "PIL": "pillow",
    "cleanfid": "clean-fid",
    "lion_pytorch": "lion-pytorch",
    "sklearn": "scikit-learn",
}
"""Packages to install, by module, where the names differ."""


@contextmanager
def installed(purpose: str) -> Iterator[None]:
    """Report an optional package that the block cannot import.

    Raises:
        UserError: names ``purpose`` and the package to install.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if sys.modules.get(module) is not None:  # an installed package without such a module: a bug
            raise
        package = PACKAGES.get(module, module)
        raise UserError(f"{purpose}: {package} is not installed; pip install {package}") from None
