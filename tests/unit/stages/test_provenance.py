"""Records of stages: what stands in them, what they find, and what the table refuses because of them."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from couplet import cli
from couplet.config.sources import code_of
from couplet.errors import UserError
from couplet.files import read_json, sha256, write_json
from couplet.stages import verify as verifying
from couplet.stages import why as asking
from couplet.stages.prepare import prepare
from couplet.stages.provenance import LINKS, maker, read_record
from couplet.stages.table import table

PARAMS = Path(__file__).parents[3] / "params.yaml"


def verified(root):
    return verifying.verify(verifying.inventory(root), lambda count: None)


def flip(path, position=-1):
    """Changes one bit of a file."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def edited(path, **changes):
    write_json(path, read_json(path) | changes)


def refused(grid, **options):
    """The one line with which the table is refused."""
    with pytest.raises(UserError) as caught:
        table(grid.params, grid.root, grid.root / "again.csv", **options)
    message = str(caught.value)
    assert "\n" not in message
    assert not (grid.root / "again.csv").exists()
    return message


@pytest.fixture
def couplet(monkeypatch, capsys):
    """Runs the command line; gives exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["couplet", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return ended.value.code or 0, said.out, said.err

    return run


GRID = [stage for stage in LINKS if stage != "probe"]
"""What every cell of a table has; a probe is made where somebody asks for it."""

# What stands in a record.


@pytest.mark.parametrize("stage", GRID)
def test_record_says_what_a_stage_made_from_what_and_with_what(grid, stage):
    content = read_json(grid.records[stage])
    assert content["stage"] == stage
    assert content["code"] == code_of(stage)
    assert content["seconds"] > 0
    assert content["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert {"commit", "dirty", "python", "platform", "device", "cpu", "cpu_count", "threads"} <= {*content}
    record = read_record(grid.records[stage])
    for path, digest in {**record.inputs, **record.outputs}.items():
        assert path.is_relative_to(grid.root)
        assert sha256(path) == digest, path
    for before in LINKS[stage]:
        assert read_record(grid.records[before]).outputs.keys() & record.inputs.keys(), before


def test_record_holds_the_resolved_settings_and_their_key(grid):
    training = grid.params.training(grid.cells[0])
    measurement = grid.params.measurement(grid.cells[0], "classifier")
    record = read_json(grid.records["train"])
    assert (record["key"], record["settings"]) == (training.key, training.model_dump(mode="json"))
    for stage in ("select", "sample", "evaluate"):
        record = read_json(grid.records[stage])
        assert (record["key"], record["settings"]) == (measurement.key, measurement.model_dump(mode="json"))
        assert record["run"] == f"{grid.cells[0]}-{training.key}"
    assert read_json(grid.records["prepare"])["settings"] == {"kind": "digits", "test_images": 300}


def test_every_file_of_a_stage_is_in_its_record(grid):
    recorded = {path for record in verifying.inventory(grid.root).records for path in record.outputs}
    files = {path for path in grid.root.rglob("*") if path.is_file()}
    assert {path.name for path in files - recorded} == {
        *(path.name for path in grid.records.values()),
        f"{grid.data.name}.record.json",
        "table1.record.json",
    }


def test_record_depends_on_no_time_but_in_its_own_file(grid, tmp_path):
    """The same work again changes the record and nothing else: what is made from it need not be again."""
    again = tmp_path / "again" / grid.data.name
    prepare("digits", grid.params.datasets["digits"], out=again, raw=tmp_path)
    one, other = (read_json(path / "card.json") for path in (grid.data, again))
    assert one == other
    assert sorted(path.name for path in again.iterdir()) == sorted(path.name for path in grid.data.iterdir())
    assert (again.parent / f"{grid.data.name}.record.json").exists()


def test_maker_is_found_from_any_file(grid):
    for stage, path in grid.records.items():
        for file in read_record(path).outputs:
            found = maker(file)
            assert found is not None
            assert found.stage == stage
    assert maker(grid.records["train"]) is None


# couplet verify


def test_untouched_results_are_as_recorded(grid):
    assert verified(grid.root) == verifying.Findings([], [])


@pytest.mark.parametrize(
    ("place", "who"),
    [
        ("train/checkpoints/step-00000002.safetensors", "train"),
        ("train/curve.csv", "train"),
        ("eval/samples/nfe1.npy", "sample"),
        ("eval/selection.json", "select"),
        ("eval/metrics.json", "evaluate"),
        ("reference/train.safetensors", "reference"),
        ("features/extractor.safetensors", "features"),
        ("data/train-images.npy", "prepare"),
    ],
)
def test_flipped_bit_is_found_and_named(grid, place, who):
    folder, _, name = place.partition("/")
    path = getattr(grid, folder) / name
    before = sha256(path)
    flip(path)
    (problem,) = verified(grid.root).problems
    assert problem.startswith(f"{path}: SHA-256 recorded by ")
    assert who in problem
    assert problem.endswith(f" {before[:16]}, found {sha256(path)[:16]}")


def test_missing_file_and_damaged_record_are_problems(grid):
    (grid.eval / "samples/nfe2.npy").unlink()
    flip(grid.records["select"], 0)
    damaged, *missing = verified(grid.root).problems
    assert damaged.startswith(f"{grid.records['select']}: not JSON")
    (line,) = [line for line in missing if "missing" in line]
    assert line.startswith(f"{grid.eval / 'samples/nfe2.npy'}: missing, recorded by ")


def test_file_in_no_record_and_other_code_are_notes(grid, monkeypatch):
    (grid.train / "checkpoints/step-00000009.safetensors").write_text("stray")
    (grid.root / "notes.txt").write_text("lies in no folder of a stage")
    real = code_of
    monkeypatch.setattr(verifying, "code_of", lambda s: "f" * 64 if s == "train" else real(s))
    found = verified(grid.root)
    assert found.problems == []
    assert found.notes == [
        f"{grid.train / 'checkpoints/step-00000009.safetensors'}: in no record",
        f"train: 2 records made by other code ({code_of('train')[:8]}) than is installed (ffffffff)",
    ]


def test_what_was_made_from_another_file_is_found(grid):
    """The data set is prepared anew, with its record: only those who used the old one disagree."""
    other = grid.params.datasets["digits"].model_copy(update={"test_images": 200})
    prepare("digits", other, out=grid.data, raw=grid.root)
    problems = verified(grid.root).problems
    (line,) = [line for line in problems if "train-images.npy" in line]
    assert "prepare" not in line
    assert "features, reference, train (2 times)" in line


def test_folders_of_any_layout_are_walked(grid, tmp_path):
    """A run's folder by itself, and one that was moved away from what it was made from."""
    run = grid.layout.run(grid.cells[0])
    assert verified(run) == verifying.Findings([], [])
    shutil.move(run, tmp_path / "elsewhere")
    found = verified(tmp_path / "elsewhere")
    assert found.problems == []
    assert all("missing, recorded by" in note for note in found.notes)
    assert any("train-images.npy" in note for note in found.notes)


