"""Frechet and kernel distance: closed forms, symmetry, determinism."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest

from couplet.errors import UserError
from couplet.metrics import Moments, frechet_distance, kernel_distance, moments

RNG = np.random.default_rng(5)
X = RNG.normal(size=(80, 6))
Y = RNG.normal(size=(70, 6)) * 1.5 + 0.3


def gaussian(mean: list[float], covariance: list[list[float]]) -> Moments:
    return Moments(np.array(mean), np.array(covariance), 100)


def test_frechet_of_a_set_with_itself_is_zero() -> None:
    assert frechet_distance(moments(X), moments(X)) == pytest.approx(0.0, abs=1e-10)


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


def test_frechet_is_symmetric_and_biased_moments_differ() -> None:
    there = frechet_distance(moments(X), moments(Y))
    assert frechet_distance(moments(Y), moments(X)) == pytest.approx(there, rel=1e-10)
    biased = frechet_distance(moments(X, ddof=0), moments(Y, ddof=0))
    assert abs(biased - there) > 1e-3


def test_frechet_of_few_samples_stays_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    few = moments(X[:4])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(frechet_distance(few, moments(Y)))
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_frechet_refuses() -> None:
    with pytest.raises(UserError, match="different lengths"):
        frechet_distance(moments(X), moments(Y[:, :3]))
    with pytest.raises(UserError, match="NaN or infinite"):
        frechet_distance(moments(X), gaussian([np.nan] * 6, np.eye(6).tolist()))
    with pytest.raises(UserError, match="not real"):
        frechet_distance(
            gaussian([0.0, 0.0], [[1.0, 0.0], [0.0, -1.0]]), gaussian([0, 0], np.eye(2).tolist())
        )


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
    found = kernel_distance(x, y, subsets=1, subset_size=30)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / 6 + 1) ** 3

    off = ~np.eye(30, dtype=bool)
    within = kernel(x, x)[off].mean() + kernel(y, y)[off].mean()
    assert found == pytest.approx(within - 2 * kernel(x, y).mean(), rel=1e-12)


def test_kernel_distance_is_unbiased() -> None:
    """Around zero for equal distributions, of either sign; a biased one would be above."""
    generator = np.random.default_rng(0)
    found = np.array(
        [
            kernel_distance(
                generator.normal(size=(40, 3)),
                generator.normal(size=(40, 3)),
                subsets=1,
                subset_size=40,
            )
            for _ in range(300)
        ]
    )
    assert abs(found.mean()) < 3 * found.std() / np.sqrt(found.size)
    assert found.min() < 0 < found.max()
    assert kernel_distance(Y, X, subsets=10, subset_size=70) > 3 * found.std()


def test_kernel_distance_in_double_precision_whatever_comes_in() -> None:
    single = X.astype(np.float32), Y.astype(np.float32)
    double = single[0].astype(np.float64), single[1].astype(np.float64)
    assert kernel_distance(*single, subsets=3) == kernel_distance(*double, subsets=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subsets": 0}, "subsets = 0"),
        ({"subset_size": 1}, "subset_size = 1"),
        ({"seed": -1}, "seed = -1"),
        ({"seed": 2**32}, "seed = 4294967296"),
        ({"real": Y[:, :2]}, "different lengths"),
        ({"real": Y[:1]}, "real features: 1 samples"),
        ({"generated": X[0]}, "generated features: expected a matrix"),
    ],
)
def test_kernel_distance_refuses(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        kernel_distance(**({"generated": X, "real": Y} | change))


def test_without_clean_fid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cleanfid", None)
    for call in (lambda: frechet_distance(moments(X), moments(Y)), lambda: kernel_distance(X, Y)):
        with pytest.raises(UserError, match=r"pip install couplet\[pipeline\]") as caught:
            call()
        assert "\n" not in str(caught.value)
