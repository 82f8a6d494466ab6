"""Inception Score: its extremes, and where its two variants differ."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.special import softmax

from couplet.errors import UserError
from couplet.metrics.inception_score import inception_score

CLASSES = 7
PROBABILITIES = softmax(np.random.default_rng(1).normal(size=(53, CLASSES)) * 2, axis=1)
VARIANTS = ("torchmetrics", "ect")


@pytest.mark.parametrize("variant", VARIANTS)
def test_extremes(variant) -> None:
    """1 of uniform probabilities or a single certain class; the number of classes if all are certain."""
    uniform = np.full((20, CLASSES), 1 / CLASSES)
    assert inception_score(uniform, variant=variant, splits=10)[0] == pytest.approx(1.0)
    single = np.eye(CLASSES)[[2] * 9]
    assert inception_score(single, variant=variant, splits=3) == pytest.approx((1.0, 0.0))
    certain = np.tile(np.eye(CLASSES), (10, 1))
    score = inception_score(certain, variant=variant, splits=10)
    assert score == pytest.approx((CLASSES, 0.0), abs=1e-12)


def test_splits_and_deviations_of_the_variants() -> None:
    """53 rows in 10 splits: chunks of 6 and one of 5, against splits of 5 or 6."""

    def scores(edges: list[int]) -> np.ndarray:
        parts = [PROBABILITIES[a:b] for a, b in pairwise(edges)]
        return np.array([np.exp((q * np.log(q / q.mean(axis=0))).sum(axis=1).mean()) for q in parts])

    chunks = scores([0, 6, 12, 18, 24, 30, 36, 42, 48, 53])
    score = inception_score(PROBABILITIES, variant="torchmetrics", splits=10)
    assert score == pytest.approx((chunks.mean(), chunks.std(ddof=1)), rel=1e-12)
    even = scores([i * 53 // 10 for i in range(11)])
    score = inception_score(PROBABILITIES, variant="ect", splits=10)
    assert score == pytest.approx((even.mean(), even.std(ddof=0)), rel=1e-12)


def test_one_split() -> None:
    assert math.isnan(inception_score(PROBABILITIES, variant="torchmetrics", splits=1)[1])
    assert inception_score(PROBABILITIES, variant="ect", splits=1)[1] == 0.0


@pytest.mark.parametrize("variant", VARIANTS)
def test_refuses(variant) -> None:
    with pytest.raises(UserError, match=r"splits = 54: must be at most the number of samples, 53"):
        inception_score(PROBABILITIES, variant=variant, splits=54)
    with pytest.raises(UserError, match="NaN or infinite"):
        inception_score(np.full((20, 3), np.nan), variant=variant, splits=2)
