"""The time of a training step as `time` measured it, and whether two of them can be compared."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

WIDEST = 0.1
"""Half the width, as a share of the ratio, that an interval of a ratio may have in a comparison."""


class StepTime(NamedTuple):
    """Milliseconds of a step, by round."""

    rounds: tuple[float, ...]
    how: str = ""
    """Clock and machine, in words."""
    source: str = ""
    """The file of the measurement: rounds of one file are paired."""

    @classmethod
    def of(cls, rounds: Sequence[float], how: str = "", source: str = "") -> StepTime:
        """The time of a step in each of the ``rounds``, in milliseconds, rounded to five digits."""
        return cls(tuple(float(f"{each:.5g}") for each in rounds), how, source)

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third quartile of the rounds."""
        if len(self.rounds) < 2:
            return self.median, self.median
        low, _, high = statistics.quantiles(self.rounds, n=4, method="inclusive")
        return float(f"{low:.5g}"), float(f"{high:.5g}")

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles."""
        low, high = self.quartiles
        return (high - low) / 2

    @property
    def plain(self) -> dict[str, Any]:
        """The same as JSON."""
        return {"median": self.median, "quartiles": list(self.quartiles), "rounds": list(self.rounds)}

    def __str__(self) -> str:
        low, high = self.quartiles
        return f"{self.median:.3g} ms ({low:.3g} to {high:.3g})"


def ratio(first: StepTime, second: StepTime) -> tuple[float, float, float]:
    """The median over rounds of the first time divided by the second, and its 95 % interval.

    The interval is that of the sign test, whose ends are two of the ratios; its ends are NaN for fewer than
    six rounds. Both times must be of one measurement.
    """
    from scipy.stats import quantile_test  # half a second

    ratios = [a / b for a, b in zip(first.rounds, second.rounds, strict=True)]
    low, high = quantile_test(ratios, p=0.5).confidence_interval(0.95)
    return statistics.median(ratios), float(low), float(high)


def unfit(first: StepTime | None, second: StepTime | None) -> str:
    """The reason why two trainings cannot be compared at equal seconds; blank if they can."""
    if first is None or second is None:
        return "the time of a step was not measured"
    if first.source != second.source:
        return "the times of their steps are of different measurements"
    middle, low, high = ratio(first, second)
    if math.isnan(low) or math.isnan(high):
        return f"{len(first.rounds)} rounds are too few for an interval of the ratio of their times"
    if max(high - middle, middle - low) > WIDEST * middle:
        return (
            f"the ratio of their times is too uncertain, {middle:.3g} with a 95 % interval of {low:.3g} to "
            f"{high:.3g}, further than {WIDEST:.0%} away"
        )
    return ""