def test_unfinished_training_is_left_out(grid):
    shutil.copytree(grid.train, grid.train.with_name("train.partial"))
    flip(grid.train.with_name("train.partial") / "curve.csv")
    assert verified(grid.root) == verifying.Findings([], [])


def test_verify_ends_with_1_for_a_finding_and_2_for_a_wrong_folder(grid, couplet, tmp_path):
    code, out, _ = couplet("verify", "results")
    assert (code, out.splitlines()[-1].endswith("all as recorded")) == (0, True)
    flip(grid.eval / "samples/nfe1.npy")
    code, out, err = couplet("verify", "results")
    assert (code, err) == (1, "")
    assert len(out.splitlines()) == 2
    assert out.splitlines()[-1].endswith("records read: 1 problem")
    (tmp_path / "empty").mkdir()
    code, out, err = couplet("verify", "empty")
    assert (code, out) == (2, "")
    assert err == "couplet: empty: holds no record of a stage; give the folder of a grid or of a run\n"


def test_accept_code_reaches_the_training(couplet, tmp_path, monkeypatch):
    seen = []
    for name in ("couplet.stages.train.train", "couplet.adhoc.run_cell"):
        monkeypatch.setattr(name, lambda *arguments, **options: seen.append(options["accept_code"]))
    monkeypatch.setattr(cli, "show", lambda folder: None)
    for flag in ((), ("--accept-code",)):
        couplet("train", "--data", "data", "--out", "out", "--params", str(PARAMS), *flag)
        couplet("run", "--params", str(PARAMS), "--out", str(tmp_path / "run"), *flag)
    assert seen == [False, False, True, True]


