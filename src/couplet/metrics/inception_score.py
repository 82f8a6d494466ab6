"""Inception Score (Salimans et al. 2016), in the two variants that the papers report.

They differ in how samples are split and in the standard deviation, so each has its own name.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from couplet.errors import UserError
from couplet.metrics._checks import FloatArray, as_matrix


class InceptionScore(NamedTuple):
    """Mean and standard deviation of the score over splits; 1 <= mean <= number of classes."""

    mean: float
    std: float


def inception_score_torchmetrics(
    logits: npt.ArrayLike,
    *,
    splits: int = 10,
    permutation: npt.ArrayLike | None = None,
) -> InceptionScore:
    """Inception Score as torchmetrics computes it (the variant behind VCT's numbers).

    Splits are chunks of ceil(n / splits) rows, the last one shorter (there can be fewer than
    `splits` chunks); the standard deviation over chunks divides by their number minus one.

    Args:
        logits: [n, classes] before the softmax, any real dtype; computed in float64.
        splits: number of chunks, 1 <= splits <= n.
        permutation: [n] order in which to take the rows. torchmetrics always draws a random
            one; None takes the rows as they come, which is right for independent samples.

    Returns:
        Mean and standard deviation; the latter is NaN for a single chunk.

    Raises:
        UserError: not a finite matrix, bad `splits`, or not a permutation of the rows.
    """
    matrix = as_matrix(logits, "logits")
    rows = matrix.shape[0]
    _check_splits(splits, rows)
    if permutation is not None:
        order = np.asarray(permutation)
        if not np.array_equal(np.sort(order, axis=None), np.arange(rows)):
            raise UserError(f"permutation: must hold each of 0 ... {rows - 1} once")
        matrix = matrix[order.ravel()]
    size = -(-rows // splits)
    edges = [*range(0, rows, size), rows]
    from scipy.special import softmax

    return _score(softmax(matrix, axis=1), edges, ddof=1)


def inception_score_ect(probabilities: npt.ArrayLike, *, splits: int = 10) -> InceptionScore:
    """Inception Score as StyleGAN's and ECT's code computes it.

    Split i holds the rows from i n // splits to (i + 1) n // splits, in the given order; the
    standard deviation over splits divides by their number. Unlike the original, which works in
    float32 and returns NaN if a probability underflows to 0, 0 log 0 counts as 0.

    Args:
        probabilities: [n, classes], each row non-negative with sum 1, any real dtype; computed
            in float64.
        splits: number of splits, 1 <= splits <= n.

    Returns:
        Mean and standard deviation over splits.

    Raises:
        UserError: not a finite matrix, rows that are no probabilities, or bad `splits`.
    """
    matrix = as_matrix(probabilities, "probabilities")
    rows = matrix.shape[0]
    _check_splits(splits, rows)
    # float16 probabilities of 1000 classes still add up to 1 within this margin
    if (matrix < 0).any() or not np.allclose(matrix.sum(axis=1), 1, rtol=0, atol=1e-2):
        raise UserError("probabilities: rows must be non-negative and add up to 1 (logits given?)")
    edges = [i * rows // splits for i in range(splits + 1)]
    return _score(matrix, edges, ddof=0)


def _check_splits(splits: int, rows: int) -> None:
    if not 1 <= splits <= rows:
        raise UserError(f"splits = {splits}: must be from 1 to the number of samples ({rows})")


def _score(probabilities: FloatArray, edges: list[int], *, ddof: int) -> InceptionScore:
    """Score each range of rows between neighbouring edges; mean and deviation over ranges."""
    scores = np.array([_split_score(probabilities[start:stop]) for start, stop in pairwise(edges)])
    std = float(scores.std(ddof=ddof)) if scores.size > ddof else float("nan")
    return InceptionScore(float(scores.mean()), std)


def _split_score(probabilities: FloatArray) -> float:
    """exp of the mean Kullback-Leibler divergence of p(y|x) from p(y), natural logarithms."""
    marginal = probabilities.mean(axis=0, keepdims=True)
    # Imported where it is used: half a second, and most extractors have no logits.
    from scipy.special import rel_entr

    return float(np.exp(rel_entr(probabilities, marginal).sum(axis=1).mean()))
