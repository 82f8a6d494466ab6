"""The harness itself: what it must accept, refuse and count."""

from __future__ import annotations

import math

import harness
import numpy as np
import pytest
import torch

PLAIN = {"role": "output", "tol": {"rtol": 0.1, "atol": 0.0, "basis": ""}}


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> harness.Group:
    """A made-up group that leaves no trace in the table."""
    monkeypatch.setattr(harness, "TALLIES", harness.defaultdict(harness.Tally))
    made = object.__new__(harness.Group)
    made.name = "made-up"
    made.cases = {"case": {}}
    made.arrays = {
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
        "case/inner/x": {"role": "input"},
        "case/inner/out": PLAIN,
    }
    made._values = {
        "plain": np.array([1.0, -10.0], np.float32),
        "column": np.array([[1.0], [2.0]], np.float32),
        "odd": np.array([math.inf, math.nan, 1.0], np.float32),
        "plain__f64": np.array([1.0, -10.0]),
        "flaw": np.zeros(2),
        "given": np.zeros(2),
        **dict.fromkeys(("case/x", "case/labels", "case/out", "case/debug/out"), np.ones(2)),
        **dict.fromkeys(("case/inner/x", "case/inner/out"), np.ones(2)),
    }
    return made


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


@pytest.mark.parametrize(
    ("output", "inputs"),
    [
        ("case/out", ["case/x", "case/labels"]),
        ("case/debug/out", ["case/x", "case/labels"]),
        ("case/inner/out", ["case/inner/x"]),
        ("plain", []),
    ],
)
def test_inputs_are_those_of_the_nearest_folder_in_the_case(
    group: harness.Group, output: str, inputs: list
) -> None:
    assert group.inputs_of(output) == inputs


@pytest.mark.parametrize("output", ["case/out", "case/debug/out"])
def test_input_that_a_test_does_not_read_fails_it(group: harness.Group, output: str) -> None:
    """Whether or not the value is right, so that the failure has its true cause."""
    group.get("case/labels")
    harness.new_test()
    group.get("case/x")
    for value in (np.ones(2), np.zeros(2)):
        with pytest.raises(AssertionError, match=r"made-up: case/.*does not read \['case/labels'\]"):
            group.check(output, value)
    assert output in group.unused()
    group.tensor("case/labels")
    group.check(output, np.ones(2))
    assert output not in group.unused()


def test_every_group_is_readable() -> None:
    assert harness.names()
    for name in harness.names():
        group = harness.load(name)
        for array, meta in group.arrays.items():
            assert list(group.get(array).shape) == meta["shape"], f"{name}: {array}"
