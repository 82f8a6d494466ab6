"""Times of steps: spread, ratio, and whether they are fit for a comparison."""

import math

import pytest

from couplet.reporting.times import WIDEST, StepTime, ratio, unfit


def time(*rounds, source="times.json"):
    return StepTime.of(rounds, source=source)


def test_median_and_quartiles_over_rounds():
    made = time(10, 14, 11, 12, 13)
    assert (made.median, made.quartiles, made.spread) == (12, (11, 13), 1)
    assert str(made) == "12 ms (11 to 13)"
    assert made.plain == {"median": 12, "quartiles": [11, 13], "rounds": [10, 14, 11, 12, 13]}
    assert time(7).quartiles == (7, 7)


def test_ratio_is_of_rounds_and_its_interval_that_of_the_sign_test():
    """Of 15 ratios the fourth and the twelfth: 96.5 % of samples have their median between these."""
    load = [1.0, 5.0, 2.0] * 5
    ratios = [1 + number / 100 for number in range(15)]
    first = StepTime(tuple(10 * each * share for each, share in zip(load, ratios, strict=True)))
    second = StepTime(tuple(10 * each for each in load))
    assert ratio(first, second) == pytest.approx((1.07, 1.03, 1.11))
    assert unfit(first, second) == ""


@pytest.mark.parametrize("count", [2, 5])
def test_few_rounds_have_no_interval(count):
    few = time(*[10.0] * count)
    assert math.isnan(ratio(few, few)[1])
    assert unfit(few, few) == f"{count} rounds are too few for an interval of the ratio of their times"
    assert unfit(time(*[10.0] * 6), time(*[10.0] * 6)) == ""


@pytest.mark.parametrize("share", [0.9, 1.1])
def test_an_interval_that_is_too_wide_on_either_side_allows_no_comparison(share):
    even = time(*[10.0] * 12)
    for side in (1, -1):
        other = time(*[10.0] * 8, *[10 * (1 + side * share * WIDEST)] * 4)
        assert bool(unfit(other, even)) == (share > 1)


def test_times_of_two_measurements_are_not_compared():
    one, other = time(*[10.0] * 9), time(*[10.0] * 9, source="elsewhere.json")
    assert unfit(one, other) == "the times of their steps are of different measurements"
    assert unfit(one, None) == unfit(None, one) == "the time of a step was not measured"
