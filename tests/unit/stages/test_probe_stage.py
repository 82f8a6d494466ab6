"""`couplet probe`: the files that it writes, their records, and what it refuses."""

import copy
import csv
import shutil
import sys

import pytest
import torch
import yaml

from couplet import cli
from couplet.config import Layout, Params
from couplet.config.layout import checkpoint_name
from couplet.config.sources import code_of
from couplet.config.stages import ProbeConfig
from couplet.errors import UserError
from couplet.files import read_json
from couplet.stages import verify as verifying
from couplet.stages import why as asking
from couplet.stages.prepare import prepare
from couplet.stages.probe import images_to_probe, probe
from couplet.stages.train import train

CPU = torch.device("cpu")
SMALL = ProbeConfig(images=10, batches=3, levels=(0.1, 1.0, 10.0))


def silent(*anything):
    """Reports to nobody."""


def read(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def numbers(path):
    return [{name: float(value) for name, value in row.items()} for row in read(path)]


@pytest.fixture
def changed(grid_content):
    """Makes parameters of other recipe settings, and of a coupling of generated pairs alone."""

    def make(train=None, **recipe):
        content = copy.deepcopy(grid_content)
        content["recipes"]["ict"].update(recipe)
        content["couplings"]["generator"]["mu"] = 1.0
        content["train"].update(train or {})
        return Params.model_validate(content)

    return make


DENOISER = {"schedule": {"kind": "denoising"}, "distance": {"kind": "squared_l2"}, "weighting": "karras"}


@pytest.fixture
def measured(grid, changed, tmp_path):
    """Trains and probes a cell; gives the training's folder and the file of the probe."""

    def make(kind, coupling="independent", train_it=True, **settings):
        params = changed(**settings)
        settings = params.training(params.experiment.model_copy(update={"coupling": coupling}))
        trained, out = tmp_path / f"{coupling}-train", tmp_path / f"{coupling}-{kind}.csv"
        if train_it:
            train(settings, grid.data, trained, CPU, silent, silent)
        seen = []
        rows = probe(kind, settings, SMALL, trained, grid.data, out, CPU, seen.append)
        assert sum(seen) == images_to_probe(kind, settings, SMALL)
        assert len(rows) == len(read(out))
        return trained, out

    return make


@pytest.mark.parametrize("coupling", ["independent", "ot", "vae", "generator"])
def test_gradients_have_a_row_for_each_snapshot(measured, coupling):
    _, out = measured("gradient", coupling)
    rows = numbers(out)
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        assert row["ratio"] == pytest.approx(row["variance"] / row["mean_norm2"])
        assert row["variance"] > 0
    assert rows[0] != rows[1]


@pytest.mark.parametrize("coupling", ["independent", "ot", "vae", "generator"])
def test_transport_cost_depends_on_the_level_for_generated_pairs_alone(measured, coupling):
    _, out = measured("transport", coupling)
    rows = numbers(out)
    assert [row["level"] for row in rows] == [0.1, 1.0, 10.0]
    assert all(row["std_error"] > 0 for row in rows)
    assert (len({row["mean"] for row in rows}) > 1) == (coupling == "generator")


def test_optimal_transport_costs_less_on_the_same_images_and_noise(measured):
    independent, ot = (numbers(measured("transport", c)[1])[0]["mean"] for c in ("independent", "ot"))
    assert 0.5 * independent < ot < independent


@pytest.mark.parametrize("coupling", ["ot", "generator"])
def test_regulariser_of_a_denoiser(measured, coupling):
    _, out = measured("regulariser", coupling, **DENOISER)
    assert [row["level"] for row in numbers(out)] == [0.1, 1.0, 10.0]
    assert all(0 < row["std_error"] < row["mean"] for row in numbers(out))


def test_frozen_model_alone_makes_the_data_ends(grid, measured):
    """A denoiser has its pairs from a consistency model, however it was trained itself."""
    lent = grid.train / "checkpoints" / checkpoint_name(2)
    predictor = {"overrides": [{"when": {"coupling": "generator"}, "coupling": {"predictor": "frozen"}}]}
    rows = []
    for recipe in ({"sigma_data": 0.5}, {"sigma_data": 0.7}):
        recipe |= {"frozen_from": str(lent), **predictor, **DENOISER}
        _, out = measured("transport", "generator", **recipe)
        rows.append(numbers(out))
        inputs = read_json(out.with_suffix(".record.json"))["inputs"]
        assert any(name.endswith(str(lent)) for name in inputs)
    assert rows[0] == rows[1]
    _, out = measured("transport", "generator", **DENOISER)
    assert numbers(out)[1] != rows[0][1]


def test_same_probe_again_gives_the_same_bytes(measured):
    _, out = measured("gradient", "vae")
    before = out.read_bytes()
    measured("gradient", "vae", train_it=False)
    assert out.read_bytes() == before


def test_parts_of_a_batch_change_no_pair(measured):
    _, out = measured("transport", "generator")
    before = numbers(out)
    measured("transport", "generator", train_it=False, train={"microbatch": 3})
    for row, same in zip(numbers(out), before, strict=True):
        assert row == pytest.approx(same, rel=1e-5)


def test_record_leads_back_to_the_training_and_verify_knows_it(grid):
    settings = grid.params.training(grid.cells[0])
    out = grid.layout.probe(grid.cells[0], "transport")
    assert out.parent == grid.train.parent
    probe("transport", settings, SMALL, grid.train, grid.data, out, CPU, silent)
    record = read_json(out.with_suffix(".record.json"))
    assert (record["stage"], record["kind"], record["code"]) == ("probe", "transport", code_of("probe"))
    assert record["settings"] == SMALL.model_dump(mode="json")
    found = verifying.verify(verifying.inventory(grid.root), silent)
    assert found == verifying.Findings([], [])
    # What DVC puts beside finished folders is no file of the stage's.
    (out.parent / "train.dvc").touch()
    assert verifying.verify(verifying.inventory(grid.root), silent) == found
    assert [step.stage for step in asking.why(out, None).runs[0].chain] == ["probe", "train", "prepare"]
    out.write_text(out.read_text().replace("level", "levle"))
    [problem] = verifying.verify(verifying.inventory(grid.root), silent).problems
    assert problem.startswith(f"{out}: SHA-256 recorded by probe")


def test_wrong_input_is_one_line_and_writes_nothing(grid, changed, tmp_path):
    settings, out = grid.params.training(grid.cells[0]), tmp_path / "out.csv"

    def refused(kind="transport", settings=settings, data=grid.data):
        with pytest.raises(UserError) as caught:
            probe(kind, settings, SMALL, grid.train, data, out, CPU, silent)
        assert not list(tmp_path.glob("out*"))
        return str(caught.value)

    assert refused("gradeint") == (
        "probe gradeint: did you mean 'gradient'? allowed: gradient, plane, regulariser, transport"
    )
    assert refused("regulariser") == (
        "recipes.ict.schedule.kind = discretised: probe regulariser needs a denoiser's training; "
        "allowed: denoising"
    )
    assert "run `couplet train` again" in refused(settings=changed(steps=3).training(grid.cells[0]))
    prepare(
        "digits",
        grid.params.datasets["digits"].model_copy(update={"test_images": 200}),
        out=tmp_path / "d",
        raw=tmp_path,
    )
    assert refused(data=tmp_path / "d") == (
        f"{tmp_path / 'd'}: not the data set that {grid.train} was trained on; give the folder that was"
    )


def test_command_line(grid, grid_content, tmp_path, monkeypatch, capsys):
    content = grid_content
    content["probe"] = {"images": 6, "batches": 2, "levels": [0.5, 80.0]}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def couplet(*arguments):
        inputs = ("--train", str(grid.train), "--data", str(grid.data))
        monkeypatch.setattr(sys, "argv", ["couplet", "probe", *arguments, *inputs, "--out", "p/x.csv"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return ended.value.code or 0, said.out.strip(), said.err.strip().splitlines()

    code, out, _ = couplet("transport", "--threads", "1", "--device", "cpu")
    assert (code, out) == (0, "p/x.csv: transport, 2 rows")
    assert [row["level"] for row in read(tmp_path / "p/x.csv")] == ["0.5", "80.0"]
    assert (tmp_path / "p/x.record.json").exists()
    shutil.rmtree(tmp_path / "p")
    for arguments, message in (
        (("regulariser",), "couplet: recipes.ict.schedule.kind = discretised: "),
        (("gradient", "--recipe", "itc"), "couplet: params.yaml: recipe = \"itc\": did you mean 'ict'?"),
    ):
        code, _, lines = couplet(*arguments)
        assert code == 2
        assert lines[-1].startswith(message)
    content["probe"]["levels"] = [0.5, 81.0]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    code, _, [line] = couplet("transport")
    assert code == 2
    assert line == (
        "couplet: params.yaml: probe.levels.1 = 81.0: must be at most 80, sigma_max of recipe ict"
    )
    assert not (tmp_path / "p").exists()


def test_layout_names_a_file_for_each_kind_and_setting(grid, grid_content):
    kinds = [grid.layout.probe(grid.cells[0], kind) for kind in ("gradient", "transport")]
    other = Layout(Params.model_validate(grid_content | {"probe": {"images": 11}}), grid.root)
    assert (
        len({*kinds, other.probe(grid.cells[0], "gradient"), grid.layout.probe(grid.cells[1], "gradient")})
        == 4
    )
    assert other.run(grid.cells[0]) == grid.layout.run(grid.cells[0])
    assert other.table_key() == grid.layout.table_key()
