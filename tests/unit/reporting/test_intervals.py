"""Intervals cover as often as they say, and the number of seeds that shows a difference shows it."""

import math

import numpy as np
import pytest

from couplet.reporting.intervals import LEVEL, paired, pairs_needed, power, simultaneous, welch


def correlated(n, count=4000, difference=0.0, std=(1.0, 1.0), correlation=0.8):
    """Values of two rows for ``n`` seeds, ``count`` times: [count, 2, n]."""
    a, b = std
    covariance = [[a * a, correlation * a * b], [correlation * a * b, b * b]]
    drawn = np.random.default_rng(n).multivariate_normal([difference, 0.0], covariance, size=(count, n))
    return drawn.transpose(0, 2, 1)


def share(found, difference=0.0):
    """How often intervals contain the true difference."""
    return np.mean([each.low <= difference <= each.high for each in found])


@pytest.mark.parametrize("level", [LEVEL, simultaneous(6)])
@pytest.mark.parametrize("n", [3, 5, 8])
def test_paired_intervals_cover_as_often_as_their_level(n, level):
    found = [paired(*values, level) for values in correlated(n, difference=-0.4, std=(0.5, 1.5)).tolist()]
    assert share(found, -0.4) == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / 4000))


@pytest.mark.parametrize("n", [3, 5, 8])
def test_pairs_are_narrower_than_welch_where_seeds_share_luck_and_not_where_they_do_not(n):
    def widths(correlation):
        values = correlated(n, 500, correlation=correlation).tolist()
        return [
            np.mean([e.high - e.low for e in map(method, *zip(*values, strict=True))])
            for method in (paired, welch)
        ]

    pairs, apart = widths(0.9)
    assert pairs < 0.6 * apart
    pairs, apart = widths(0.0)
    assert pairs > apart


def test_simultaneous_intervals_err_in_one_study_of_twenty_at_most():
    """Four rows are compared with one and the same."""
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(2000):
        baseline, *rows = rng.standard_normal((5, 5)).tolist()
        wrong += any(
            not e.low <= 0 <= e.high for e in (paired(row, baseline, simultaneous(4)) for row in rows)
        )
    assert 0.02 < wrong / 2000 < 0.055


def test_paired_interval_by_hand():
    found = paired([1.0, 2.0, 3.0], [4.0, 6.0, 8.0])
    # Differences -3, -4, -5: standard error 1/sqrt(3), 2 degrees of freedom, t = 4.3027.
    assert (found.difference, found.std, found.size) == (-4.0, 1.0, 3)
    assert found.low == pytest.approx(-4 - 4.3027 / math.sqrt(3), rel=1e-4)
    assert found.high == pytest.approx(-4 + 4.3027 / math.sqrt(3), rel=1e-4)
    assert found.verdict == "shown"


def test_welch_s_interval_by_hand():
    found = welch([1.0, 2.0, 3.0], [4.0, 6.0, 8.0])
    # Variances 1 and 4: standard error sqrt(5/3), Welch-Satterthwaite 50/17 degrees of freedom, t = 3.2188.
    half = 3.2188 * math.sqrt(5 / 3)
    assert found.difference == -4.0
    assert found.low == pytest.approx(-4 - half, rel=1e-3)
    assert found.high == pytest.approx(-4 + half, rel=1e-3)
    assert found.verdict == "not shown"


@pytest.mark.parametrize("method", [paired, welch])
@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ([1.0, 1.1, 0.9], [2.0, 2.2, 1.9], "shown"),
        ([2.0, 2.2, 1.9], [1.0, 1.1, 0.9], "opposite"),
        ([1.0, 2.0, 3.0], [2.5, 1.0, 3.0], "not shown"),
        ([1.0], [9.0], "no claim"),
        ([1.0, 1.0], [2.0, 2.0], "shown"),
        ([1.0, 1.0], [1.0, 1.0], "not shown"),
    ],
)
def test_verdict_follows_from_the_interval(method, first, second, verdict):
    assert method(first, second).verdict == verdict


def test_pairs_are_of_equal_number():
    with pytest.raises(ValueError, match="shorter"):
        paired([1.0, 2.0], [1.0])


def test_level_of_one_statement_is_95_percent_and_falls_with_their_number():
    assert [simultaneous(m) for m in (0, 1, 5)] == [0.95, 0.95, 0.99]


@pytest.mark.parametrize(("size", "pairs"), [(0.5, 44), (0.8, 19), (1.0, 13)])
def test_pairs_needed_are_those_of_textbooks(size, pairs):
    """Of a paired t test at 5 % with power 90 %."""
    assert pairs_needed(size, 1.0) == pairs_needed(-2 * size, 2.0) == pairs


@pytest.mark.parametrize("level", [LEVEL, simultaneous(6)])
def test_as_many_pairs_as_needed_show_a_difference_nine_times_in_ten(level):
    n = pairs_needed(-1.5, 1.0, level)
    values = correlated(n, 2000, difference=-1.5, correlation=0.5).tolist()
    found = np.mean([paired(*each, level).verdict == "shown" for each in values])
    assert found == pytest.approx(power(-1.5, 1.0, n, level), abs=0.03)
    assert found > 0.88
    assert power(-1.5, 1.0, n - 1, level) < 0.9


def test_no_number_of_pairs_shows_nothing():
    assert pairs_needed(0.0, 1.0) is None
    assert pairs_needed(1e-4, 1.0) is None
    assert pairs_needed(0.1, 0.0) == 2
