"""Differences, intervals and the verdicts that they carry."""

import pandas as pd

from couplet.config.study import Comparison
from couplet.reporting.intervals import pairs_needed
from couplet.reporting.statements import correction, spread
from couplet.reporting.statements import statements as stated


def rows(values, **names):
    """A row per seed."""
    base = {"dataset": "digits", "recipe": "ict", "kernel": "ve", "coupling": "ot", "nfe": 1}
    return [{**base, **names, "seed": seed, "value": value} for seed, value in enumerate(values)]


def statements(rows, comparison, *arguments):
    return stated(pd.DataFrame(rows), [comparison], *arguments)


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
    assert "difference −1, 97.5 % interval −1 to −1 of 3 pairs (unpaired −1.29 to −0.715)" in found[0].text
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


def test_pairs_are_the_seeds_that_both_rows_have():
    made = [
        *rows([1.0, 5.0, 2.0, 3.0], coupling="vae"),
        *rows([9.0, 6.0, 3.5], coupling="ot")[1:],
        {**rows([7.0], coupling="ot")[0], "seed": 9},
    ]
    (found,) = statements(made, Comparison(lower="vae", than="ot"), {}, "nfe")
    # Seeds 1 and 2 have differences -1 and -1.5.
    assert "difference −1.25, 95 % interval −4.43 to +1.93 of 2 pairs" in found.text
    assert found.verdict == "not shown"
    (found,) = statements([*made[:1], *made[4:]], Comparison(lower="vae", than="ot"), {}, "nfe")
    assert found.verdict == "no claim"


def test_a_difference_that_seeds_share_is_shown_though_seeds_differ_more():
    luck = [0.0, 4.0, 9.0]
    made = [
        *rows([x + d for x, d in zip(luck, (1.0, 1.1, 0.9), strict=True)], coupling="vae"),
        *rows([x + 2 for x in luck], coupling="ot"),
    ]
    (found,) = statements(made, Comparison(lower="vae", than="ot"), {}, "nfe")
    assert found.verdict == "shown"
    assert "interval −1.25 to −0.752 of 3 pairs (unpaired −11" in found.text


def test_what_is_not_shown_says_how_many_seeds_it_would_take():
    made = [*rows([1.0, 2.2, 2.8], coupling="vae"), *rows([2.0, 2.0, 4.0], coupling="ot")]
    (found,) = statements(made, Comparison(lower="vae", than="ot"), {}, "nfe")
    needed = pairs_needed(-2 / 3, pd.Series([-1.0, 0.2, -1.2]).std())
    assert needed > 3
    assert found.text.endswith(
        f"; {needed} seeds would tell a difference of this size from 0 with 90 % probability"
    )
    made = [*rows([1.0, 2.0], coupling="vae"), *rows([2.0, 1.0], coupling="ot")]
    (found,) = statements(made, Comparison(lower="vae", than="ot"), {}, "nfe")
    assert "; more than 10,000 seeds would" in found.text


def test_more_statements_need_wider_intervals():
    made = [
        *rows([1.0, 1.1, 0.8], coupling="vae"),
        *rows([1.2, 1.45, 1.1], coupling="ot"),
        *rows([1.1, 1.0, 1.3], coupling="independent"),
    ]
    one = Comparison(lower="vae", than="ot")
    others = [Comparison(lower="vae", than="independent"), Comparison(lower="ot", than="independent")]
    alone = stated(pd.DataFrame(made), [one], {}, "nfe")
    together = stated(pd.DataFrame(made), [one, *others], {}, "nfe")
    assert len(together) == 3
    assert (alone[0].verdict, together[0].verdict) == ("shown", "not shown")
    assert correction(1) == ""
    assert "3 statements hold at once with 95 % probability: each has a level of 98.33 %" in correction(3)


def test_spread_names_the_number_of_seeds():
    assert spread([1.0]) == "1 (1 seed)"
    assert spread([1.0, 2.0, 3.0]) == "2 ± 1 (3 seeds)"
