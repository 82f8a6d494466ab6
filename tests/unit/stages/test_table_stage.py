"""`couplet table`: results that it refuses, and cells that are missing."""

import csv
import html
import shutil

import numpy as np
import pytest

from couplet import model
from couplet.errors import UserError
from couplet.files import read_json, sha256, write_json
from couplet.plan.layout import checkpoint_name, shown_by
from couplet.plan.stages import RUN, Settings
from couplet.process import Context
from couplet.provenance.why import described, why
from couplet.sampling import first_images
from couplet.stages import prepare, table


def edited(path, **changes):
    write_json(path, read_json(path) | changes)


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def refused(grid, **options):
    """The line with which the table is refused."""
    with pytest.raises(UserError) as caught:
        table.run(grid.params, grid.root, grid.root / "again.csv", **options)
    message = str(caught.value)
    assert "\n" not in message
    assert not (grid.root / "again.csv").exists()
    return message


def prepare_again(grid):
    """Other images in the folder of the data set, with their record."""
    other = Settings(grid.params.datasets["digits"].model_copy(update={"test_images": 200}))
    prepare.run(Context(), other, name="digits", out=grid.data)


@pytest.mark.parametrize("stage", RUN)
def test_record_of_other_settings_is_refused(grid, stage):
    key = read_json(grid.records[stage])["key"]
    edited(grid.records[stage], key="0ld0ld00")
    assert refused(grid) == (
        f"{grid.records[stage]}: key is 0ld0ld00, the parameters give {key}; run `couplet {stage}` again"
    )


@pytest.mark.parametrize(
    ("after", "before", "name"),
    [
        ("train", "prepare", "train-images.npy"),
        ("reference", "prepare", "train-labels.npy"),
        ("select", "train", "step-00000001.safetensors"),
        ("sample", "select", "selection.json"),
        ("evaluate", "sample", "nfe2.npy"),
        ("evaluate", "reference", "train.safetensors"),
        ("evaluate", "features", "extractor.safetensors"),
    ],
)
def test_row_whose_stages_disagree_is_refused(grid, after, before, name):
    record = read_json(grid.records[after])
    (path,) = [path for path in record["inputs"] if path.endswith(name)]
    used = record["inputs"][path]
    edited(grid.records[after], inputs=record["inputs"] | {path: "0" * 64})
    message = refused(grid)
    assert message.startswith(f"{grid.records[after]}: {after} used results/")
    assert message.endswith(
        f"{name} with SHA-256 {'0' * 16}, {before} recorded {used[:16]}; run `couplet {after}` again"
    )


def test_run_on_data_that_was_prepared_again_is_refused(grid):
    key = read_json(grid.records["prepare"])["key"]
    prepare_again(grid)
    edited(grid.records["prepare"], key=key)
    message = refused(grid)
    assert f"used {grid.data}" in message
    assert "prepare recorded" in message


def test_run_with_other_files_in_another_folder_is_refused(grid):
    record = read_json(grid.records["train"])
    edited(grid.records["train"], inputs={"/elsewhere/train-images.npy": "0" * 64})
    assert refused(grid) == (
        f"{grid.records['train']}: train used nothing that {grid.records['prepare']} is the record of; "
        "run `couplet train` again"
    )
    moved = {f"/elsewhere/{number}": digest for number, digest in enumerate(record["inputs"].values())}
    edited(grid.records["train"], inputs=moved)
    assert table.run(grid.params, grid.root, grid.root / "again.csv") == "2 rows"


@pytest.mark.parametrize("output", ["evaluation", "selection", "data"])
def test_edited_numbers_are_refused(grid, output):
    path = getattr(grid, output)
    path = path / "card.json" if path.is_dir() else path
    path.write_text(path.read_text().replace("1", "2", 1))
    message = refused(grid)
    assert message.startswith(f"{path}: has SHA-256 {sha256(path)[:16]}, ")
    assert "edited or damaged; run `couplet" in message


