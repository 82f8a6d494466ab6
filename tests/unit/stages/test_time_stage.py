"""`couplet time`: its file, its record, and what tables make of it."""

import csv
import json

import pytest

from couplet.errors import UserError
from couplet.files import read_json, write_json
from couplet.plan.stages import record_of
from couplet.provenance.record import Chains, read_record
from couplet.stages import table
from couplet.stages import time as stage


def edited(path, **changes):
    write_json(path, read_json(path) | changes)


def test_file_has_the_rounds_of_every_row_and_the_record_its_machine(grid):
    content, record = read_json(grid.times), read_json(record_of("time", grid.times))
    (name,) = content["milliseconds"]
    assert name == "digits-ict-ve-independent"
    assert len(content["milliseconds"][name]["rounds"]) == grid.params.time.rounds
    assert min(content["milliseconds"][name]["rounds"]) > 0
    assert (content["clock"], content["processes"]) == ("CPU time", 1)
    assert record["threads"] == 1
    assert record["cpu"]
    assert record["settings"]["rounds"] == 2
    assert record["key"] in grid.times.name


def test_table_has_the_measured_time_and_not_the_wall_clock(grid):
    edited(grid.records["train"], seconds=12345.0, images_per_second=67890.0)
    table.run(grid.params, grid.root, grid.root / "again.csv")
    rows = list(csv.DictReader((grid.root / "again.csv").read_text().splitlines()))
    (time,) = stage.times_of(Chains(grid.layout)).values()
    steps = grid.settings.training.recipe.steps
    for row in rows:
        assert float(row["step_ms"]) == pytest.approx(time.median, rel=1e-3)
        assert float(row["train_seconds"]) == pytest.approx(steps * time.median / 1000, abs=0.06)
        assert row["timed_by"] == time.how
        assert time.how.startswith("CPU time, ")
        assert time.how.endswith(", 1 thread")
    assert "12345" not in (grid.root / "again.csv").read_text()
    assert grid.times in read_record(grid.root / "again.record.json").inputs


def test_table_without_its_times_is_refused_unless_it_is_partial(grid):
    grid.times.unlink()
    record_of("time", grid.times).unlink()
    out = grid.root / "again.csv"
    with pytest.raises(UserError, match=r"results/times/digits-\w{8}\.json: .* `couplet time --part digits`"):
        table.run(grid.params, grid.root, out)
    assert not out.exists()
    table.run(grid.params, grid.root, out, partial=True)
    assert {row["step_ms"] for row in csv.DictReader(out.read_text().splitlines())} == {""}


def test_times_of_other_settings_are_refused(grid):
    edited(record_of("time", grid.times), key="0ld0ld00")
    with pytest.raises(UserError, match=r"results/times/digits-\w{8}\.record\.json: key is 0ld0ld00, "):
        table.run(grid.params, grid.root, grid.root / "again.csv")


def test_edited_times_are_refused(grid):
    edited(grid.times, clock="a sundial")
    with pytest.raises(
        UserError, match=r"results/times/digits-\w{8}\.json: has SHA-256 .*`couplet time` again"
    ):
        table.run(grid.params, grid.root, grid.root / "again.csv")


def test_trainings_that_do_not_fit_the_memory_are_one_line(grid, monkeypatch, tmp_path):
    def full(*given, **more):
        raise MemoryError("CUDA out of memory")

    monkeypatch.setattr(stage, "step_times", full)
    with pytest.raises(UserError, match=r"1 trainings at a time .*CUDA out of memory.* time\.rounds: 0"):
        grid.run_stage("time", grid.settings, {**grid.outputs, "time": tmp_path / "out.json"})
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, ["--part", "cifar10"], '--part: part = "cifar10": '),
        (
            {"datasets": ["digits", "mnist"]},
            [],
            "--part not given: params.yaml has digits, mnist; name one of them",
        ),
        ({"rounds": 0}, [], "--part not given: params.yaml time.rounds = 0: measures nothing"),
    ],
)
def test_command_needs_the_trainings_of_one_data_set(
    grid, grid_content, couplet, tmp_path, change, arguments, message
):
    if "rounds" in change:
        grid_content["time"] = change
    else:
        grid_content["table1"] |= change
    (tmp_path / "params.yaml").write_text(json.dumps(grid_content))
    code, _, err = couplet("time", "--data", grid.data, "--out", "out.json", *arguments)
    assert code == 2
    assert err.startswith(f"couplet: {message}")
    assert err.count("\n") == 1
    assert not (tmp_path / "out.json").exists()
