"""`couplet run`: every stage of one cell in one folder, and the stage commands on a run's own settings."""

import csv
from contextlib import contextmanager

import numpy as np
import pytest
import yaml
from PIL import Image

from couplet import process
from couplet.config.cells import SampleConfig, SelectConfig
from couplet.files import read_json
from couplet.plan.stages import RUN, STAGES, record_of, training_in
from couplet.provenance import verify as verifying


@pytest.fixture
def params(tmp_path, monkeypatch, grid_content):
    """Writes params.yaml of a tiny run, with changes, in the working folder."""
    monkeypatch.chdir(tmp_path)

    def write(**changes):
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(grid_content | changes))

    write()
    return write


def outputs(run):
    return {stage: run / STAGES[stage].output for stage in RUN}


def changed_files(folder, before):
    return {
        path for path in folder.rglob("*") if path.is_file() and before.get(path) != path.stat().st_mtime_ns
    }


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_every_stage_leaves_its_output_and_record(params, couplet, tmp_path):
    code, out, err = couplet("run", "--out", "mine", "--steps", "3", "--seed", "7")
    assert code == 0, err
    run = tmp_path / "mine"
    for stage, output in outputs(run).items():
        assert output.exists()
        assert read_json(record_of(stage, output))["stage"] == stage
    training = training_in(run / "train")
    assert (training.recipe.steps, training.cell.seed) == (3, 7)
    with Image.open(run / "samples.png") as picture:
        assert picture.size[0] > 100
    assert not list(tmp_path.glob("*.lock"))
    assert verifying.verify(run).problems == []
    for text in ("digits-ict-ve-independent-s7", "3 steps of 4 images", "fd, NFE 1", "mine/samples.png"):
        assert text in out


def test_kept_parameter_file_repeats_the_run(params, couplet, tmp_path):
    couplet("run", "--out", "mine", "--steps", "3", "--set", "recipes.ict.sigma_data=0.6")
    (tmp_path / "params.yaml").unlink()
    assert couplet("run", "--params", "mine/params.yaml", "--out", "again")[0] == 0
    mine, again = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "train/checkpoints").iterdir()}
        for name in ("mine", "again")
    )
    assert mine == again
    assert training_in(tmp_path / "mine/train").recipe.sigma_data == 0.6


@pytest.mark.parametrize(
    ("change", "place", "difference"),
    [
        (["--steps", "3"], "train", "recipe.steps = 2, this needs 3"),
        (["--seed", "1"], "train", "cell.seed = 0, this needs 1"),
        (["--coupling", "ot"], "train", "cell.coupling = independent, this needs ot"),
        (["--set", "train.snapshots=1"], "train", "train.snapshots = [1, 2], this needs [2]"),
        (["--set", "datasets.digits.test_images=200"], "data", "test_images = 300, this needs 200"),
    ],
)
def test_other_training_settings_are_refused_in_the_folder(
    params, couplet, tmp_path, change, place, difference
):
    assert couplet("run", "--out", "mine")[0] == 0
    before = times(tmp_path)
    code, _, err = couplet("run", "--out", "mine", *change)
    assert code == 2
    assert err.startswith(f"couplet: mine/{place}: made with {difference}; give another --out\n")
    assert err.count("\n") == 1
    assert changed_files(tmp_path, before) == set()


def test_other_measuring_settings_retrain_nothing(params, couplet, tmp_path):
    assert couplet("run", "--out", "mine")[0] == 0
    before = times(tmp_path)
    code, _, err = couplet("run", "--out", "mine", "--set", "sample.samples=20", "--set", "select.samples=18")
    assert code == 0, err
    run = tmp_path / "mine"
    assert not {path for path in changed_files(tmp_path, before) if path.is_relative_to(run / "train")}
    assert np.load(run / "samples/nfe1.npy", mmap_mode="r").shape[0] == 20
    assert read_json(run / "selection.json")["samples"] == 18
    assert read_json(run / "evaluation.json")["samples"]["count"] == 20


def test_finished_folder_repeats_no_stage(params, couplet, tmp_path):
    assert couplet("run", "--out", "mine")[0] == 0
    before = times(tmp_path)
    assert couplet("run", "--out", "mine")[0] == 0
    changed = {path.name for path in changed_files(tmp_path, before)}
    assert changed <= {"params.yaml", "samples.png"}


