"""Improved precision and recall (Kynkäänniemi et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from couplet.config.metrics import PrecisionRecallConfig
from couplet.metrics.measure import FloatArray, Measured, check_pair, evenly_spaced

BLOCK = 2**24
"""Distances held in memory at a time: 128 MiB of float64."""

ROUNDING = 1e-13
"""A squared distance below this fraction of the squared norms is rounding error: the points are equal."""


def fractions(
    config: PrecisionRecallConfig, samples: Measured, reference: Measured, *, seed: int
) -> dict[str, float]:
    """Compute the numbers `precision` and `recall` of evenly spaced images."""
    sides = reference.features, samples.features
    real, generated = (side[evenly_spaced(len(side), config.images)] for side in sides)
    precision, recall = precision_recall(real, generated, k=config.k)
    return {"precision": precision, "recall": recall}


def precision_recall(real: NDArray[Any], generated: NDArray[Any], *, k: int) -> tuple[float, float]:
    """Precision and recall by k-nearest-neighbour balls (Kynkäänniemi et al. 2019, Eq. 1 and 2).

    Each point of a set has a ball that reaches to its k-th other neighbour in the set, boundary included.
    Precision is the fraction of generated points inside any ball of the real set, recall the fraction of
    real points inside any ball of the generated set. Distances are Euclidean in float64, where StyleGAN's
    and ECT's code rounds features, distances and radii to float16 on the GPU.

    Args:
        real: features [n, d] of any real dtype, n > k.
        generated: features [n', d], n' > k.
        k: the paper and the official code use 3.

    Raises:
        UserError: too few rows, or NaN or infinite entries.
        ValueError: features of different lengths.
    """
    check_pair(real, generated, least=k + 1)
    # |x|² + |y|² - 2 x·y loses fewer digits near the origin, and distances do not change.
    origin = real.mean(axis=0, dtype=np.float64)
    true, fake = real - origin, generated - origin
    reach, reach_fake = _radii(true, k), _radii(fake, k)
    covered, inside = np.zeros(len(true), dtype=bool), 0
    for squared in _blocks(fake, true):
        inside += int(np.count_nonzero((squared <= reach).any(axis=1)))
        covered |= (squared <= reach_fake[: len(squared), None]).any(axis=0)
        reach_fake = reach_fake[len(squared) :]
    return inside / len(fake), float(covered.mean())


def _radii(points: FloatArray, k: int) -> FloatArray:
    """Squared distance [n] of each point [n, d] to its k-th other neighbour."""
    # Position 0 is the point itself.
    return np.concatenate([np.partition(squared, k, axis=1)[:, k] for squared in _blocks(points, points)])


def _blocks(a: FloatArray, b: FloatArray) -> Iterator[FloatArray]:
    """Squared Euclidean distances [rows, m] of some rows at a time of a [n, d] to all of b [m, d]."""
    rows = max(1, BLOCK // len(b))
    return (_squared_distances(a[start : start + rows], b) for start in range(0, len(a), rows))


def _squared_distances(a: FloatArray, b: FloatArray) -> FloatArray:
    """Squared Euclidean distances [n, m] of rows of a [n, d] to rows of b [m, d]."""
    norms = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)[None, :]
    squared = norms - 2 * (a @ b.T)
    squared[squared < ROUNDING * norms] = 0.0
    return squared
