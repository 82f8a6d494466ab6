"""Improved precision and recall (Kynkaanniemi et al. 2019)."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from couplet.errors import UserError
from couplet.metrics._checks import FloatArray, as_matrix, same_width

# Entries of a block of distances: 128 MiB of float64.
_BLOCK_ENTRIES = 2**24
# A squared distance below this fraction of the squared norms is rounding error: equal points.
_ROUNDING = 1e-13


class PrecisionRecall(NamedTuple):
    """Two fractions, both from 0 to 1, higher is better."""

    precision: float
    recall: float


def precision_recall(
    real: npt.ArrayLike,
    generated: npt.ArrayLike,
    *,
    k: int = 3,
    block_entries: int = _BLOCK_ENTRIES,
) -> PrecisionRecall:
    """Precision and recall by k-nearest-neighbour balls (Kynkaanniemi et al. 2019, Eq. 1 and 2).

    Each point of a set carries a ball that reaches to its k-th other neighbour in the set.
    Precision is the fraction of generated points inside any ball of the real set (boundary
    included), recall the fraction of real points inside any ball of the generated set. All
    distances are Euclidean and computed in float64, where StyleGAN's and ECT's code rounds
    features, distances and radii to float16 on the GPU.

    Args:
        real: [n, d] features, n > k, any real dtype.
        generated: [n', d] features, n' > k.
        k: neighbours, >= 1; the paper and the official code use 3.
        block_entries: distances held in memory at a time; the result does not depend on it.

    Returns:
        Precision and recall.

    Raises:
        UserError: unusable features, k < 1, or no more than k samples in a set.
    """
    if k < 1:
        raise UserError(f"k = {k}: must be at least 1")
    true = as_matrix(real, "real features", least_rows=k + 1)
    fake = as_matrix(generated, "generated features", least_rows=k + 1)
    same_width(true.shape[1], fake.shape[1])
    # distances do not change, and |x|^2 + |y|^2 - 2 x.y loses fewer digits
    origin = true.mean(axis=0)
    true, fake = true - origin, fake - origin
    return PrecisionRecall(
        precision=_covered(fake, true, k, block_entries),
        recall=_covered(true, fake, k, block_entries),
    )


def _covered(probes: FloatArray, manifold: FloatArray, k: int, block_entries: int) -> float:
    """Fraction of probes [n, d] within the k-nearest-neighbour balls of a manifold [m, d]."""
    rows = max(1, block_entries // manifold.shape[0])
    radii = np.empty(manifold.shape[0])
    for start in range(0, manifold.shape[0], rows):
        squared = _squared_distances(manifold[start : start + rows], manifold)
        # position 0 is the point itself, so position k is the k-th other neighbour
        radii[start : start + rows] = np.partition(squared, k, axis=1)[:, k]
    inside = 0
    for start in range(0, probes.shape[0], rows):
        squared = _squared_distances(probes[start : start + rows], manifold)
        inside += int(np.count_nonzero((squared <= radii).any(axis=1)))
    return inside / probes.shape[0]


def _squared_distances(a: FloatArray, b: FloatArray) -> FloatArray:
    """Squared Euclidean distances [n, m] of rows of a [n, d] to rows of b [m, d]."""
    norms = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)[None, :]
    squared = norms - 2 * (a @ b.T)
    squared[squared < _ROUNDING * norms] = 0.0
    return squared
