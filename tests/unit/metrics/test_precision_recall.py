"""Precision and recall: extremes, a case by hand, blocks."""

from __future__ import annotations

import numpy as np
import pytest

from couplet.errors import UserError
from couplet.metrics import precision_recall as module
from couplet.metrics.precision_recall import precision_recall

RNG = np.random.default_rng(3)
X = RNG.normal(size=(60, 4))
Y = RNG.normal(size=(50, 4)) * 0.5 + 0.5


def test_of_a_set_with_itself_is_one() -> None:
    assert precision_recall(X, X, k=3) == (1.0, 1.0)
    assert precision_recall(X, X[::-1], k=3) == (1.0, 1.0)


def test_of_disjoint_sets_is_zero() -> None:
    assert precision_recall(X, X + 1000, k=3) == (0.0, 0.0)


def test_is_not_symmetric() -> None:
    assert precision_recall(X, Y, k=3) == precision_recall(Y, X, k=3)[::-1]
    precision, recall = precision_recall(X, Y, k=3)
    assert precision > recall


def test_by_hand() -> None:
    """Second neighbours of 0, 1, 3, 7 are 3, 2, 3, 6 away; the ball of 7 reaches from 1 to 13."""
    real = np.array([[0.0], [1.0], [3.0], [7.0]])
    fake = np.array([[-4.0], [-3.0], [13.0], [13.5]])
    assert precision_recall(real, fake, k=2) == (0.5, 1.0)


def test_a_point_that_occurs_often_has_an_empty_ball() -> None:
    """The boundary counts, so equal points lie in each other's balls of radius 0."""
    same = np.full((6, 3), 0.1)
    assert precision_recall(same, same, k=3) == (1.0, 1.0)
    assert precision_recall(same, same + 1e-3, k=3) == (0.0, 0.0)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_against_all_distances_at_once(k: int) -> None:
    def radii(a: np.ndarray) -> np.ndarray:
        return np.sort(np.linalg.norm(a[:, None] - a[None], axis=-1), axis=1)[:, k]

    def covered(probes: np.ndarray, manifold: np.ndarray) -> float:
        distances = np.linalg.norm(probes[:, None] - manifold[None], axis=-1)
        return (distances <= radii(manifold)).any(axis=1).mean()

    assert precision_recall(X, Y, k=k) == (covered(Y, X), covered(X, Y))


@pytest.mark.parametrize("block", [1, 130, 10**6])
def test_blocks_do_not_matter(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = precision_recall(X, Y, k=3)
    monkeypatch.setattr(module, "BLOCK", block)
    assert precision_recall(X, Y, k=3) == expected


def test_refuses() -> None:
    with pytest.raises(UserError, match="generated features: 3 samples, at least 4"):
        precision_recall(X, Y[:3], k=3)
    with pytest.raises(ValueError, match="different lengths"):
        precision_recall(X, Y[:, :2], k=3)
