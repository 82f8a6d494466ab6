"""`couplet why`: the chain from a number to checkpoint, configuration, data and commit."""

import json

import numpy as np
import pytest

from couplet.errors import UserError
from couplet.files import read_json, sha256, write_json
from couplet.plan.stages import RUN
from couplet.provenance import why as asking
from couplet.stages import table


def edited(path, **changes):
    write_json(path, read_json(path) | changes)


def test_chain_goes_from_a_number_to_commit_and_data(grid):
    answer = asking.why(grid.root / "table1.csv", "2")
    assert [run.chain[0].content["cell"]["seed"] for run in answer.runs] == [0, 1]
    for run, cell in zip(answer.runs, grid.cells, strict=True):
        assert {record.path for record in run.chain} == {*grid.layout.records(cell, "classifier").values()}
        assert [record.stage for record in run.chain] == list(reversed(RUN))
        metrics = read_json(grid.layout.output("evaluate", cell, "classifier").with_suffix(".metrics.json"))
        assert run.numbers == {name: metrics[f"{name}_nfe2"] for name in ("fd_classifier", "kid_classifier")}
    mean = np.mean([run.numbers["fd_classifier"] for run in answer.runs])
    assert float(answer.row["fd_classifier_mean"]) == pytest.approx(mean, abs=1e-3)
    lines = [value for _, value in asking.described(answer)]
    chosen = read_json(grid.evaluation)["selected"]["checkpoint"]
    for path in (grid.train / "checkpoints" / chosen, grid.train / "config.json"):
        assert f"{path}  {sha256(path)[:12]}" in lines
    assert any(line.startswith(f"{grid.data}: 5 files") for line in lines)
    assert any(line.startswith("digits: sklearn") for line in lines)


def test_row_is_chosen_as_a_person_types_it(grid, couplet):
    def chosen(row):
        answer = asking.why(grid.root / "table1.csv", row)
        return answer.row["nfe"], [run.name for run in answer.runs]

    names = [grid.layout.run(cell).name for cell in grid.cells]
    for row in ("2", "nfe=2", "digits, nfe=2", "independent,nfe=2"):
        assert chosen(row) == ("2", names)
    assert chosen("nfe=1,seed=1") == ("1", names[1:])
    for row, problem in {
        "3": "--row 3: results/table1.csv has rows 1 to 2",
        "ot": "--row ot: no row fits; results/table1.csv has 1 (nfe=1), 2 (nfe=2)",
        "independent": "--row independent: 2 rows fit; results/table1.csv has 1 (nfe=1), 2 (nfe=2)",
        "colour=red": "--row colour=red: no column 'colour'; choose by dataset, scale, recipe, kernel, "
        "coupling, nfe, extractor or seed",
        "nfe=1,seed=7": "--row nfe=1,seed=7: the row has no seed 7; it has 0, 1",
    }.items():
        assert couplet("why", "results/table1.csv", "--row", row) == (2, "", f"couplet: {problem}\n")
    code, _, err = couplet("why", "results/table1.csv")
    assert (code, err) == (
        2,
        "couplet: results/table1.csv: which row? --row N or --row COLUMN=VALUE,…: 1 (nfe=1), 2 (nfe=2)\n",
    )


def test_changed_code_and_adopted_runs_are_named(grid):
    record = read_json(grid.records["train"])
    proof = {"key": "0ld0ld00", "steps": 20}
    edited(
        grid.records["train"],
        code={**record["code"], "couplet.training.loop:run": "0" * 16},
        adopted=[proof],
    )
    answer = asking.why(grid.train / "config.json", None)
    (line,) = [value for _, value in asking.described(answer) if "taken over" in value]
    assert f"key {record['key']}, " in line
    assert "code has changed since, first in couplet.training.loop:run, " in line
    assert "taken over from key 0ld0ld00 after 20 replayed steps, " in line


def test_why_prints_for_people_and_for_machines(grid, couplet):
    code, out, _ = couplet("why", "results/table1.csv", "--row", "nfe=1")
    assert code == 0
    for expected in ("evaluate ", "sample ", "train ", "all runs ", "prepare ", "commit "):
        assert expected in out
    code, out, _ = couplet("why", "results/table1.csv", "--row", "nfe=1", "--json")
    content = json.loads(out)
    assert content["row"]["nfe"] == "1"
    assert content["runs"][0]["chain"][0]["outputs"] == read_json(grid.records["evaluate"])["outputs"]


def test_any_recorded_file_has_a_chain(grid, couplet):
    code, out, _ = couplet("why", grid.train / "checkpoints/step-00000001.safetensors")
    assert code == 0
    assert out.count("prepare") == 1
    assert "evaluate" not in out
    for file, problem in {
        "results/table1.md": "is made from a whole table; ask for a row of its CSV",
        "results/nothing.csv": "not there; give a table's CSV or another file that a stage wrote",
        str(grid.records["train"]): "no record beside it names it; give a table's CSV or another file that "
        "a stage wrote",
    }.items():
        assert couplet("why", file) == (2, "", f"couplet: {file}: {problem}\n")
    file = grid.train / "config.json"
    code, _, err = couplet("why", file, "--row", "1")
    assert (code, err) == (2, f"couplet: --row 1: {file} is not a table's CSV\n")


def test_broken_chain_is_refused(grid):
    path = grid.root / "table1.csv"
    before = path.read_text()
    path.write_text(before.replace("digits", "cifar10"))
    with pytest.raises(UserError, match=r"table1\.csv: has SHA-256 \w+, .* edited or damaged"):
        asking.why(path, "1")
    path.write_text(before)
    record = read_json(grid.records["sample"])
    edited(grid.records["sample"], outputs=dict.fromkeys(record["outputs"], "0" * 64))
    with pytest.raises(
        UserError, match=r"evaluate used .*nfe1\.npy with SHA-256 \w+, sample recorded 0{16};"
    ):
        asking.why(path, "1")


def test_number_that_was_measured_again_since_is_refused(grid):
    edited(grid.evaluation, numbers=[])
    edited(
        grid.records["evaluate"],
        outputs=read_json(grid.records["evaluate"])["outputs"]
        | {grid.evaluation.name: sha256(grid.evaluation)},
    )
    with pytest.raises(UserError, match=r"is not what results/table1\.record\.json was made from; run"):
        asking.why(grid.root / "table1.csv", "1")


def test_partial_table_has_chains_of_its_finished_cells(grid):
    grid.records["evaluate"].unlink()
    out = grid.root / "part.csv"
    table.run(grid.params, grid.root, out, partial=True)
    assert len(out.read_text().splitlines()) == 3
    answer = asking.why(out, "1")
    assert [run.name for run in answer.runs] == [grid.layout.run(grid.cells[1]).name]
    assert ("seeds", "1 of 2; seed 0: not evaluated") in list(asking.described(answer))
