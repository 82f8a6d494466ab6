"""What seeds say for a paper's claim: a difference, its interval, and a verdict that the interval carries."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from scipy.stats import ttest_ind

from couplet.config.study import Comparison

DIMENSIONS = ("dataset", "recipe", "kernel", "coupling")
"""Columns that name a row."""

LEVEL = 0.95

Verdict = Literal["shown", "not shown", "opposite", "no claim"]
"""The interval of the difference lies below 0; holds 0; lies above 0; there is none, for want of seeds."""

Row = Mapping[str, Any]
"""One seed's number: `value`, what names the row (:data:`DIMENSIONS`), `seed`, and `nfe` or `x`."""


class Statement(NamedTuple):
    """A sentence with numbers, and what may be concluded."""

    text: str
    verdict: Verdict


class Interval(NamedTuple):
    """A difference of means and the ends of its confidence interval."""

    difference: float
    low: float
    high: float

    @property
    def verdict(self) -> Verdict:
        """Whether the first is lower."""
        if math.isnan(self.low):
            return "no claim"
        if self.high < 0:
            return "shown"
        return "opposite" if self.low > 0 else "not shown"


def welch(first: Sequence[float], second: Sequence[float]) -> Interval:
    """``mean(first) - mean(second)`` with Welch's 95 % interval; the ends are NaN with fewer than two values.

    Seeds count as independent draws of a normal distribution, each group with a spread of its own.
    """
    difference = statistics.fmean(first) - statistics.fmean(second)
    if min(len(first), len(second)) < 2:
        return Interval(difference, math.nan, math.nan)
    if statistics.stdev(first) == statistics.stdev(second) == 0:
        return Interval(difference, difference, difference)
    low, high = ttest_ind(first, second, equal_var=False).confidence_interval(LEVEL)
    return Interval(difference, float(low), float(high))


def statements(
    rows: Sequence[Row],
    comparison: Comparison,
    names: Mapping[str, str],
    measured_at: str,
    called: str = "NFE",
) -> list[Statement]:
    """A statement for every pair of rows that differ in the comparison's dimension alone.

    Args:
        rows: single seeds' numbers.
        comparison: which name is expected to be lower than which.
        names: what names are called.
        measured_at: the column that tells numbers of one seed apart, `nfe` or `x`: at each of its values
            that the comparison asks for, there are statements of their own.
        called: what that column's values are called.
    """
    wanted = [row for row in rows if all(row[key] == name for key, name in comparison.only.items())]
    others = [key for key in DIMENSIONS if key != comparison.of]
    varied = [key for key in others if len({row[key] for row in rows}) > 1]
    groups: dict[tuple[Any, ...], dict[str, list[float]]] = {}
    for row in wanted:
        if row[comparison.of] not in (comparison.lower, comparison.than):
            continue
        at = (row.get("against"), row[measured_at], *(row[key] for key in others))
        groups.setdefault(at, {}).setdefault(row[comparison.of], []).append(row["value"])
    found = []
    for (against, at, *context), values in groups.items():
        if len(values) < 2 or not _asked(comparison, measured_at, at, rows):
            continue
        first, second = values[comparison.lower], values[comparison.than]
        where = [names.get(name, name) for key, name in zip(others, context, strict=True) if key in varied]
        where.append(f"{called} {at:g}" + (f", equal {against}" if against else ""))
        found.append(_statement(comparison, first, second, names, ", ".join(filter(None, where))))
    return found


def _asked(comparison: Comparison, measured_at: str, at: float, rows: Sequence[Row]) -> bool:
    if measured_at == "nfe":
        return comparison.nfe is None or at in comparison.nfe
    places = sorted({row["x"] for row in rows})
    wanted = comparison.at or places[-1:]
    return at in {min(places, key=lambda place: abs(place - each)) for each in wanted}


def _statement(
    comparison: Comparison,
    first: Sequence[float],
    second: Sequence[float],
    names: Mapping[str, str],
    where: str,
) -> Statement:
    lower, than = (names.get(name, name) for name in (comparison.lower, comparison.than))
    found = welch(first, second)
    interval = (
        f"95 % interval {found.low:+.3g} to {found.high:+.3g}"
        if found.verdict != "no claim"
        else "too few seeds for an interval"
    )
    text = (
        f"{where}: {lower} {spread(first)}, {than} {spread(second)}; "
        f"difference {found.difference:+.3g}, {interval}"
    )
    return Statement(text, found.verdict)


def spread(values: Sequence[float]) -> str:
    """Mean and sample standard deviation with the number of seeds: ``0.62 ± 0.10 (3 seeds)``."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.3g} (1 seed)"
    return f"{mean:.3g} ± {statistics.stdev(values):.2g} ({len(values)} seeds)"


def summary(
    rows: Iterable[Row], by: Sequence[str], of: str = "value"
) -> list[tuple[tuple[Any, ...], list[float]]]:
    """The numbers in the column ``of`` of each combination of the columns ``by``, in order of appearance."""
    groups: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in by), []).append(row[of])
    return list(groups.items())
