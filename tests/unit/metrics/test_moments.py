"""Moments in one go and batch by batch."""

from __future__ import annotations

import numpy as np
import pytest

from couplet.errors import UserError
from couplet.metrics import MomentsAccumulator, moments


def features(rows: int, width: int = 5, offset: float = 0.0) -> np.ndarray:
    generator = np.random.default_rng(rows)
    return generator.normal(size=(rows, width)) @ np.diag(np.arange(1.0, width + 1)) + offset


@pytest.mark.parametrize("ddof", [0, 1])
def test_definition(ddof: int) -> None:
    x = features(17)
    found = moments(x, ddof=ddof)
    centred = x - x.mean(axis=0)
    np.testing.assert_allclose(found.mean, x.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(found.covariance, centred.T @ centred / (17 - ddof), rtol=1e-12)
    assert found.count == 17


def test_computes_in_double_precision() -> None:
    x = features(50, offset=1000.0).astype(np.float32)
    assert moments(x).covariance.dtype == np.float64
    np.testing.assert_array_equal(moments(x).covariance, moments(x.astype(np.float64)).covariance)


def test_one_feature_still_has_a_matrix() -> None:
    assert moments(features(9, width=1)).covariance.shape == (1, 1)


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("cuts", [[], [1], [30, 30, 64], list(range(1, 100))])
def test_accumulator_equals_one_go(ddof: int, cuts: list[int]) -> None:
    # an offset this large is where a running sum of squares would lose everything
    x = features(100, offset=1e5)
    accumulator = MomentsAccumulator()
    for batch in np.split(x, cuts):
        accumulator.add(batch)
    expected, found = moments(x, ddof=ddof), accumulator.result(ddof=ddof)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-13)
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=1e-9, atol=1e-9)
    assert found.count == expected.count


def test_accumulators_merge() -> None:
    x = features(64)
    left = MomentsAccumulator().add(x[:10])
    right = MomentsAccumulator().add(x[10:30]).add(x[30:])
    merged = MomentsAccumulator().merge(left).merge(right).merge(MomentsAccumulator())
    np.testing.assert_allclose(merged.result().covariance, moments(x).covariance, rtol=1e-12)
    assert merged.count == 64
    assert right.count == 54
    np.testing.assert_allclose(right.result().mean, x[10:].mean(axis=0), rtol=1e-13)


def test_a_result_is_not_changed_by_later_batches() -> None:
    accumulator = MomentsAccumulator().add(features(8))
    before = accumulator.result()
    kept = before.mean.copy(), before.covariance.copy()
    accumulator.add(features(9))
    np.testing.assert_array_equal(before.mean, kept[0])
    np.testing.assert_array_equal(before.covariance, kept[1])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros(4), "expected a matrix"),
        (np.zeros((3, 0)), "expected a matrix"),
        (np.zeros((1, 3)), "1 samples, at least 2"),
        (np.array([[0.0, np.nan], [1.0, 2.0]]), "NaN or infinite"),
        (np.array([[0.0, np.inf], [1.0, 2.0]]), "NaN or infinite"),
    ],
)
def test_unusable_features(bad: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        moments(bad)


def test_unusable_use() -> None:
    with pytest.raises(UserError, match="ddof = 2"):
        moments(features(5), ddof=2)
    with pytest.raises(UserError, match="0 samples, at least 2"):
        MomentsAccumulator().result()
    with pytest.raises(UserError, match="different lengths"):
        MomentsAccumulator().add(features(5, 2)).add(features(5, 3))
