"""The rule that chooses a snapshot."""

import pytest

from couplet.selection import best


def test_lowest_distance_wins():
    assert best({100: {1: 5.0}, 200: {1: 3.0}, 300: {1: 4.0}}, 1) == 200


def test_of_equals_the_earliest_step_wins_in_any_order():
    scores = {300: {1: 3.0}, 200: {1: 3.0}, 400: {1: 3.0}}
    assert best(scores, 1) == best(dict(reversed(scores.items())), 1) == 200


def test_only_the_wanted_nfe_counts():
    scores = {100: {1: 5.0, 2: 1.0}, 200: {1: 6.0, 2: 0.5}}
    assert best(scores, 1) == 100
    assert best(scores, 2) == 200


def test_no_scores_are_an_error():
    with pytest.raises(ValueError, match="empty"):
        best({}, 1)


def test_snapshot_without_the_nfe_is_an_error():
    with pytest.raises(KeyError):
        best({100: {1: 5.0, 2: 2.0}, 200: {1: 5.0}}, 2)
