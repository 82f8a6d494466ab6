"""Numbers in environment variables."""

from __future__ import annotations

import os

from couplet.errors import UserError

MOST = 1024
"""The most threads, processes or nodes."""


def whole_number(name: str, default: int, *, least: int = 1, most: int = MOST) -> int:
    """A whole number in the environment; of a list such as OpenMP's, the first. An empty one counts as none.

    Raises:
        UserError: it is another text.
    """
    if not (text := os.environ.get(name, "").partition(",")[0].strip()):
        return default
    if not (text.isascii() and text.isdecimal() and least <= int(text[:9]) <= most):
        raise UserError(f"{name} = {os.environ[name]}: must be a whole number from {least} to {most}")
    return int(text)
