"""The rule that chooses a snapshot."""

import pytest

from couplet.selection import Score, best


def test_lowest_distance_wins():
    scores = [Score(100, {1: 5.0}), Score(200, {1: 3.0}), Score(300, {1: 4.0})]
    assert best(scores, 1).step == 200


def test_of_equals_the_earliest_step_wins_in_any_order():
    scores = [Score(300, {1: 3.0}), Score(200, {1: 3.0}), Score(400, {1: 3.0})]
    assert best(scores, 1).step == best(scores[::-1], 1).step == 200


def test_only_the_wanted_nfe_counts():
    scores = [Score(100, {1: 5.0, 2: 1.0}), Score(200, {1: 6.0, 2: 0.5})]
    assert best(scores, 1) == scores[0]
    assert best(scores, 2) == scores[1]


def test_no_scores_are_an_error():
    with pytest.raises(ValueError, match="empty"):
        best([], 1)


def test_snapshot_without_the_nfe_is_an_error():
    with pytest.raises(KeyError):
        best([Score(100, {1: 5.0, 2: 2.0}), Score(200, {1: 5.0})], 2)
