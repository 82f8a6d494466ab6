"""Statements of papers, tested on seeds: a difference, its confidence interval, and a verdict."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from couplet.config.study import Comparison

if TYPE_CHECKING:
    import pandas as pd

DIMENSIONS = ("dataset", "recipe", "kernel", "coupling")
"""Columns that name a row."""

LEVEL = 0.95

Verdict = Literal["shown", "not shown", "opposite", "no claim"]
"""The interval of the difference lies below 0; contains 0; lies above 0; is missing, or means nothing."""

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


class Statement(NamedTuple):
    """A sentence with numbers, and the conclusion that they allow."""

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

    Seeds count as independent draws of a normal distribution; each group has its own variance.
    """
    from scipy.stats import ttest_ind  # half a second

    difference = statistics.fmean(first) - statistics.fmean(second)
    if min(len(first), len(second)) < 2:
        return Interval(difference, math.nan, math.nan)
    if statistics.stdev(first) == statistics.stdev(second) == 0:
        return Interval(difference, difference, difference)
    low, high = ttest_ind(first, second, equal_var=False).confidence_interval(LEVEL)
    return Interval(difference, float(low), float(high))


def statements(
    rows: pd.DataFrame,
    comparison: Comparison,
    labels: Mapping[str, str],
    place: str,
    place_name: str = "NFE",
    *,
    unfit: Callable[[Mapping[str, Any], Mapping[str, Any]], str] = lambda lower, than: "",
) -> Iterator[Statement]:
    """A statement for every pair of rows that differ in the comparison's dimension alone.

    Args:
        rows: numbers of single seeds: `value`, :data:`DIMENSIONS`, `seed`, ``place``, perhaps `against`.
        comparison: which name is expected to be lower than which.
        labels: the names to print.
        place: the column that tells numbers of one seed apart, `nfe` or `x`; each of its values for which
            the comparison asks has statements of its own.
        place_name: the name of that column in a sentence.
        unfit: the reason why two rows, by the columns that name them, allow no claim; blank without one.
    """
    of, pair = comparison.of, (comparison.lower, comparison.than)
    others = [key for key in DIMENSIONS if key != of]
    varied = [key for key in others if rows[key].nunique() > 1]
    budgets = ["against"] if "against" in rows else []
    columns = [*budgets, place, *others]
    places = sorted(rows[place].unique())
    if place == "nfe":
        asked = places if comparison.nfe is None else comparison.nfe
    else:
        asked = [min(places, key=lambda x: abs(x - level)) for level in comparison.at or places[-1:]]
    wanted = rows[rows[place].isin(asked) & rows[of].isin(pair)]
    for key, name in comparison.only.items():
        wanted = wanted[wanted[key] == name]
    for names, group in wanted.groupby(columns, sort=False):
        at = dict(zip(columns, names, strict=True))
        first, second = (group.loc[group[of] == name, "value"].tolist() for name in pair)
        if first and second:
            where = [labels.get(at[key], at[key]) for key in varied]
            where += [f"{place_name} {at[place]:g}", *(f"equal {at[key]}" for key in budgets)]
            lower, than = (labels.get(name, name) for name in pair)
            made = _statement(", ".join(where), (lower, first), (than, second))
            reason = unfit(*({**at, of: name} for name in pair))
            yield Statement(f"{made.text}; no claim: {reason}", "no claim") if reason else made


def _statement(where: str, lower: tuple[str, list[float]], than: tuple[str, list[float]]) -> Statement:
    result = welch(lower[1], than[1])
    ends = f"95 % interval {result.low:+.3g} to {result.high:+.3g}"
    interval = "too few seeds for an interval" if result.verdict == "no claim" else ends
    means = ", ".join(f"{name} {spread(values)}" for name, values in (lower, than))
    return Statement(f"{where}: {means}; difference {result.difference:+.3g}, {interval}", result.verdict)


def spread(values: Sequence[float]) -> str:
    """Mean and sample standard deviation with the number of seeds: ``0.62 ± 0.10 (3 seeds)``."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.3g} (1 seed)"
    return f"{mean:.3g} ± {statistics.stdev(values):.2g} ({len(values)} seeds)"
