"""Inception Score (Salimans et al. 2016), in the two variants that the papers report."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import from_numpy

from couplet.config.metrics import InceptionScoreConfig
from couplet.errors import UserError
from couplet.metrics.measure import FloatArray, Measured, check_features


def scores(
    config: InceptionScoreConfig, samples: Measured, reference: Measured, *, seed: int
) -> dict[str, float]:
    """Compute the numbers `is` and `is_std`. Images are taken in order, as samples are independent."""
    assert samples.logits is not None
    probabilities = from_numpy(samples.logits).double().softmax(1).numpy()
    mean, std = inception_score(probabilities, variant=config.variant, splits=config.splits)
    return {"is": mean, "is_std": std}


def inception_score(
    probabilities: NDArray[Any], *, variant: Literal["torchmetrics", "ect"], splits: int
) -> tuple[float, float]:
    """Mean and standard deviation over ``splits`` of ``exp(mean KL(p(y|x) || p(y)))``, in float64.

    torchmetrics (behind VCT's numbers) splits into chunks of ceil(n / splits) rows, of which the last may be
    shorter; there may be fewer than ``splits``. Its deviation divides by their number minus one and is NaN
    for a single chunk. Split i of ect (as StyleGAN) ends at row (i + 1) n // splits. Its deviation divides by
    ``splits``.

    Args:
        probabilities: [n, classes], rows sum to 1, any real dtype; 0 log 0 counts as 0.

    Raises:
        UserError: fewer rows than ``splits``, or NaN or infinite entries.
    """
    check_features(probabilities, "class probabilities", least=1)
    rows = len(probabilities)
    if splits > rows:
        raise UserError(f"splits = {splits}: must be at most the number of samples, {rows}")
    if variant == "torchmetrics":
        edges, ddof = [*range(0, rows, -(-rows // splits)), rows], 1
    else:
        edges, ddof = [i * rows // splits for i in range(splits + 1)], 0
    matrix = np.asarray(probabilities, np.float64)
    values = np.array([_score(matrix[start:stop]) for start, stop in pairwise(edges)])
    return float(values.mean()), float(values.std(ddof=ddof)) if values.size > ddof else float("nan")


def _score(probabilities: FloatArray) -> float:
    """exp of the mean Kullback-Leibler divergence of p(y|x) from p(y), in natural logarithms."""
    return float(np.exp(_entropy(probabilities.mean(axis=0)) - _entropy(probabilities).mean()))


def _entropy(probabilities: FloatArray) -> FloatArray:
    """``-sum p ln p`` over the last axis, with 0 for p = 0."""
    logarithms = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    return -np.einsum("...c,...c", probabilities, logarithms)
