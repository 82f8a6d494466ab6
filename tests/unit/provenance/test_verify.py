"""`couplet verify`: every recorded file read again."""

import shutil

import pytest

from couplet.files import read_json, sha256, write_json
from couplet.plan.stages import Settings
from couplet.process import Context
from couplet.provenance import verify as verifying
from couplet.stages import prepare

AS_RECORDED = ([], [])


def verified(root):
    """Problems and notes."""
    return verifying.verify(root)[:2]


def flip(path, position=-1):
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def with_other_code(record, definition="couplet.model:load"):
    """Edit a record as if another definition had made its output."""
    content = read_json(record)
    content["code"][definition] = "f" * 16
    write_json(record, content)


def test_untouched_results_are_as_recorded(grid):
    assert verified(grid.root) == AS_RECORDED


@pytest.mark.parametrize(
    ("output", "name", "stage"),
    [
        ("train", "checkpoints/step-00000002.safetensors", "train"),
        ("train", "curve.csv", "train"),
        ("samples", "nfe1.npy", "sample"),
        ("selection", "", "select"),
        ("evaluation", "", "evaluate"),
        ("reference", "train.safetensors", "reference"),
        ("features", "extractor.safetensors", "features"),
        ("data", "train-images.npy", "prepare"),
    ],
)
def test_flipped_bit_is_reported(grid, output, name, stage):
    path = getattr(grid, output) / name
    before = sha256(path)
    flip(path)
    (problem,) = verified(grid.root)[0]
    assert problem.startswith(f"{path}: SHA-256 recorded by ")
    assert stage in problem
    assert problem.endswith(f" {before[:16]}, found {sha256(path)[:16]}")


def test_missing_file_and_damaged_record_are_problems(grid):
    (grid.samples / "nfe2.npy").unlink()
    flip(grid.records["select"], 0)
    damaged, *missing = verified(grid.root)[0]
    assert damaged.startswith(f"{grid.records['select']}: not JSON")
    (line,) = [line for line in missing if "missing" in line]
    assert line.startswith(f"{grid.samples / 'nfe2.npy'}: missing, recorded by ")


def test_file_in_no_record_and_other_code_are_notes(grid):
    (grid.train / "checkpoints/step-00000009.safetensors").write_text("stray")
    (grid.root / "notes.txt").write_text("lies in no folder of a stage")
    for cell in grid.cells:
        with_other_code(grid.layout.records(cell, "classifier")["train"], "couplet.model:save")
    with_other_code(grid.records["sample"])
    (grid.root / "table1.record.json").unlink()
    problems, notes = verified(grid.root)
    assert problems == []
    assert notes == [
        f"{grid.train / 'checkpoints/step-00000009.safetensors'}: in no record",
        "sample: 1 record made by other code than is installed, first in couplet.model:load",
        "train: 2 records made by other code than is installed, first in couplet.model:save",
    ]


def test_definition_that_is_gone_is_other_code(grid):
    with_other_code(grid.records["select"], "couplet.model:no_longer_there")
    (note,) = verified(grid.root)[1]
    assert note.endswith("first in couplet.model:no_longer_there")


def test_results_of_replaced_data_are_reported(grid):
    """The data set is prepared again, with its record: only the stages that read the old one disagree."""
    other = Settings(grid.params.datasets["digits"].model_copy(update={"test_images": 200}))
    prepare.run(Context(), other, name="digits", out=grid.data)
    (line,) = [line for line in verified(grid.root)[0] if "train-images.npy" in line]
    assert "prepare" not in line
    assert "features, reference, train (2 times)" in line


def test_folders_of_any_layout_are_walked(grid, tmp_path):
    """A run's folder by itself, and one that was moved away from its inputs."""
    run = grid.layout.run(grid.cells[0])
    assert verified(run) == AS_RECORDED
    shutil.move(run, tmp_path / "elsewhere")
    problems, notes = verified(tmp_path / "elsewhere")
    assert problems == []
    assert all("missing, recorded by" in note for note in notes)
    assert any("train-images.npy" in note for note in notes)


def test_unfinished_run_is_left_out(grid):
    shutil.copytree(grid.train, grid.train.with_name("train.partial"))
    flip(grid.train.with_name("train.partial") / "curve.csv")
    assert verified(grid.root) == AS_RECORDED


def test_exit_code_is_1_for_a_problem_and_2_for_a_wrong_folder(grid, couplet, tmp_path):
    code, out, _ = couplet("verify", "results")
    assert (code, out.splitlines()[-1].endswith("all as recorded")) == (0, True)
    flip(grid.samples / "nfe1.npy")
    code, out, err = couplet("verify", "results")
    assert (code, err) == (1, "")
    assert len(out.splitlines()) == 2
    assert out.splitlines()[-1].endswith("records read: 1 problem")
    (tmp_path / "empty").mkdir()
    code, out, err = couplet("verify", "empty")
    assert (code, out) == (2, "")
    assert err == "couplet: empty: holds no record of a stage; give the folder of a grid or of a run\n"