# What the table refuses.


@pytest.mark.parametrize("stage", ["prepare", "features", "train", "select", "sample", "evaluate"])
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


def test_training_on_data_that_was_prepared_anew_is_refused(grid):
    key = read_json(grid.records["prepare"])["key"]
    other = grid.params.datasets["digits"].model_copy(update={"test_images": 200})
    prepare("digits", other, out=grid.data, raw=grid.root)
    edited(grid.records["prepare"], key=key)
    message = refused(grid)
    assert f"used {grid.data}" in message
    assert "prepare recorded" in message


def test_training_with_other_files_in_another_folder_is_refused(grid):
    record = read_json(grid.records["train"])
    edited(grid.records["train"], inputs={"/elsewhere/train-images.npy": "0" * 64})
    assert refused(grid) == (
        f"{grid.records['train']}: train used nothing that {grid.records['prepare']} is the record of; "
        "run `couplet train` again"
    )
    moved = {f"/elsewhere/{number}": digest for number, digest in enumerate(record["inputs"].values())}
    edited(grid.records["train"], inputs=moved)
    assert len(table(grid.params, grid.root, grid.root / "again.csv")) == 2


@pytest.mark.parametrize("place", ["eval/evaluation.json", "eval/selection.json", "data/card.json"])
def test_edited_numbers_are_refused(grid, place):
    folder, _, name = place.partition("/")
    path = getattr(grid, folder) / name
    path.write_text(path.read_text().replace("1", "2", 1))
    message = refused(grid)
    assert message.startswith(f"{path}: has SHA-256 {sha256(path)[:16]}, ")
    assert "edited or damaged; run `couplet" in message


def test_results_of_an_earlier_version_are_refused(grid):
    write_json(grid.records["train"], {"key": "0", "seconds": 1.0})
    assert refused(grid) == (
        f"{grid.records['train']}: not a record of this version, it says nothing of stage; "
        "run the stage again"
    )


# Missing cells.


def test_missing_cells_are_refused_unless_they_are_left_out(grid):
    path = grid.records["evaluate"]
    path.unlink()
    message = refused(grid)
    assert message == (
        f"results: 1 of 2 cells are missing, first {grid.cells[0]}: not evaluated, {path} does not exist; "
        "`couplet table --partial` makes the table of the others"
    )
    made = table(grid.params, grid.root, grid.root / "part.csv", partial=True)
    assert [(row["nfe"], row["seeds"], row["missing"]) for row in made] == [
        ("1", "1 of 2", "seed 0: not evaluated"),
        ("2", "1 of 2", "seed 0: not evaluated"),
    ]
    other = read_json(grid.layout.evaluation(grid.cells[1], "classifier") / "evaluation.json")
    assert float(made[0]["fd_classifier_mean"]) == pytest.approx(
        other["metrics"]["fd_classifier_nfe1"], abs=1e-3
    )
    assert made[0]["fd_classifier_std"] == ""
    assert "| 1 of 2 | seed 0: not evaluated |" in (grid.root / "part.md").read_text()
    assert len(list((grid.root / "part.figures").glob("*.png"))) == 2


