"""`couplet probe`: the files that it writes, their records, and its refusals."""

import copy
import csv
import shutil

import pytest
import yaml

from couplet.config.params import Params
from couplet.config.probes import GradientConfig, PlaneConfig, RegulariserConfig, TransportConfig
from couplet.errors import UserError
from couplet.files import read_json
from couplet.plan.layout import Layout, checkpoint_name
from couplet.plan.stages import Settings, code_of
from couplet.plan.summaries import table_key
from couplet.process import Context
from couplet.provenance import verify as verifying
from couplet.provenance import why as asking
from couplet.stages import prepare, probe, train

LEVELS = (0.1, 1.0, 10.0)
SMALL = {
    "gradient": GradientConfig(batches=3),
    "transport": TransportConfig(pairs=10, levels=LEVELS),
    "regulariser": RegulariserConfig(pairs=10, levels=LEVELS),
}
DENOISER = {"schedule": {"kind": "denoising"}, "distance": {"kind": "squared_l2"}, "weighting": "karras"}


def rows(path):
    """The table of a probe, as numbers."""
    with path.open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


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


@pytest.fixture
def measured(grid, changed, tmp_path):
    """Trains and probes a cell; gives the file of the probe."""

    def make(kind, coupling="independent", train_it=True, **recipe):
        params = changed(**recipe)
        training = params.training(params.experiment.model_copy(update={"coupling": coupling}))
        settings = Settings.of(training, probe=SMALL[kind])
        trained, out = tmp_path / f"{coupling}-train", tmp_path / f"{coupling}-{kind}.csv"
        if train_it:
            train.run(Context(), settings, data=grid.data, out=trained)
        message = probe.run(Context(), settings, data=grid.data, train=trained, out=out)
        assert message == f"{kind}, {len(rows(out))} rows"
        return out

    return make


@pytest.mark.parametrize("coupling", ["independent", "ot", "vae", "generator"])
def test_gradients_have_a_row_for_each_snapshot(measured, coupling):
    numbers = rows(measured("gradient", coupling))
    assert [row["step"] for row in numbers] == [1, 2]
    for row in numbers:
        assert row["ratio"] == pytest.approx(row["covariance_trace"] / row["mean_norm2"])
        # Generated pairs alone do not depend on the images.
        assert (row.pop("x_grad_variance") > 0) == (coupling != "generator")
        assert all(value > 0 for value in row.values())
    assert numbers[0] != numbers[1]


@pytest.mark.parametrize("coupling", ["independent", "ot", "vae", "generator"])
def test_transport_cost_depends_on_the_level_for_generated_pairs_alone(measured, coupling):
    numbers = rows(measured("transport", coupling))
    assert [row["level"] for row in numbers] == [*LEVELS]
    assert all(row["std_error"] > 0 for row in numbers)
    assert (len({row["mean"] for row in numbers}) > 1) == (coupling == "generator")


def test_optimal_transport_costs_less_on_the_same_images_and_noise(measured):
    independent, ot = (rows(measured("transport", name))[0]["mean"] for name in ("independent", "ot"))
    assert 0.5 * independent < ot < independent


@pytest.mark.parametrize("coupling", ["ot", "generator"])
def test_regulariser_of_a_denoiser(measured, coupling):
    numbers = rows(measured("regulariser", coupling, **DENOISER))
    assert [row["level"] for row in numbers] == [*LEVELS]
    assert all(0 < row["std_error"] < row["mean"] for row in numbers)


def test_frozen_model_alone_makes_the_data_endpoints(grid, measured):
    """A denoiser has its pairs from a consistency model, however it was trained itself."""
    teacher = grid.train / "checkpoints" / checkpoint_name(2)
    predictor = {"overrides": [{"when": {"coupling": "generator"}, "coupling": {"predictor": "frozen"}}]}
    numbers = []
    for recipe in ({"sigma_data": 0.5}, {"sigma_data": 0.7}):
        recipe |= {"frozen_from": str(teacher), **predictor, **DENOISER}
        out = measured("transport", "generator", **recipe)
        numbers.append(rows(out))
        inputs = read_json(out.with_suffix(".record.json"))["inputs"]
        assert any(name.endswith(str(teacher)) for name in inputs)
    assert numbers[0] == numbers[1]
    assert rows(measured("transport", "generator", **DENOISER))[1] != numbers[0][1]


def test_same_probe_again_gives_the_same_bytes(measured):
    before = measured("gradient", "vae").read_bytes()
    assert measured("gradient", "vae", train_it=False).read_bytes() == before


def test_parts_of_a_batch_change_no_pair(measured):
    before = rows(measured("transport", "generator"))
    out = measured("transport", "generator", train_it=False, train={"microbatch": 3})
    for row, same in zip(rows(out), before, strict=True):
        assert row == pytest.approx(same, rel=1e-5)


