"""Input checks shared by all metrics."""

import numpy as np
import numpy.typing as npt

from couplet.errors import UserError

FloatArray = npt.NDArray[np.float64]


def as_matrix(values: npt.ArrayLike, name: str, *, least_rows: int = 1) -> FloatArray:
    """Return `values` as a finite float64 matrix.

    Args:
        values: [n, d] numbers, any real dtype.
        name: what to call them in a message, such as "real features".
        least_rows: smallest n that makes sense.

    Returns:
        [n, d] float64; the input itself where it already has that dtype.

    Raises:
        UserError: not two-dimensional, no columns, too few rows, or NaN or infinite entries.
    """
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        raise UserError(f"{name}: expected a matrix [samples, features], got shape {matrix.shape}")
    if matrix.shape[0] < least_rows:
        raise UserError(f"{name}: {matrix.shape[0]} samples, at least {least_rows} are needed")
    if not np.isfinite(matrix).all():
        raise UserError(f"{name}: NaN or infinite entries")
    return matrix


def same_width(first: int, second: int) -> None:
    """Require two sets of features to have the same number of columns.

    Raises:
        UserError: the numbers differ.
    """
    if first != second:
        raise UserError(
            f"features of different lengths ({first} and {second}): were they extracted by the same network?"
        )
