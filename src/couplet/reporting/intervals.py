"""Confidence intervals of a difference over seeds, and the number of seeds that shows one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

Verdict = Literal["shown", "not shown", "opposite", "no claim"]
"""The interval of the difference lies below 0; contains 0; lies above 0; is missing, or means nothing."""

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

LEVEL = 0.95
POWER = 0.9
MOST = 10_000
"""Seeds beyond which a difference counts as too small for any number of them."""


class Interval(NamedTuple):
    """A mean, or a difference of means, and the ends of its confidence interval."""

    difference: float
    low: float
    """NaN, as ``high``, for want of seeds."""
    high: float
    size: int
    """Values, pairs of seeds, or values of the smaller group."""
    std: float = math.nan
    """Sample standard deviation of the values or differences; NaN for two groups, or a single value."""

    @property
    def verdict(self) -> Verdict:
        """Whether the first is lower."""
        if math.isnan(self.low):
            return "no claim"
        if self.high < 0:
            return "shown"
        return "opposite" if self.low > 0 else "not shown"


def simultaneous(statements: int) -> float:
    """The level at which each of ``statements`` intervals is given, so that all hold at once with 95 %.

    ``1 - 0.05 / m`` (Bonferroni), whatever the dependence between statements, which share their seeds.
    """
    return 1 - (1 - LEVEL) / max(statements, 1)


def student(values: Sequence[float], level: float = LEVEL) -> Interval:
    """The mean with Student's interval, for independent draws of a normal distribution."""
    mean, count = statistics.fmean(values), len(values)
    if count < 2:
        return Interval(mean, math.nan, math.nan, count)
    std = statistics.stdev(values)
    half = _quantile(count - 1, level) * std / math.sqrt(count)
    return Interval(mean, mean - half, mean + half, count, std=std)


def of_both(first: Mapping[int, float], second: Mapping[int, float]) -> tuple[list[float], list[float]]:
    """The values of the seeds that both have, each by seed, in the order of the first."""
    seeds = [seed for seed in first if seed in second]
    return [first[seed] for seed in seeds], [second[seed] for seed in seeds]


def paired(first: Sequence[float], second: Sequence[float], level: float = LEVEL) -> Interval:
    """``mean(first - second)`` with Student's interval of the differences within seeds.

    A seed gives both the same initial weights, images, noise and noise levels, so what they share of its luck
    cancels. Student's interval and not a bootstrap: of three to eight seeds there are too few resamples (the
    interval from the smallest to the largest of three differences covers 75 %), while Student's is exact for
    normal differences of any number.

    Args:
        first, second: the values of the same seeds in the same order.
        level: the coverage, in (0, 1).
    """
    return student([a - b for a, b in zip(first, second, strict=True)], level)


def welch(first: Sequence[float], second: Sequence[float], level: float = LEVEL) -> Interval:
    """``mean(first) - mean(second)`` with Welch's interval, which ignores what seeds share.

    Values count as independent draws of two normal distributions, each with its own variance.
    """
    difference, count = statistics.fmean(first) - statistics.fmean(second), min(len(first), len(second))
    if count < 2:
        return Interval(difference, math.nan, math.nan, count)
    errors = [statistics.variance(values) / len(values) for values in (first, second)]
    if not any(errors):
        return Interval(difference, difference, difference, count)
    # Welch and Satterthwaite's degrees of freedom.
    freedom = sum(errors) ** 2 / sum(
        error**2 / (len(values) - 1) for error, values in zip(errors, (first, second), strict=True)
    )
    half = _quantile(freedom, level) * math.sqrt(sum(errors))
    return Interval(difference, difference - half, difference + half, count)


def power(difference: float, std: float, pairs: int, level: float = LEVEL) -> float:
    """The probability that :func:`paired` excludes 0 on the side of the true ``difference``.

    From the noncentral t distribution, for differences within seeds of standard deviation ``std`` > 0.
    """
    from scipy.special import nctdtr

    shift = abs(difference) / std * math.sqrt(pairs)
    return 1 - float(nctdtr(pairs - 1, shift, _quantile(pairs - 1, level)))


def pairs_needed(difference: float, std: float, level: float = LEVEL) -> int | None:
    """The least number of pairs of seeds, at least 2, that shows a difference with 90 % probability.

    Args:
        difference: the true mean of the differences within seeds.
        std: their standard deviation, >= 0.
        level: the level of the interval that has to exclude 0.

    Returns:
        the number, or None if :data:`MOST` pairs are too few, as for a difference of 0.
    """
    if difference == 0:
        return None
    if std == 0:
        return 2
    low, high = 1, 2
    while power(difference, std, high, level) < POWER:
        low, high = high, 2 * high
        if low >= MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        if power(difference, std, middle, level) < POWER:
            low = middle
        else:
            high = middle
    return high


def _quantile(freedom: float, level: float) -> float:
    """The number that Student's t exceeds in absolute value with probability ``1 - level``."""
    from scipy.special import stdtrit  # a third of a second

    return float(stdtrit(freedom, (1 + level) / 2))
