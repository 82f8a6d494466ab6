"""Moments of features, in one batch and in many."""

from __future__ import annotations

import numpy as np
import pytest
from metric_helpers import moments

from couplet.errors import UserError
from couplet.metrics.measure import MomentsAccumulator


def features(rows: int, width: int = 5, offset: float = 0.0) -> np.ndarray:
    generator = np.random.default_rng(rows)
    return generator.normal(size=(rows, width)) @ np.diag(np.arange(1.0, width + 1)) + offset


def test_definition() -> None:
    x = features(17)
    result = moments(x)
    centred = x - x.mean(axis=0)
    np.testing.assert_allclose(result.mean, x.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(result.covariance, centred.T @ centred / 16, rtol=1e-12)
    np.testing.assert_allclose(result.covariance, np.cov(x, rowvar=False), rtol=1e-12)
    assert result.count == 17


def test_computes_in_double_precision() -> None:
    x = features(50, offset=1000.0).astype(np.float32)
    assert moments(x).covariance.dtype == np.float64
    np.testing.assert_array_equal(moments(x).covariance, moments(x.astype(np.float64)).covariance)


def test_one_feature_still_has_a_matrix() -> None:
    assert moments(features(9, width=1)).covariance.shape == (1, 1)


@pytest.mark.parametrize("cuts", [[], [1], [30, 30, 64], list(range(1, 100))])
def test_batches_equal_one_go(cuts: list[int]) -> None:
    # An offset this large is where a running sum of squares would lose everything.
    x = features(100, offset=1e5)
    accumulator = MomentsAccumulator()
    for batch in np.split(x, cuts):
        accumulator.add(batch)
    result = accumulator.result()
    np.testing.assert_allclose(result.mean, x.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(result.covariance, np.cov(x, rowvar=False), rtol=1e-9, atol=1e-9)
    assert result.count == 100


def test_a_result_is_not_changed_by_later_batches() -> None:
    accumulator = MomentsAccumulator().add(features(8))
    before = accumulator.result()
    kept = before.mean.copy(), before.covariance.copy()
    accumulator.add(features(9))
    np.testing.assert_array_equal(before.mean, kept[0])
    np.testing.assert_array_equal(before.covariance, kept[1])


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (np.zeros(4), ValueError, "expected a matrix"),
        (np.zeros((3, 0)), ValueError, "expected a matrix"),
        (np.zeros((1, 3)), UserError, "1 samples, at least 2"),
        (np.zeros((0, 3)), UserError, "0 samples, at least 2"),
        (np.array([[0.0, np.nan], [1.0, 2.0]]), UserError, "NaN or infinite"),
        (np.array([[0.0, np.inf], [1.0, 2.0]]), UserError, "NaN or infinite"),
    ],
)
def test_unusable_features(bad: np.ndarray, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        moments(bad)


def test_batches_of_different_widths() -> None:
    with pytest.raises(ValueError, match="different lengths"):
        MomentsAccumulator().add(features(5, 2)).add(features(5, 3))
