"""Input checks shared by all metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from couplet.errors import UserError

FloatArray = NDArray[np.float64]


def check_features(values: NDArray[Any], noun: str, *, least: int) -> None:
    """Check a matrix [n, d] of finite numbers with ``least`` rows or more.

    Args:
        noun: what messages call the values, such as "real features".

    Raises:
        UserError: too few rows, or NaN or infinite entries.
        ValueError: not a matrix, or one without columns.
    """
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(f"{noun}: expected a matrix [samples, features], got shape {values.shape}")
    if len(values) < least:
        raise UserError(f"{noun}: {len(values)} samples, at least {least} are needed")
    if not np.isfinite(values).all():
        raise UserError(f"{noun}: NaN or infinite entries")


def check_width(first: int, second: int) -> None:
    """Check that two sets of features have the same length d.

    Raises:
        ValueError: the lengths differ.
    """
    if first != second:
        raise ValueError(f"features of different lengths ({first} and {second})")
