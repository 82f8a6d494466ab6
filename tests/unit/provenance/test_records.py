"""Records of stages: their content, and how a file's record is looked up."""

import shutil

import pytest
import torch

from couplet.files import read_json, sha256
from couplet.plan.stages import RUN, STAGES, ingredients, record_of
from couplet.process import Context
from couplet.provenance.record import maker, read_record
from couplet.stages import prepare


@pytest.mark.parametrize("stage", RUN)
def test_record_names_settings_code_files_and_machine(grid, stage):
    content = read_json(grid.records[stage])
    assert content["stage"] == stage
    assert ingredients(stage, grid.settings).items() <= content.items()
    assert content["key"] == grid.layout.keys(grid.cells[0], "classifier")[stage]
    assert content["keys"] == {read: read_json(grid.records[read])["key"] for read in STAGES[stage].reads}
    assert content["seconds"] > 0
    assert content["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert {"commit", "dirty", "python", "platform", "device", "cpu", "cpu_count", "threads"} <= {*content}
    record = read_record(grid.records[stage])
    for path, digest in {**record.inputs, **record.outputs}.items():
        assert path.is_relative_to(grid.root)
        assert sha256(path) == digest, path
    for before in STAGES[stage].reads:
        assert read_record(grid.records[before]).outputs.keys() & record.inputs.keys(), before


def test_measurements_record_their_cell_and_training_its_key(grid):
    for stage in ("train", "select", "sample", "evaluate"):
        assert read_json(grid.records[stage])["cell"] == grid.cells[0].model_dump()
    assert grid.layout.run(grid.cells[0]).name.endswith(read_json(grid.records["train"])["key"])


def test_every_file_of_a_stage_is_in_its_record(grid):
    recorded = {path for name in grid.root.rglob("*record.json") for path in read_record(name).outputs}
    files = {path for path in grid.root.rglob("*") if path.is_file() and path.name[0] != "."}
    records = {path for cell in grid.cells for path in grid.layout.records(cell, "classifier").values()}
    records |= {record_of("time", grid.times), grid.root / "table1.record.json"}
    assert files - recorded == records


def test_same_work_again_changes_only_the_record(grid, tmp_path):
    """A stage that reads the output need not run again."""
    again = tmp_path / "again" / grid.data.name
    prepare.run(Context(), grid.settings, name="digits", out=again)
    assert {path.name: sha256(path) for path in again.iterdir()} == {
        path.name: sha256(path) for path in grid.data.iterdir()
    }
    assert (again.parent / f"{grid.data.name}.record.json").exists()


def test_every_output_leads_to_its_record(grid):
    for stage, path in grid.records.items():
        for file in read_record(path).outputs:
            record = maker(file)
            assert record is not None
            assert record.stage == stage
    assert maker(grid.records["train"]) is None


def test_records_hold_where_folders_move_together(grid, tmp_path):
    shutil.move(grid.root, tmp_path / "moved")
    path = tmp_path / "moved" / grid.samples.relative_to(grid.root) / "nfe1.npy"
    record = maker(path)
    assert record is not None
    assert all(file.exists() for file in (*record.inputs, *record.outputs))
