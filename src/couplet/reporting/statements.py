"""Statements of papers, tested on seeds: a paired difference, its confidence interval, and a verdict."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from couplet.config.study import Comparison
from couplet.reporting.intervals import (
    MOST,
    POWER,
    Verdict,
    of_both,
    paired,
    pairs_needed,
    simultaneous,
    welch,
)

if TYPE_CHECKING:
    import pandas as pd

DIMENSIONS = ("dataset", "recipe", "kernel", "coupling")
"""Columns that name a row."""


class Statement(NamedTuple):
    """A sentence with numbers, and the conclusion that they allow."""

    text: str
    verdict: Verdict


class Compared(NamedTuple):
    """Two rows that differ in one name, at one place."""

    where: str
    """What else is the same, in words."""
    names: tuple[str, str]
    """That of the row that is expected to be lower, and the other's."""
    values: tuple[Mapping[int, float], Mapping[int, float]]
    """Their values by seed."""
    unfit: str
    """The reason why they allow no claim; blank without one."""


def statements(
    rows: pd.DataFrame,
    comparisons: Sequence[Comparison],
    labels: Mapping[str, str],
    place: str,
    place_name: str = "NFE",
    *,
    unfit: Callable[[Mapping[str, Any], Mapping[str, Any]], str] = lambda lower, than: "",
) -> list[Statement]:
    """A statement for every pair of rows that differ in a comparison's dimension alone.

    The verdict follows from the interval of the paired difference; the seeds that both rows have are its
    pairs. All intervals of the list hold at once with 95 % probability.

    Args:
        rows: numbers of single seeds: `value`, :data:`DIMENSIONS`, `seed`, ``place``, perhaps `against`.
        comparisons: which name is expected to be lower than which.
        labels: the names to print.
        place: the column that tells numbers of one seed apart, `nfe` or `x`; each of its values for which
            a comparison asks has statements of its own.
        place_name: the name of that column in a sentence.
        unfit: the reason why two rows, by the columns that name them, allow no claim; blank without one.
    """
    find = partial(_compared, rows, labels=labels, place=place, place_name=place_name, unfit=unfit)
    found = [each for comparison in comparisons for each in find(comparison)]
    level = simultaneous(len(found))
    return [_statement(each, level) for each in found]


def correction(count: int) -> str:
    """A sentence on the level of the intervals of ``count`` statements."""
    if count < 2:
        return ""
    return (
        f" The intervals of the {count} statements hold at once with 95 % probability: each has a level of "
        f"{100 * simultaneous(count):.4g} % (Bonferroni)."
    )


def _compared(
    rows: pd.DataFrame,
    comparison: Comparison,
    *,
    labels: Mapping[str, str],
    place: str,
    place_name: str,
    unfit: Callable[[Mapping[str, Any], Mapping[str, Any]], str],
) -> Iterator[Compared]:
    """The pairs of rows of a comparison."""
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
        lower, than = (group[group[of] == name].set_index("seed")["value"].to_dict() for name in pair)
        if lower and than:
            where = [labels.get(at[key], at[key]) for key in varied]
            where += [f"{place_name} {at[place]:g}", *(f"equal {at[key]}" for key in budgets)]
            one, other = (labels.get(name, name) for name in pair)
            reason = unfit(*({**at, of: name} for name in pair))
            yield Compared(", ".join(where), (one, other), (lower, than), reason)


def _statement(compared: Compared, level: float) -> Statement:
    """The sentence and the verdict, with intervals of a level."""
    lower, than = compared.values
    values = of_both(lower, than)
    means = ", ".join(
        f"{name} {spread([*values.values()])}"
        for name, values in zip(compared.names, compared.values, strict=True)
    )
    if len(values[0]) < 2:
        text = f"{compared.where}: {means}; too few seeds that both have for an interval"
        return Statement(text, "no claim")
    result = paired(*values, level)
    unpaired = welch([*lower.values()], [*than.values()], level)
    numbers = (
        f"difference {result.difference:+z.3g}, {100 * level:.4g} % interval "
        f"{result.low:+z.3g} to {result.high:+z.3g} of {result.size} pairs "
        f"(unpaired {unpaired.low:+z.3g} to {unpaired.high:+z.3g})"
    )
    text = f"{compared.where}: {means}; {numbers.replace('-', '−')}"
    if compared.unfit:
        return Statement(f"{text}; no claim: {compared.unfit}", "no claim")
    if result.verdict == "not shown":
        text += f"; {_needed(pairs_needed(result.difference, result.std, level))}"
    return Statement(text, result.verdict)


def _needed(pairs: int | None) -> str:
    """What it would take to show a difference, in words."""
    count = f"more than {MOST:,}" if pairs is None else f"{pairs:,}"
    return f"{count} seeds would tell a difference of this size from 0 with {100 * POWER:g} % probability"


def spread(values: Sequence[float]) -> str:
    """Mean and sample standard deviation with the number of seeds: ``0.62 ± 0.10 (3 seeds)``."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:z.3g} (1 seed)"
    return f"{mean:z.3g} ± {statistics.stdev(values):.2g} ({len(values)} seeds)"
