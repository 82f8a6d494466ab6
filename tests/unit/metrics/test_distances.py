"""Fréchet and kernel distance: closed forms, clean-fid, symmetry, determinism."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from metric_helpers import moments

from couplet.errors import UserError
from couplet.metrics.distances import frechet_distance, kernel_distance
from couplet.metrics.measure import Moments

RNG = np.random.default_rng(5)
X = RNG.normal(size=(80, 6))
Y = RNG.normal(size=(70, 6)) * 1.5 + 0.3


def gaussian(mean: list[float], covariance: list[list[float]]) -> Moments:
    return Moments(np.array(mean), np.array(covariance), 100)


def test_frechet_of_a_set_with_itself_is_zero() -> None:
    for x in (X, X[:4], X[:, :1], X * 1e-3, X * 0):
        distance = frechet_distance(moments(x), moments(x.copy()))
        assert (distance, np.copysign(1, distance)) == (0.0, 1.0)


def test_frechet_of_commuting_gaussians() -> None:
    """|mu|^2 + sum (sqrt(a) - sqrt(b))^2 over the common eigenvectors."""
    angle = 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    a = gaussian([1.0, 2.0], (turn @ np.diag([4.0, 9.0]) @ turn.T).tolist())
    b = gaussian([3.0, 1.0], (turn @ np.diag([1.0, 16.0]) @ turn.T).tolist())
    assert frechet_distance(a, b) == pytest.approx(5.0 + 1.0 + 1.0, rel=1e-12)


def test_frechet_of_gaussians_that_do_not_commute() -> None:
    """In two dimensions tr sqrt(M) = sqrt(tr M + 2 sqrt(det M))."""
    s, t = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([[1.0, -0.3], [-0.3, 3.0]])
    product = s @ t
    root = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    expected = np.trace(s) + np.trace(t) - 2 * root
    a, b = gaussian([0.0, 0.0], s.tolist()), gaussian([0.0, 0.0], t.tolist())
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_frechet_of_one_feature() -> None:
    """The squares of the differences of means and of standard deviations."""
    assert frechet_distance(gaussian([1.0], [[4.0]]), gaussian([3.0], [[9.0]])) == pytest.approx(5, rel=1e-14)
    assert frechet_distance(gaussian([1.0], [[4.0]]), gaussian([1.0], [[0.0]])) == 4.0


def test_frechet_is_symmetric() -> None:
    there = frechet_distance(moments(X), moments(Y))
    assert frechet_distance(moments(Y), moments(X)) == pytest.approx(there, rel=1e-12)


def by_clean_fid(a: Moments, b: Moments) -> float:
    from cleanfid import fid

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The `disp` argument", DeprecationWarning)
        return float(fid.frechet_distance(a.mean, a.covariance, b.mean, b.covariance))


def by_samples(x: np.ndarray, y: np.ndarray) -> float:
    """The distance from the samples: centred rows over sqrt(n - 1) are factors of the covariances."""
    shift = x.mean(0) - y.mean(0)
    x, y = ((z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (x, y))
    overlap = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return float(shift @ shift + np.square(x).sum() + np.square(y).sum() - 2 * overlap)


def test_frechet_is_that_of_clean_fid() -> None:
    for scale in (1.0, np.geomspace(1e-3, 10, 6)):
        a, b = moments(X * scale), moments(Y * scale)
        assert frechet_distance(a, b) == pytest.approx(by_clean_fid(a, b), rel=1e-11)


def test_frechet_of_few_samples() -> None:
    """Exact for singular covariances, where clean-fid's root has about half of the digits."""
    for few, many in ((X[:4], Y), (X[:4], Y[:3])):
        a, b = moments(few), moments(many)
        assert frechet_distance(a, b) == pytest.approx(by_samples(few, many), rel=1e-13)
        assert frechet_distance(a, b) == pytest.approx(by_clean_fid(a, b), rel=1e-6)


@pytest.mark.parametrize("least", [1e-2, 1e-5, 1e-8, 1e-12])
@pytest.mark.parametrize("samples", [98, 400])
def test_frechet_of_uneven_spectra(samples: int, least: float) -> None:
    """Regular, and nearly singular: 96 correlated features whose variances differ by up to 12 orders."""
    generator = np.random.default_rng(samples)
    turn = np.linalg.qr(generator.normal(size=(96, 96)))[0] * np.sqrt(np.geomspace(1, least, 96))
    x, y = (generator.normal(size=(samples, 96)) @ turn.T for _ in range(2))
    a, b = moments(x), moments(y + 0.01)
    assert frechet_distance(a, b) == pytest.approx(by_samples(x, y + 0.01), rel=1e-10)


def test_frechet_of_features_that_change_in_one_set_alone() -> None:
    """Zeros among the singular values; as roots of eigenvalues they would add rounding's root."""
    x, y = np.repeat(X, 4, axis=1), np.repeat(Y, 4, axis=1)
    x[:, 12:] = y[:, :12] = 0.5
    x[:, :2], y[:, :2] = X[:, :2], Y[:, :2]
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(by_samples(x, y), rel=1e-13)
    assert frechet_distance(moments(x * 0 + 1), moments(y)) == pytest.approx(
        np.square(1 - y.mean(0)).sum() + np.trace(moments(y).covariance), rel=1e-13
    )


