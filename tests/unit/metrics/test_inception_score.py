"""Inception Score: its extremes, and where its two variants differ."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.special import softmax

from couplet.errors import UserError
from couplet.metrics import inception_score_ect, inception_score_torchmetrics

CLASSES = 7
LOGITS = np.random.default_rng(1).normal(size=(53, CLASSES)) * 2


def test_of_uniform_probabilities_is_one() -> None:
    assert inception_score_ect(np.full((20, CLASSES), 1 / CLASSES)).mean == pytest.approx(1.0)
    assert inception_score_torchmetrics(np.zeros((20, CLASSES))).mean == pytest.approx(1.0)


def test_of_certain_and_balanced_classes_is_their_number() -> None:
    certain = np.tile(np.eye(CLASSES), (10, 1))
    for score in (
        inception_score_ect(certain, splits=10),
        inception_score_torchmetrics(1000 * certain, splits=10),
    ):
        assert score.mean == pytest.approx(CLASSES)
        assert score.std == pytest.approx(0.0, abs=1e-12)


def test_of_one_certain_class_is_one() -> None:
    assert inception_score_ect(np.eye(CLASSES)[[2] * 9], splits=3) == pytest.approx((1.0, 0.0))


def test_splits_and_deviations_of_the_variants() -> None:
    """53 rows in 10 splits: chunks of 6 and one of 5, against splits of 5 or 6."""

    def scores(edges: list[int]) -> np.ndarray:
        p = softmax(LOGITS, axis=1)
        parts = [p[a:b] for a, b in pairwise(edges)]
        return np.array([np.exp((q * np.log(q / q.mean(axis=0))).sum(axis=1).mean()) for q in parts])

    chunks = scores([0, 6, 12, 18, 24, 30, 36, 42, 48, 53])
    found = inception_score_torchmetrics(LOGITS)
    assert found == pytest.approx((chunks.mean(), chunks.std(ddof=1)), rel=1e-12)
    even = scores([i * 53 // 10 for i in range(11)])
    found = inception_score_ect(softmax(LOGITS, axis=1))
    assert found == pytest.approx((even.mean(), even.std(ddof=0)), rel=1e-12)


def test_permutation() -> None:
    order = np.random.default_rng(2).permutation(53)
    shuffled = inception_score_torchmetrics(LOGITS, permutation=order)
    assert shuffled == inception_score_torchmetrics(LOGITS[order])
    assert shuffled != inception_score_torchmetrics(LOGITS)


def test_one_split() -> None:
    assert math.isnan(inception_score_torchmetrics(LOGITS, splits=1).std)
    assert inception_score_ect(softmax(LOGITS, axis=1), splits=1).std == 0.0


def test_refuses() -> None:
    with pytest.raises(UserError, match="splits = 0"):
        inception_score_torchmetrics(LOGITS, splits=0)
    with pytest.raises(UserError, match="splits = 54"):
        inception_score_ect(softmax(LOGITS, axis=1), splits=54)
    with pytest.raises(UserError, match="logits given"):
        inception_score_ect(LOGITS)
    with pytest.raises(UserError, match="permutation: must hold each"):
        inception_score_torchmetrics(LOGITS, permutation=np.zeros(53, int))
