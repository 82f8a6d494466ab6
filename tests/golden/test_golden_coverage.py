"""The harness itself: what it must accept, refuse and count."""

from __future__ import annotations

import math
from collections.abc import Callable

import harness
import numpy as np
import pytest
import torch

PLAIN = {"role": "output", "tol": {"rtol": 0.1, "atol": 0.0, "basis": ""}}


@pytest.fixture
def group(made_up: Callable[..., harness.Group]) -> harness.Group:
    arrays = {
        "plain": PLAIN,
        "column": PLAIN,
        "odd": PLAIN,
        "plain__f64": {"role": "reference64"},
        "flaw": {"role": "output", "tol": {**PLAIN["tol"], "basis": "do not test against this"}},
        "given": {"role": "input"},
        "case/x": {"role": "input"},
        "case/labels": {"role": "input"},
        "case/out": PLAIN,
        "case/debug/out": PLAIN,
    }
    values = {
        "plain": np.array([1.0, -10.0], np.float32),
        "column": np.array([[1.0], [2.0]], np.float32),
        "odd": np.array([math.inf, math.nan, 1.0], np.float32),
        "plain__f64": np.array([1.0, -10.0]),
        **{name: np.zeros(2) for name in ("flaw", "given")},
        **{name: np.ones(2) for name in arrays if name.startswith("case/")},
    }
    return made_up(arrays, values, {"case": {}})


def test_accepts_what_is_within_tolerance(group: harness.Group) -> None:
    group.check("plain", torch.tensor([1.05, -10.5]))
    group.check("column", np.array([1.0, 2.0]))
    group.check("odd", np.array([math.inf, math.nan, 1.0]))
    tally = harness.TALLIES["made-up"]
    assert tally.compared == {"plain", "column", "odd"}
    assert tally.used == pytest.approx(0.5, rel=1e-6)
    assert tally.relative == pytest.approx(0.05)
    assert {"plain", "column", "odd"}.isdisjoint(group.unused())


@pytest.mark.parametrize(
    ("array", "value"),
    [
        ("plain", [1.2, -10.0]),
        ("plain", [1.0, math.nan]),
        ("plain", [1.0]),
        ("plain", [[1.0, -10.0]]),
        ("odd", [-math.inf, math.nan, 1.0]),
        ("odd", [math.inf, 0.0, 1.0]),
        ("given", [0.0, 0.0]),
    ],
)
def test_refuses_and_does_not_count(group: harness.Group, array: str, value: list) -> None:
    with pytest.raises(AssertionError, match=rf"made-up: {array}"):
        group.check(array, np.array(value))
    assert {"plain", "column", "odd"} <= set(group.unused())


def test_double_precision_is_held_to_more(group: harness.Group) -> None:
    group.check64("plain", np.array([1.0 + 1e-12, -10.0]))
    with pytest.raises(AssertionError, match="plain__f64"):
        group.check64("plain", np.array([1.0 + 1e-6, -10.0]))


def test_input_that_no_test_reads_is_unused(group: harness.Group) -> None:
    assert {"given", "case/x", "case/labels"} <= set(group.unused())
    group.get("case/x")
    group.tensor("case/labels")
    assert {"case/x", "case/labels"}.isdisjoint(group.unused())


@pytest.mark.parametrize("check", ["check", "check64"])
def test_test_of_a_case_must_read_all_of_its_inputs(group: harness.Group, check: str) -> None:
    group.get("case/labels")
    harness.begin_test()
    group.get("case/x")
    getattr(group, check)("case/out", np.ones(2))
    harness.end_test()  # another output is left: the rest of the inputs may be for that one
    getattr(group, check)("case/debug/out", np.ones(2))
    with pytest.raises(AssertionError, match=r"made-up: the test of case does not read \['case/labels'\]"):
        harness.end_test()
    group.get("case/labels")
    harness.end_test()


def test_difference_names_the_inputs_that_were_not_read(group: harness.Group) -> None:
    group.get("case/x")
    with pytest.raises(AssertionError, match=r"case/out\[0\] is .*has not read \['case/labels'\]"):
        group.check("case/out", np.zeros(2))


def test_every_group_is_readable() -> None:
    assert harness.names()
    for name in harness.names():
        group = harness.load(name)
        for array, meta in group.arrays.items():
            assert list(group.get(array).shape) == meta["shape"], f"{name}: {array}"