@pytest.mark.parametrize("points", [2, 16, 1000])
def test_plane_has_as_many_pairs_as_there_are_points_at_most(tmp_path, grid_content, points):
    grid_content["datasets"]["mixture"] = {"points": 16, "test_points": 4}
    grid_content["recipes"]["ict"]["network"]["channel_mult"] = [1]
    params = Params.model_validate(grid_content | {"dataset": "mixture"})
    training = params.training(params.experiment)
    settings = Settings.of(training, probe=PlaneConfig(points=points))
    prepare.run(Context(), settings, name="mixture", out=tmp_path / "data")
    train.run(Context(), settings, data=tmp_path / "data", out=tmp_path / "train")
    out = tmp_path / "plane.csv"
    probe.run(Context(), settings, data=tmp_path / "data", train=tmp_path / "train", out=out)
    with out.open() as file:
        parts = [row["part"] for row in csv.DictReader(file)]
    assert parts.count("pair") == parts.count("sample") == min(points, 16)
    assert "posterior" in parts


def test_record_leads_back_to_the_run_and_verify_knows_it(grid):
    params = grid.params.model_copy(update={"probes": {"transport": SMALL["transport"]}})
    layout = Layout(params, grid.root)
    settings, out = (
        layout.settings(grid.cells[0], probe="transport"),
        layout.output("probe", grid.cells[0], "transport"),
    )
    assert out.parent.parent == grid.train.parent
    probe.run(Context(), settings, data=grid.data, train=grid.train, out=out)
    record = read_json(out.with_suffix(".record.json"))
    assert (record["stage"], record["kind"]) == ("probe", "transport")
    assert record["code"] == code_of("probe", settings)
    assert out.parent.name == f"probe-transport-{record['key']}"
    assert record["settings"] == SMALL["transport"].model_dump(mode="json")
    findings = verifying.verify(grid.root)
    assert (findings.problems, findings.notes) == ([], [])
    # A file that DVC puts beside finished folders is none of the stage's.
    (grid.train.parent / "train.dvc").touch()
    assert verifying.verify(grid.root) == findings
    assert [step.stage for step in asking.why(out, None).runs[0].chain] == ["probe", "train", "prepare"]
    out.write_text(out.read_text().replace("level", "levle"))
    [problem] = verifying.verify(grid.root).problems
    assert problem.startswith(f"{out}: SHA-256 recorded by probe")


def test_wrong_input_is_one_line_and_writes_nothing(grid, changed, tmp_path):
    out, training = tmp_path / "out.csv", grid.settings.training

    def refused(config=SMALL["transport"], training=training, data=grid.data):
        settings = Settings.of(training, probe=config)
        with pytest.raises(UserError) as caught:
            probe.run(Context(), settings, data=data, train=grid.train, out=out)
        assert not list(tmp_path.glob("out*"))
        return str(caught.value)

    assert refused(SMALL["regulariser"]) == (
        "probe regulariser: recipes.ict.schedule.kind = discretised: this probe needs a run of a denoiser; "
        "allowed: denoising"
    )
    assert refused(PlaneConfig()) == (
        "probe plane: dataset = digits: this probe needs points of the plane, as of `mixture`"
    )
    assert refused(training=changed(steps=3).training(grid.cells[0])) == (
        f"{grid.train}: made with recipe.steps = 2, this needs 3; "
        "give another folder or other settings; measuring without --params takes the run's own"
    )
    other = Settings(grid.params.datasets["digits"].model_copy(update={"test_images": 200}))
    prepare.run(Context(), other, name="digits", out=tmp_path / "other")
    assert refused(data=tmp_path / "other") == (
        f"{tmp_path / 'other'}: not the data set that {grid.train} was trained on; give the folder that was"
    )


def test_command_line(grid, grid_content, tmp_path, couplet):
    content = grid_content
    content["probes"] = {"few": {"kind": "transport", "pairs": 6, "levels": [0.5, 80.0]}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    inputs = ("--train", grid.train, "--data", grid.data, "--out", "p/x.csv", "--device", "cpu")
    params = ("--params", "params.yaml")
    code, out, _ = couplet("probe", "few", *inputs, *params, "--threads", "1")
    assert (code, out) == (0, "p/x.csv: transport, 2 rows\n")
    assert [row["level"] for row in rows(tmp_path / "p/x.csv")] == [0.5, 80.0]
    assert (tmp_path / "p/x.record.json").exists()
    shutil.rmtree(tmp_path / "p")
    content["probes"]["few"]["levels"] = [0.5, 81.0]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    for arguments, message in (
        (("regulariser", *inputs), "probe regulariser: recipes.ict.schedule.kind = discretised: "),
        (
            ("gradeint", *inputs),
            "probe: kind = \"gradeint\": did you mean 'gradient'? allowed: gradient, plane",
        ),
        (("gradeint", *inputs, *params), "params.yaml: probe = \"gradeint\": did you mean 'gradient'?"),
        (("few", *inputs, *params), "probe transport: levels = 81: must be at most 80, sigma_max of ict"),
    ):
        code, _, err = couplet("probe", *arguments)
        assert code == 2
        assert err.splitlines()[-1].startswith(f"couplet: {message}")
    assert not (tmp_path / "p").exists()


def test_layout_names_a_folder_for_each_kind_and_setting(grid, grid_content):
    first, second = grid.cells
    kinds = [grid.layout.output("probe", first, kind) for kind in ("gradient", "transport")]
    other = Layout(Params.model_validate(grid_content | {"probes": {"gradient": {"batches": 11}}}), grid.root)
    kinds += [other.output("probe", first, "gradient"), grid.layout.output("probe", second, "gradient")]
    assert len({*kinds}) == 4
    assert other.run(first) == grid.layout.run(first)
    assert table_key(other) == table_key(grid.layout)
