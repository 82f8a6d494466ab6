"""Figure kinds on made-up cells: rows, statements and texts of the caption."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from couplet.config.params import Params
from couplet.config.study import ProbeFigureConfig
from couplet.config.variants import build
from couplet.errors import UserError
from couplet.figures.base import Cells, Measured
from couplet.figures.steps import at_equal_budget
from couplet.model import ImageShape
from couplet.reporting.times import StepTime

COUPLINGS = ("independent", "vae")


@pytest.fixture
def cells(params_content):
    """Makes the cells of two couplings and two seeds; ``measured(coupling, seed)`` are a cell's numbers.

    ``times`` has the time of a step by coupling.
    """

    def make(figure, measured, *, changes=None, times=None, **study):
        content = params_content | {"table1": {"datasets": ["digits"], "recipes": ["ict"], "kernels": ["ve"]}}
        content["table1"] |= {"couplings": list(COUPLINGS), "seeds": [0, 1]}
        content |= changes or {}
        texts = dict.fromkeys(("result", "title", "claim", "source"), "text")
        content["study"] = {"paper": "GC", "order": 1, "figure": figure, **texts, **study}
        params = Params.model_validate(content)
        shape = ImageShape(1, 8, 10)
        return Cells(
            params,
            params.study,
            [
                Measured(
                    cell,
                    params.training(cell),
                    shape,
                    (times or {}).get(cell.coupling),
                    measured(cell.coupling, cell.seed),
                )
                for cell in params.cells()
            ],
        )

    return make


def tidy(coupling, seed):
    """The numbers of an evaluation: vae is lower."""
    base = (4.0 if coupling == "vae" else 8.0) + 0.1 * seed
    metrics = {"kid": 0.0, "fd": base}
    return [
        {"metric": metric, "extractor": "classifier", "nfe": nfe, "seed": seed, "value": value / nfe}
        for metric, value in metrics.items()
        for nfe in (1, 2)
    ]


def scores(coupling, seed):
    """The scores of two snapshots by `select`."""
    return [
        {"step": step, "fd_nfe1": value, "fd_nfe2": value / 2}
        for step, value in ((100, 16.0 + seed), (200, (4.0 if coupling == "vae" else 8.0) + 0.1 * seed))
    ]


def test_distances_are_those_of_evaluate_or_of_the_last_snapshot(cells):
    expected = [8.0, 4.0, 8.1, 4.05, 4.0, 2.0, 4.1, 2.05]
    for numbers, source in ((tidy, "evaluate"), (scores, "select")):
        made = cells("evaluations", numbers, numbers=source)
        rows = build(made.study.figure).rows(made)
        assert rows["value"].tolist() == pytest.approx(expected)
        assert rows["nfe"].tolist() == [1, 2] * 4
        assert rows["row"].tolist() == ["independent"] * 4 + ["variational"] * 4


def test_statements_and_table_come_from_the_same_rows(cells):
    compare = [{"lower": "vae", "than": "independent", "nfe": [1]}]
    made = cells("evaluations", tidy, compare=compare, labels={"vae": "encoder"})
    kind = build(made.study.figure)
    rows = kind.rows(made)
    (statement,) = kind.statements(rows, made)
    assert statement.verdict == "shown"
    assert statement.text.startswith("NFE 1: encoder 4.05 ± 0.071 (2 seeds), independent 8.05")
    table = kind.table(rows)
    assert table["columns"] == ["", "nfe", "mean ± std"]
    assert table["rows"][0] == ["independent", "1", "8.05 ± 0.071 (2 seeds)"]
    assert "100" not in kind.measured(made).split(";")[0]
    assert "samples of the selected snapshot against the training split; 2 seeds each" in kind.measured(made)


def test_dots_have_the_cost_of_training(cells, monkeypatch):
    monkeypatch.setattr(Measured, "evaluations_per_step", property(lambda cell: 4.0 + cell.cell.seed))
    made = cells("dots", tidy)
    kind = build(made.study.figure)
    rows = kind.rows(made)
    assert rows["evaluations"].tolist() == [4.0, 4.0, 5.0, 5.0] * 2
    assert kind.table(rows)["rows"][0][-2:] == ["8.05 ± 0.071 (2 seeds)", "4.00"]


def test_sweep_has_the_setting_of_each_cell(cells):
    figure = {"kind": "sweep", "x": "coupling.kl_weight", "xlabel": "weight", "zero": {"independent": 0.0}}
    made = cells(figure, tidy)
    rows = build(made.study.figure).rows(made)
    assert rows.groupby("coupling")["x"].unique().map(list).to_dict() == {"independent": [0.0], "vae": [10.0]}
    assert set(rows["row"]) == {""}
    made = cells(figure | {"zero": {}}, tidy)
    with pytest.raises(UserError, match=r"study.figure.x = coupling.kl_weight.*study.figure.zero"):
        build(made.study.figure).rows(made)


def test_steps_have_every_snapshot_at_each_budget(cells):
    made = cells({"kind": "steps", "against": ["steps", "seconds"]}, scores, times=TIMES)
    kind = build(made.study.figure)
    rows = kind.rows(made)
    first = rows[(rows["coupling"] == "vae") & (rows["seed"] == 1)]
    assert first["against"].tolist() == ["steps"] * 2 + ["seconds"] * 2
    assert first["x"].tolist() == pytest.approx([100, 200, 2.1, 4.2])
    assert first["value"].tolist() == pytest.approx([17.0, 4.1] * 2)
    said = kind.measured(made)
    assert "samples of every snapshot against the" in said
    assert "bands are 95 % intervals" in said
    assert said.endswith(
        "(CPU time, 1 thread): independent 20 ms (20 to 20), variational 21 ms (20.5 to 21.5)."
    )


TIMES = {
    name: StepTime.of(rounds, how="CPU time, 1 thread", source="times.json")
    for name, rounds in (("independent", [20.0] * 15), ("vae", [20.0, 20.5, 21.0, 21.5, 22.0] * 3))
}
"""Milliseconds of a step by coupling."""


@pytest.mark.parametrize(
    ("changed", "verdict", "said"),
    [
        ({}, "shown", "97.5 % interval"),
        # Rounds that a busy machine slowed alike: the ratio is as sure as before.
        (
            {
                name: StepTime.of([time.rounds[i] * (1 + i) for i in range(15)], source="times.json")
                for name, time in TIMES.items()
            },
            "shown",
            "97.5 % interval",
        ),
        ({"vae": TIMES["vae"]._replace(rounds=(15.0, 27.0) * 7 + (21.0,))}, "no claim", "is too uncertain"),
        ({"vae": TIMES["vae"]._replace(source="other.json")}, "no claim", "are of different measurements"),
        ({"vae": None}, "no claim", "was not measured"),
        (
            {name: time._replace(rounds=time.rounds[:5]) for name, time in TIMES.items()},
            "no claim",
            "5 rounds are too few",
        ),
    ],
    ids=["sure", "busy machine", "wide", "two measurements", "none", "few rounds"],
)
def test_verdict_at_equal_seconds_needs_a_measurement_that_is_fit_for_it(cells, changed, verdict, said):
    made = cells(
        {"kind": "steps", "against": ["steps", "seconds"]},
        scores,
        times=TIMES,
        compare=[{"lower": "vae", "than": "independent"}],
    )
    kind = build(made.study.figure)
    compared, _ = kind.compared(kind.rows(made))
    members = [member._replace(time=(TIMES | changed)[member.cell.coupling]) for member in made.members]
    steps, seconds = kind.statements(compared, replace(made, members=members))
    assert steps.text.startswith("NFE 1, equal steps (200): variational 4.05")
    assert steps.verdict == "shown"
    assert seconds.text.startswith("NFE 1, equal seconds (4): variational ")
    assert (seconds.verdict, said in seconds.text) == (verdict, True), seconds.text


def test_a_figure_against_seconds_needs_times(cells):
    with pytest.raises(ValueError, match=r"time\.rounds.*= 0.* must be >= 1 for a figure against seconds"):
        cells({"kind": "steps", "against": ["seconds"]}, scores, changes={"time": {"rounds": 0}})


def test_rows_are_compared_at_shares_of_the_shortest_training(cells):
    figure = {"kind": "steps", "at": [0.75, 1.0]}
    made = cells(figure, scores, compare=[{"lower": "vae", "than": "independent"}])
    kind = build(made.study.figure)
    texts = [text["text"] for text in kind.caption(kind.rows(made), made)["statements"]]
    assert [text.split(":")[0] for text in texts] == ["NFE 1, equal steps (150)", "NFE 1, equal steps (200)"]
    assert f"variational {np.mean([(16 * 4) ** 0.5, (17 * 4.1) ** 0.5]):.3g} ±" in texts[0]


def test_probe_rows_are_numbers(cells):
    lines = [{"level": "0.1", "mean": "2.5"}, {"level": "80.0", "mean": "0.5"}]
    made = cells(
        {"kind": "probe", "probe": "transport"},
        lambda coupling, seed: lines,
        compare=[{"lower": "vae", "than": "independent"}],
    )
    kind = build(made.study.figure)
    rows = kind.rows(made)
    assert rows[["x", "value"]].to_numpy().tolist() == [[0.1, 2.5], [80.0, 0.5]] * 4
    assert kind.ylabel(made.params).startswith("transport cost")
    assert [statement.text.split(":")[0] for statement in kind.statements(rows, made)] == ["t = 80"]
    assert "pairs at each noise level; 2 seeds each" in kind.measured(made)


@pytest.mark.parametrize(
    ("column", "value"), [(None, 2.0), ("grad_variance", 2.0), ("covariance_trace", 3.0)]
)
def test_probe_draws_the_column_that_its_figure_names(cells, column, value):
    line = {"step": "10", "grad_variance": "2.0", "covariance_trace": "3.0"}
    made = cells({"kind": "probe", "probe": "gradient", "column": column}, lambda coupling, seed: [line])
    kind = build(made.study.figure)
    assert kind.rows(made)["value"].tolist() == [value] * 4
    assert ("trace" in kind.ylabel(made.params)) == (column == "covariance_trace")


def test_column_of_a_probe_must_be_one_of_its_own():
    with pytest.raises(ValueError, match=r"column.*must be a column of transport: mean, std_error"):
        ProbeFigureConfig(probe="transport", column="grad_norm")


def test_trajectories_are_compared_by_the_mean_deviation(cells):
    """vae: 1 and 3 at t = 1, 2 and 6 at t = 2; independent ten times that; the second seed 0.1 more."""

    def lines(coupling, seed):
        scale = (1 if coupling == "vae" else 10) + 0.1 * seed
        places = [(path, level) for path in (0, 1) for level in (2.0, 1.0)]
        return [
            {"path": path, "component": path, "level": level, "deviation": scale * level * (1 + 2 * path)}
            | dict.fromkeys(("x", "y", "ode_x", "ode_y"), 0.0)
            for path, level in places
        ]

    compare = [{"lower": "vae", "than": "independent", "at": [1.0, 2.0]}]
    made = cells("trajectories", lines, compare=compare)
    kind = build(made.study.figure)
    rows = kind.rows(made)
    assert len(rows) == 2 * 2 * 4
    caption = kind.caption(rows, made)
    texts = [statement["text"] for statement in caption["statements"]]
    assert [text.split(":")[0] for text in texts] == ["t = 1", "t = 2"]
    assert "variational 2.1 ± 0.14 (2 seeds), independent 20.1 ± 0.14" in texts[0]
    assert {statement["verdict"] for statement in caption["statements"]} == {"shown"}
    assert caption["table"]["columns"] == ["", "x", "mean ± std"]
    assert ["variational", "2", "4.2 ± 0.28 (2 seeds)"] in caption["table"]["rows"]


def test_names_are_those_that_people_use_unless_the_file_gives_them_to_other_settings(params_content):
    def labels(**changes):
        return Params.model_validate(params_content | changes).labels

    usual = labels()
    assert (usual["ot"], usual["vae"], usual["generator"]) == (
        "minibatch OT",
        "variational",
        "generator-induced",
    )
    assert "independent" not in usual
    assert "ot" not in labels(couplings={"ot": {"kind": "sinkhorn"}})
    assert labels(couplings={"vae": {"kl_weight": 1.0}})["vae"] == "variational"
    assert "ve" not in labels(kernels={"ve": {"kind": "li"}})


def test_labels_must_be_different(cells):
    with pytest.raises(UserError, match=r"study.labels: .*have the same label 'mine'"):
        cells("dots", tidy, labels=dict.fromkeys(COUPLINGS, "mine"))


def test_a_figure_has_one_extractor(cells, params_content):
    table1 = {"datasets": ["digits"], "recipes": ["ict"], "couplings": ["vae"], "seeds": [0]}
    selecting = [
        table1 | {"extractors": ["classifier", "values"]},
        table1 | {"seeds": [1], "extractors": ["values"]},
    ]
    shown = cells("dots", tidy, changes={"table1": selecting[:1]})
    assert "of the extractor classifier;" in build(shown.study.figure).measured(shown)
    changes = {"table1": selecting}
    with pytest.raises(UserError, match=r"table1.extractors = \['classifier', 'values'\]"):
        cells("dots", tidy, changes=changes)
    figure = {"kind": "probe", "probe": "transport"}
    assert cells(figure, lambda *names: [], changes=changes).members


def curve(row, xs, values=(8.0, 2.0), seed=0):
    names = {"dataset": "digits", "recipe": "ict", "kernel": "ve", "coupling": row, "row": row, "seed": seed}
    return [
        {**names, "nfe": 1, "against": "seconds", "x": x, "value": v} for x, v in zip(xs, values, strict=True)
    ]


def test_equal_budget_is_where_the_cheapest_run_ended():
    rows = pd.DataFrame([*curve("cheap", (10.0, 20.0)), *curve("dear", (10.0, 30.0))])
    compared, remark = at_equal_budget(rows)
    assert compared["x"].tolist() == [20.0, 20.0]
    assert compared["value"].tolist() == pytest.approx([2.0, np.sqrt(8.0 * 2.0)])
    assert remark == ""


def test_a_row_whose_first_snapshot_lies_beyond_the_budget_is_left_out():
    rows = pd.DataFrame(
        [
            *curve("cheap", (10.0, 20.0)),
            *curve("cheap", (10.0, 20.0), seed=1),
            *curve("late", (19.0, 40.0)),
            *curve("late", (21.0, 40.0), seed=1),
        ]
    )
    compared, remark = at_equal_budget(rows)
    assert compared["row"].tolist() == ["cheap", "cheap"]
    assert remark == " Without late at equal seconds (20): the first snapshot lies beyond the budget."