def test_frechet_of_features_that_never_change() -> None:
    x, y = (np.pad(z, ((0, 0), (0, 3))) for z in (X, Y))
    expected = frechet_distance(moments(X), moments(Y))
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(expected, rel=1e-13)


def test_frechet_of_identical_moments_of_few_samples_of_many_features() -> None:
    """2048 features, as Inception's, of far fewer samples."""
    x = np.random.default_rng(0).normal(size=(100, 2048)) * np.geomspace(1e-3, 10, 2048)
    y = np.random.default_rng(1).normal(size=(90, 2048)) + 0.1
    a, b = moments(x), moments(y)
    assert frechet_distance(a, b) == pytest.approx(by_samples(x, y), rel=1e-12)
    assert frechet_distance(a, a) == 0.0


@pytest.mark.slow
def test_frechet_of_few_samples_of_many_features_is_that_of_clean_fid() -> None:
    a, b = (moments(np.random.default_rng(i).normal(i / 10, 1, (60 + i, 2048))) for i in range(2))
    assert frechet_distance(a, b) == pytest.approx(by_clean_fid(a, b), rel=1e-4)


def test_frechet_refuses() -> None:
    with pytest.raises(ValueError, match="different lengths"):
        frechet_distance(moments(X), moments(Y[:, :3]))
    nan, infinite = np.full((6, 6), np.nan), np.diag([np.inf] * 6)
    for mean, covariance in (([0.0] * 6, nan), ([0.0] * 6, infinite), ([np.nan] * 6, np.eye(6))):
        with pytest.raises(ValueError, match="NaN or infinite"):
            frechet_distance(moments(X), gaussian(mean, covariance.tolist()))
    for covariance in ([[1.0, 0.0], [0.0, -1.0]], [[-1.0, 0.0], [0.0, -1.0]], [[0.0, 1.0], [1.0, 0.0]]):
        with pytest.raises(ValueError, match="not a covariance"):
            frechet_distance(gaussian([0.0, 0.0], covariance), gaussian([0, 0], np.eye(2).tolist()))


@pytest.mark.parametrize("size", [20, 70, 1000])
def test_kernel_distance_is_that_of_clean_fid(size: int) -> None:
    """The same subsets and the same number, up to the rounding of sums."""
    from cleanfid import fid

    np.random.seed(11)  # noqa: NPY002 (clean-fid draws from the global generator)
    expected = fid.kernel_distance(Y, X, num_subsets=7, max_subset_size=size)
    assert kernel_distance(X, Y, subsets=7, subset_size=size, seed=11) == pytest.approx(expected, rel=1e-12)


def test_kernel_distance_is_deterministic_and_depends_on_the_seed() -> None:
    def at(seed: int) -> float:
        return kernel_distance(X, Y, subsets=5, subset_size=20, seed=seed)

    assert at(1) == at(1)
    assert at(1) != at(2)


def test_kernel_distance_leaves_the_global_generator_alone() -> None:
    np.random.seed(3)  # noqa: NPY002
    expected = np.random.standard_normal(4)  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    kernel_distance(X, Y, subsets=3, subset_size=20, seed=9)
    np.testing.assert_array_equal(np.random.standard_normal(4), expected)  # noqa: NPY002


def test_kernel_distance_by_definition() -> None:
    """One subset that holds everything: the formula, term by term."""
    x, y = X[:30], Y[:30]
    distances = kernel_distance(x, y, subsets=1, subset_size=30, seed=0)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / 6 + 1) ** 3

    off = ~np.eye(30, dtype=bool)
    within = kernel(x, x)[off].mean() + kernel(y, y)[off].mean()
    assert distances == pytest.approx(within - 2 * kernel(x, y).mean(), rel=1e-12)


def test_kernel_distance_is_unbiased() -> None:
    """Around zero for equal distributions, of either sign; a biased one would be above."""
    generator = np.random.default_rng(0)
    distances = np.array(
        [
            kernel_distance(
                generator.normal(size=(40, 3)),
                generator.normal(size=(40, 3)),
                subsets=1,
                subset_size=40,
                seed=0,
            )
            for _ in range(300)
        ]
    )
    assert abs(distances.mean()) < 3 * distances.std() / np.sqrt(distances.size)
    assert distances.min() < 0 < distances.max()
    assert kernel_distance(Y, X, subsets=10, subset_size=70, seed=0) > 3 * distances.std()


def test_kernel_distance_in_double_precision_whatever_comes_in() -> None:
    single = X.astype(np.float32), Y.astype(np.float32)
    double = single[0].astype(np.float64), single[1].astype(np.float64)
    settings = {"subsets": 3, "subset_size": 30, "seed": 0}
    assert kernel_distance(*single, **settings) == kernel_distance(*double, **settings)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"seed": -1}, ValueError, "[Ss]eed"),
        ({"seed": 2**32}, ValueError, "[Ss]eed"),
        ({"real": Y[:, :2]}, ValueError, "different lengths"),
        ({"real": Y[:1]}, UserError, "real features: 1 samples"),
        ({"real": Y * np.inf}, UserError, "real features: NaN or infinite"),
        ({"generated": X[0]}, ValueError, "generated features: expected a matrix"),
    ],
)
def test_kernel_distance_refuses(change: dict, error: type[Exception], message: str) -> None:
    settings = {"generated": X, "real": Y, "subsets": 1, "subset_size": 20, "seed": 0}
    with pytest.raises(error, match=message):
        kernel_distance(**(settings | change))
