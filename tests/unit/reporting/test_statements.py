"""Differences, intervals and the verdicts that they carry."""

import math

import pandas as pd
import pytest

from couplet.config.study import Comparison
from couplet.reporting.statements import spread, welch
from couplet.reporting.statements import statements as stated


def rows(values, **names):
    """A row per seed."""
    base = {"dataset": "digits", "recipe": "ict", "kernel": "ve", "coupling": "ot", "nfe": 1}
    return [{**base, **names, "seed": seed, "value": value} for seed, value in enumerate(values)]


def statements(rows, *arguments):
    return list(stated(pd.DataFrame(rows), *arguments))


def test_interval_is_welch_s_by_hand():
    first, second = [1.0, 2.0, 3.0], [4.0, 6.0, 8.0]
    found = welch(first, second)
    assert found.difference == -4.0
    # Variances 1 and 4: standard error sqrt(5/3), Welch-Satterthwaite 50/17 degrees of freedom, t = 3.2188.
    half = 3.2188 * math.sqrt(5 / 3)
    assert found.low == pytest.approx(-4 - half, rel=1e-3)
    assert found.high == pytest.approx(-4 + half, rel=1e-3)
    assert found.verdict == "not shown"


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ([1.0, 1.1, 0.9], [2.0, 2.1, 1.9], "shown"),
        ([2.0, 2.1, 1.9], [1.0, 1.1, 0.9], "opposite"),
        ([1.0, 2.0, 3.0], [1.5, 2.5, 3.5], "not shown"),
        ([1.0], [9.0], "no claim"),
        ([1.0, 1.1], [9.0], "no claim"),
        ([1.0, 1.0], [2.0, 2.0], "shown"),
        ([1.0, 1.0], [1.0, 1.0], "not shown"),
    ],
)
def test_verdict_is_what_the_interval_carries(first, second, verdict):
    assert welch(first, second).verdict == verdict


def test_statement_for_each_context_that_has_both():
    made = [
        *rows([1.0, 1.1, 0.9], coupling="vae"),
        *rows([2.0, 2.1, 1.9], coupling="independent"),
        *rows([3.0, 3.1, 2.9], coupling="vae", kernel="li"),
        *rows([2.0, 2.1, 1.9], coupling="independent", kernel="li"),
        *rows([2.0, 2.1, 1.9], coupling="ot", kernel="li"),
        *rows([2.0, 2.1, 1.9], coupling="independent", recipe="ecm"),
    ]
    found = statements(made, Comparison(lower="vae", than="independent"), {"vae": "encoder"}, "nfe")
    assert [statement.verdict for statement in found] == ["shown", "opposite"]
    assert found[0].text.startswith(
        "ict, ve, NFE 1: encoder 1 ± 0.1 (3 seeds), independent 2 ± 0.1 (3 seeds)"
    )
    assert "difference -1, 95 % interval -1." in found[0].text
    only = Comparison(lower="vae", than="independent", only={"kernel": "li"})
    assert [statement.verdict for statement in statements(made, only, {}, "nfe")] == ["opposite"]


def test_statements_of_the_asked_nfe():
    made = [
        *rows([1.0, 1.1], coupling="vae"),
        *rows([1.0, 1.1], coupling="vae", nfe=2),
        *rows([2.0, 2.1], coupling="ot"),
        *rows([2.0, 2.1], coupling="ot", nfe=2),
    ]
    every, second = (
        statements(made, Comparison(lower="vae", than="ot", nfe=nfe), {}, "nfe") for nfe in (None, [2])
    )
    assert [found.text.split(":")[0] for found in every] == ["NFE 1", "NFE 2"]
    assert [found.text.split(":")[0] for found in second] == ["NFE 2"]


def test_statements_of_a_probe_are_at_the_nearest_levels_or_the_last():
    made = [
        row
        for x in (0.1, 1.0, 80.0)
        for name, values in (("ot", [1.0, 1.1]), ("independent", [2.0, 2.1]))
        for row in rows(values, coupling=name, x=x)
    ]
    last, asked = (
        statements(made, Comparison(lower="ot", than="independent", at=at), {}, "x", "t =")
        for at in (None, [0.9, 70.0])
    )
    assert [found.text.split(":")[0] for found in last] == ["t = 80"]
    assert [found.text.split(":")[0] for found in asked] == ["t = 1", "t = 80"]


def test_single_seeds_make_no_claim():
    made = [*rows([1.0], coupling="vae"), *rows([2.0], coupling="ot")]
    (found,) = statements(made, Comparison(lower="vae", than="ot"), {}, "nfe")
    assert found.verdict == "no claim"
    assert "too few seeds" in found.text


def test_spread_names_the_number_of_seeds():
    assert spread([1.0]) == "1 (1 seed)"
    assert spread([1.0, 2.0, 3.0]) == "2 ± 1 (3 seeds)"