def test_results_of_an_earlier_version_are_refused(grid):
    write_json(grid.records["train"], {"key": "0", "seconds": 1.0})
    assert refused(grid) == (
        f"{grid.records['train']}: not a record of this version, stage is missing; run the stage again"
    )


def test_missing_cells_are_refused_unless_they_are_left_out(grid):
    path = grid.records["evaluate"]
    path.unlink()
    assert refused(grid) == (
        f"results: 1 of 2 cells are missing, first {grid.cells[0]}: not evaluated, {path} does not exist; "
        "`couplet table --partial` makes the table of the others"
    )
    table.run(grid.params, grid.root, grid.root / "part.csv", partial=True)
    made = rows(grid.root / "part.csv")
    assert [(row["nfe"], row["seeds"], row["missing"]) for row in made] == [
        ("1", "1 of 2", "seed 0: not evaluated"),
        ("2", "1 of 2", "seed 0: not evaluated"),
    ]
    other = read_json(
        grid.layout.output("evaluate", grid.cells[1], "classifier").with_suffix(".metrics.json")
    )
    assert float(made[0]["fd_classifier_mean"]) == pytest.approx(other["fd_classifier_nfe1"], abs=1e-3)
    assert made[0]["fd_classifier_std"] == ""
    assert "seed 0: not evaluated" in (grid.root / "part.md").read_text()
    page = (grid.root / "part.html").read_text()
    assert f"<li>{grid.cells[0]}, classifier: not evaluated</li>" in page
    assert len(list((grid.root / "part.figures").glob("*.png"))) == 2


def test_partial_table_of_nothing_or_of_wrong_rows_is_refused(grid):
    edited(grid.records["sample"], key="0ld0ld00")
    assert "key is 0ld0ld00" in refused(grid, partial=True)
    shutil.rmtree(grid.root / "runs")
    message = refused(grid, partial=True)
    assert message.startswith(f"results: 2 of 2 cells are missing, first {grid.cells[0]}: not trained, ")
    assert message.endswith("no cell is finished")


def test_complete_table_is_the_same_with_partial(grid):
    texts = []
    for partial in (False, True):
        out = grid.root / "t.csv"
        table.run(grid.params, grid.root, out, partial=partial)
        texts.append(out.read_text())
    assert texts[0] == texts[1] == (grid.root / "table1.csv").read_text()
    assert "missing" not in rows(out)[0]


def test_page_has_what_couplet_why_says_of_every_row(grid):
    table.run(grid.params, grid.root, out := grid.root / "again.csv")
    page = html.unescape(out.with_suffix(".html").read_text())
    for number in (1, 2):
        answer = why(out, str(number))
        for run in answer.runs:
            assert f"<td>{run.name}</td>" in page
            assert all(f"{value:.6g}" in page for value in run.numbers.values())
        lines = {line for _, line in described(answer._replace(row={}))}
        assert len(lines) > 10
        assert all(f"<td>{line}</td>" in page for line in lines if line)
        assert f"<code>couplet why {out} --row {number}</code>" in page


def test_page_shows_what_select_kept_of_each_snapshot_and_does_without(grid):
    selection = grid.outputs["select"]
    shown = np.load(shown_by(selection))
    steps = [score["step"] for score in read_json(selection)["scores"]]
    for step, images in zip(steps, shown, strict=True):
        path = grid.outputs["train"] / "checkpoints" / checkpoint_name(step)
        network, saved = model.load(path, Context().device)
        assert np.array_equal(images, first_images(network, saved, 36))
    with_slider = (grid.root / "table1.html").read_text()
    assert f'max="{len(steps) - 1}"' in with_slider
    shown_by(selection).unlink()  # as of an earlier version
    table.run(grid.params, grid.root, grid.root / "again.csv")
    page = (grid.root / "again.html").read_text()
    assert 'type="range"' not in page
    assert "were not kept" in page


def test_part_that_no_cell_has_is_refused(grid):
    assert refused(grid, part="cifar10").startswith('part = "cifar10": ')
