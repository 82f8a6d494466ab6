"""Distances between two sets of features: Fréchet (FID) and kernel (KID), in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from couplet.config.metrics import FrechetDistanceConfig, KernelDistanceConfig
from couplet.metrics.measure import FloatArray, Measured, Moments, check_pair, check_width

EPSILON = np.finfo(np.float64).eps


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

    A distance that rounding cannot tell from 0, as that of equal moments, is 0.

    Raises:
        ValueError: moments of different lengths, NaN or infinite entries, or a matrix that is no covariance.
    """
    check_width(a.mean.size, b.mean.size)
    shift = a.mean - b.mean
    overlap = _sum_of_singular_values(_factor(a).T @ _factor(b), a.covariance.shape)
    spread = np.trace(a.covariance) + np.trace(b.covariance)
    distance = float(shift @ shift + spread - 2 * overlap)
    return distance if distance > len(shift) * EPSILON * spread else 0.0


def _factor(moments: Moments) -> FloatArray:
    """F [d, r] with ``F Fᵀ`` = the covariance and r its numerical rank: Cholesky's with pivots, Higham 1990.

    A seventh of the time of eigenvectors.
    """
    # Imported here because it takes a quarter of a second and few processes compare moments.
    from scipy.linalg.lapack import dpstrf

    covariance = moments.covariance
    if not (np.isfinite(moments.mean).all() and np.isfinite(covariance).all()):
        raise ValueError("moments: NaN or infinite entries")
    rows, order, rank, _ = dpstrf(covariance, lower=1)
    factor = np.empty((len(rows), rank))
    factor[order - 1] = np.tril(rows)[:, :rank]
    rounding = len(rows) * EPSILON * covariance.diagonal().max()
    if rank < len(rows) and abs(covariance - factor @ factor.T).max() > 10 * rounding:
        raise ValueError("not a covariance: it has a negative eigenvalue")
    return factor


def _sum_of_singular_values(product: FloatArray, regular: tuple[int, ...]) -> float:
    """Of a product of two factors, which has the shape ``regular`` where neither covariance is singular.

    Roots of eigenvalues, in half of the time, keep ten digits or more there; where a factor is deficient,
    zeros would come out as roots of rounding.
    """
    if product.shape == regular:
        return float(np.sqrt(np.linalg.eigvalsh(product @ product.T).clip(0)).sum())
    return float(np.linalg.svd(product, compute_uv=False).sum()) if product.size else 0.0


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