@pytest.mark.parametrize(
    ("setting", "repeated"),
    [
        ("sample.samples=20", ("sample", "evaluate")),
        ("evaluate.metrics.kid.subsets=3", ("evaluate",)),
        ("features.classifier.seed=1", ("features", "reference", "select", "sample", "evaluate")),
    ],
)
def test_changed_setting_repeats_the_stages_that_it_decides(params, couplet, tmp_path, setting, repeated):
    assert couplet("run", "--out", "mine")[0] == 0
    before = times(tmp_path)
    assert couplet("run", "--out", "mine", "--set", setting)[0] == 0
    changed = changed_files(tmp_path, before)
    records = {stage: record_of(stage, output) for stage, output in outputs(tmp_path / "mine").items()}
    assert {stage for stage, record in records.items() if record in changed} == set(repeated)


@pytest.mark.parametrize("stage", ["features", "sample", "evaluate"])
def test_edited_or_missing_output_is_made_again(params, couplet, tmp_path, stage):
    assert couplet("run", "--out", "mine")[0] == 0
    output = outputs(tmp_path / "mine")[stage]
    file = {"features": output / "card.json", "sample": output / "nfe1.npy"}.get(stage, output)
    before = file.read_bytes()
    file.unlink() if stage == "features" else file.write_bytes(before + b" ")
    code, _, err = couplet("run", "--out", "mine")
    assert code == 0, err
    assert file.read_bytes() == before


def test_run_of_a_set_that_was_prepared_before(params, couplet, tmp_path, pictures):
    command = ("prepare", "pets", "--from", "pictures", "--resolution", "8", "--test-images", "4")
    assert couplet(*command, "--channels", "1")[0] == 0
    more = ("--dataset", "pets", "--steps", "3")
    assert couplet("run", "--out", "mine", *more)[0] == 0
    dataset = training_in(tmp_path / "mine/train").dataset
    assert (dataset.kind, dataset.path, dataset.test_images, dataset.channels) == ("images", "pictures", 4, 1)
    before = times(tmp_path / "mine/train")
    assert couplet("run", "--params", "mine/params.yaml", "--out", "mine")[0] == 0
    assert changed_files(tmp_path / "mine/train", before) == set()
    code, _, err = couplet("run", "--out", "mine", *more, "--set", "datasets.pets.test_images=3")
    assert (code, "test_images = 4, this needs 3" in err) == (2, True)


@pytest.mark.parametrize("how", ["added", "overwritten", "removed"])
def test_changed_images_are_refused_in_a_finished_folder(params, couplet, tmp_path, pictures, how):
    pets = {"kind": "images", "path": "pictures", "resolution": 8, "channels": 1, "test_images": 4}
    params(datasets={"pets": pets})
    command = ("run", "--dataset", "pets", "--out")
    assert couplet(*command, "mine")[0] == 0
    place = tmp_path / "pictures/cat" / ("new.png" if how == "added" else "0.png")
    place.unlink() if how == "removed" else Image.new("L", (8, 8), 77).save(place)
    code, _, err = couplet(*command, "mine")
    assert code == 2
    assert err.startswith("couplet: mine/data: made with content.path = ")
    assert couplet(*command, "other")[0] == 0
    assert training_in(tmp_path / "other/train") == training_in(tmp_path / "mine/train")


def test_settings_that_no_weight_depends_on_retrain_nothing(params, couplet, tmp_path):
    assert couplet("run", "--out", "mine")[0] == 0
    before = times(tmp_path / "mine/train")
    assert (
        couplet(
            "run", "--out", "mine", "--set", "train.log_every=3", "--set", "recipes.ict.mid_sigmas=[1.5]"
        )[0]
        == 0
    )
    assert changed_files(tmp_path / "mine/train", before) == set()


def test_pretrained_predictor_is_trained_first_and_once(params, grid_content, couplet, tmp_path):
    pretrained = {"coupling": "independent", "progress": 1.0}
    frozen = {"kind": "generator", "predictor": "frozen", "pretrained": pretrained}
    params(couplings={**grid_content["couplings"], "frozen": frozen})
    assert couplet("run", "--out", "mine", "--coupling", "frozen")[0] == 0
    assert training_in(tmp_path / "mine/pretrained").cell.coupling == "independent"
    before = times(tmp_path / "mine/pretrained")
    command = ("run", "--out", "mine", "--coupling", "frozen", "--set", "sample.samples=20")
    assert couplet(*command)[0] == 0
    assert changed_files(tmp_path / "mine/pretrained", before) == set()


