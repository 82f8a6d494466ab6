"""Distances between two sets of features: Fréchet (FID) and kernel (KID), in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from couplet.config.metrics import FrechetDistanceConfig, KernelDistanceConfig
from couplet.metrics.measure import FloatArray, Measured, Moments, check_pair, check_width


def fd(
    config: FrechetDistanceConfig, samples: Measured, reference: Measured, *, seed: int
) -> dict[str, float]:
    """Compute the number `fd` of all images."""
    return {"fd": frechet_distance(samples.moments, reference.moments)}


def frechet_distance(a: Moments, b: Moments) -> float:
    """Squared Fréchet distance between two Gaussians (Heusel et al. 2017, Eq. 6).

    ``|m_a - m_b|² + tr S_a + tr S_b - 2 tr (S_a S_b)^(1/2)``. With ``S = F Fᵀ`` for both covariances the
    last trace is the sum of the singular values of ``F_aᵀ F_b``. This needs no root of the product, which
    rounding makes complex, and loses no digits where covariances are singular.

    For equal moments it is 0 up to rounding, of either sign.

    Raises:
        ValueError: moments of different lengths, or a matrix that is no covariance.
        numpy.linalg.LinAlgError: NaN or infinite entries.
    """
    check_width(a.mean.size, b.mean.size)
    shift = a.mean - b.mean
    overlap = np.linalg.svd(_factor(a.covariance).T @ _factor(b.covariance), compute_uv=False).sum()
    return float(shift @ shift + np.trace(a.covariance) + np.trace(b.covariance) - 2 * overlap)


def _factor(covariance: FloatArray) -> FloatArray:
    """Return F [d, r] with ``F Fᵀ`` = ``covariance`` [d, d] and r its numerical rank."""
    values, vectors = np.linalg.eigh(covariance)
    rounding = len(values) * np.finfo(np.float64).eps * np.abs(values).max()
    if values[0] < -rounding:
        raise ValueError(f"not a covariance: its smallest eigenvalue is {values[0]:g}")
    used = values > rounding
    return vectors[:, used] * np.sqrt(values[used])


def kid(
    config: KernelDistanceConfig, samples: Measured, reference: Measured, *, seed: int
) -> dict[str, float]:
    """Compute the number `kid`; ``seed`` draws its subsets."""
    sizes = {"subsets": config.subsets, "subset_size": config.subset_size}
    return {"kid": kernel_distance(samples.features, reference.features, **sizes, seed=seed)}


def kernel_distance(
    generated: NDArray[Any], real: NDArray[Any], *, subsets: int, subset_size: int, seed: int
) -> float:
    """Kernel distance (KID; Bińkowski et al. 2018, section 4).

    Squared maximum mean discrepancy with the kernel ``(x·y / d + 1)³``, averaged over random subsets of
    ``m = min(n, n', subset_size)`` rows, from features [n, d] and [n', d] of any real dtype in float64.
    clean-fid draws the same subsets after ``np.random.seed(seed)``, 0 <= seed < 2^32. The expectation is 0
    for equal distributions, so the distance can be negative.

    Raises:
        UserError: fewer than two rows, or NaN or infinite entries.
        ValueError: features of different lengths, or ``seed`` out of range.
    """
    check_pair(real, generated, least=2)
    size = min(len(generated), len(real), subset_size)
    random = np.random.RandomState(seed)
    total = 0.0
    for _ in range(subsets):
        x, y = (
            features[random.choice(len(features), size, replace=False)].astype(np.float64)
            for features in (generated, real)
        )
        between = _kernel(x, y).mean()
        total += _mean_of_pairs(_kernel(x, x)) + _mean_of_pairs(_kernel(y, y)) - 2 * between
    return float(total / subsets)


def _kernel(x: FloatArray, y: FloatArray) -> FloatArray:
    base = x @ y.T / x.shape[1] + 1
    return base**2 * base  # several times as fast as base**3


def _mean_of_pairs(kernel: FloatArray) -> float:
    """Mean of a square matrix without its diagonal."""
    return float((kernel.sum() - np.trace(kernel)) / (len(kernel) * (len(kernel) - 1)))