def test_partial_table_of_nothing_or_of_wrong_rows_is_refused(grid):
    edited(grid.records["sample"], key="0ld0ld00")
    assert "key is 0ld0ld00" in refused(grid, partial=True)
    shutil.rmtree(grid.root / "runs")
    message = refused(grid, partial=True)
    assert message.startswith(f"results: 2 of 2 cells are missing, first {grid.cells[0]}: not trained, ")
    assert message.endswith("no cell is finished")


def test_whole_table_is_the_same_with_partial(grid):
    whole, part = (
        table(grid.params, grid.root, grid.root / "t.csv", partial=partial) for partial in (False, True)
    )
    assert whole == part
    assert "missing" not in whole[0]


# couplet why


def test_chain_goes_from_a_number_to_commit_and_data(grid):
    found = asking.why(grid.root / "table1.csv", "2")
    assert [run.chain[0].content["cell"]["seed"] for run in found.runs] == [0, 1]
    for run, cell in zip(found.runs, grid.cells, strict=True):
        assert {record.path for record in run.chain} == {*grid.layout.records(cell, "classifier").values()}
        assert [record.stage for record in run.chain] == list(reversed(GRID))
        metrics = read_json(grid.layout.evaluation(cell, "classifier") / "metrics.json")
        assert run.numbers == {name: metrics[f"{name}_nfe2"] for name in ("fd_classifier", "kid_classifier")}
    mean = np.mean([run.numbers["fd_classifier"] for run in found.runs])
    assert float(found.row["fd_classifier_mean"]) == pytest.approx(mean, abs=1e-3)
    lines = [value for _, value in asking.described(found)]
    chosen = read_json(grid.eval / "evaluation.json")["selected"]["checkpoint"]
    for path in (grid.train / "checkpoints" / chosen, grid.train / "config.json"):
        assert f"{path}  {sha256(path)[:12]}" in lines
    assert any(line.startswith(f"{grid.data}: 5 files") for line in lines)
    assert any(line.startswith("digits: sklearn") for line in lines)


def test_row_is_chosen_as_a_person_types_it(grid, couplet):
    def chosen(row):
        found = asking.why(grid.root / "table1.csv", row)
        return found.row["nfe"], [run.name for run in found.runs]

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


def test_training_that_two_codes_did_says_so(grid, monkeypatch):
    edited(grid.records["train"], earlier_code=["0ld" + "0" * 61])
    monkeypatch.setattr(asking, "code_of", lambda stage: "f" * 64)
    found = asking.why(grid.train / "config.json", None)
    (line,) = [value for _, value in asking.described(found) if "begun by" in value]
    assert f"code {code_of('train')[:8]}, another than is installed, begun by code 0ld00000, " in line


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
    code, out, _ = couplet("why", str(grid.train / "checkpoints/step-00000001.safetensors"))
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
    file = str(grid.train / "config.json")
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
    path = grid.eval / "evaluation.json"
    edited(path, metrics={})
    edited(
        grid.records["evaluate"],
        outputs=read_json(grid.records["evaluate"])["outputs"] | {"evaluation.json": sha256(path)},
    )
    with pytest.raises(UserError, match=r"is not what results/table1\.record\.json was made from; run"):
        asking.why(grid.root / "table1.csv", "1")


def test_partial_table_has_chains_of_what_is_there(grid):
    grid.records["evaluate"].unlink()
    out = grid.root / "part.csv"
    table(grid.params, grid.root, out, partial=True)
    assert len(out.read_text().splitlines()) == 3
    found = asking.why(out, "1")
    assert [run.name for run in found.runs] == [grid.layout.run(grid.cells[1]).name]
    assert ("seeds", "1 of 2; seed 0: not evaluated") in list(asking.described(found))