def test_stopped_run_resumes(params, couplet, tmp_path, monkeypatch):
    @contextmanager
    def stopped_at_once():
        yield lambda: "SIGTERM"

    with monkeypatch.context() as context:
        context.setattr(process, "signals", stopped_at_once)
        code, _, err = couplet("run", "--out", "mine")
    assert (code, "SIGTERM: stopped after step 1, saved; the same command resumes" in err) == (75, True)
    assert (tmp_path / "mine/train.partial").exists()
    code, _, err = couplet("run", "--out", "mine")
    assert (code, "resumes after step 1" in err) == (0, True)


def test_folder_of_another_process_is_refused(params, couplet, tmp_path, hold):
    with hold(tmp_path / "mine.lock") as holder:
        code, _, err = couplet("run", "--out", "mine")
    assert code == 2
    assert f"mine.lock: process {holder.pid} on " in err


@pytest.fixture
def pictures(tmp_path):
    """Twelve images of 8×8 in two classes."""
    for name in ("cat", "dog"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(6):
            Image.new("L", (8, 8), 20 * i).save(tmp_path / f"pictures/{name}/{i}.png")


@pytest.mark.parametrize(
    ("dataset", "more"),
    [
        ("digits", []),  # a name of the file
        ("mixture", ["--extractor", "values", "--set", "recipes.ict.network.channel_mult=[1]"]),
        ("pets", []),  # images of one's own
    ],
)
def test_data_set_of_every_kind(params, couplet, tmp_path, pictures, dataset, more):
    params(
        datasets={
            "digits": {"test_images": 300},
            "mixture": {"points": 40, "test_points": 20},
            "pets": {"kind": "images", "path": "pictures", "resolution": 8, "channels": 1, "test_images": 4},
        },
        select={"samples": 16, "split": "train"},
        evaluate={"metrics": {"fd": {}}},
    )
    code, _, err = couplet("run", "--out", "mine", "--dataset", dataset, *more)
    assert code == 0, err
    assert read_json(tmp_path / "mine/data/card.json")["dataset"] == dataset
    assert training_in(tmp_path / "mine/train").cell.dataset == dataset


def test_kind_of_data_set_needs_no_entry_and_unknown_names_are_refused(params, couplet, tmp_path):
    params(datasets={})
    assert couplet("run", "--out", "mine", "--dataset", "digits")[0] == 0
    code, _, err = couplet("run", "--out", "other", "--dataset", "digist")
    assert code == 2
    assert err.startswith(
        "couplet: params.yaml or --set: dataset = \"digist\": did you mean 'digits'? allowed: "
    )
    assert err.count("\n") == 1
    assert not (tmp_path / "other").exists()


def test_measuring_without_params_takes_the_runs_own_settings(grid, couplet, tmp_path, monkeypatch):
    """No parameter file is read: settings come from the run, those of measuring first are the defaults."""
    few = {SelectConfig: 16, SampleConfig: 18}
    for config, count in few.items():
        monkeypatch.setattr(config.model_fields["samples"], "default", count)
        config.model_rebuild(force=True)
    try:
        train, measuring = (
            ("--train", grid.train),
            ("--features", grid.features, "--reference", grid.reference),
        )
        selection, samples = ("--selection", "selection.json"), ("--samples", "samples")
        for command in (
            ("select", *train, *measuring, "--out", "selection.json"),
            ("sample", *train, *selection, "--out", "samples"),
            ("evaluate", *train, *measuring, *selection, *samples, "--out", "evaluation.json"),
            ("probe", "gradient", *train, "--data", grid.data, "--out", "probe.csv"),
        ):
            code, _, err = couplet(*command, "--device", "cpu")
            assert code == 0, err
        assert np.load(tmp_path / "samples/nfe2.npy").shape == (18, 8, 8, 1)
        assert read_json(tmp_path / "selection.record.json")["settings"]["mid_sigmas"] == [0.821]
        with (tmp_path / "probe.csv").open() as file:
            assert [row["step"] for row in csv.DictReader(file)] == ["1", "2"]
    finally:
        monkeypatch.undo()
        for config in few:
            config.model_rebuild(force=True)


@pytest.mark.parametrize("name", ["init_from", "frozen_from"])
def test_missing_weights_are_refused_before_any_stage(params, couplet, tmp_path, name):
    code, _, err = couplet("run", "--out", "mine", "--set", f"recipes.ict.{name}=nowhere")
    assert (code, err) == (2, f"couplet: recipes.ict.{name} = nowhere: no such file\n")
    assert not (tmp_path / "mine").exists()
