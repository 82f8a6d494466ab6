"""Outputs of other settings are refused as inputs of a stage, with the key and both values."""

import pytest

from couplet.config.params import Params
from couplet.errors import UserError
from couplet.files import read_json
from couplet.plan.stages import RUN, STAGES, Settings, record_of
from couplet.process import Context
from couplet.provenance.record import ADVICE
from couplet.stages import train

PAIRS = [(stage, read) for stage in RUN for read in STAGES[stage].reads]
"""Every stage with every output that it reads."""

OTHERS = {
    "prepare": (("datasets", "digits", "test_images"), 300, 200),
    "features": (("features", "classifier", "seed"), 0, 1),
    "train": (("recipes", "ict", "sigma_data"), 0.5, 0.7),
    "select": (("select", "samples"), 16, 18),
    "sample": (("sample", "samples"), 16, 20),
}
"""A setting of each stage, its value in the grid and another one."""

KEYS = {
    "prepare": "test_images",
    "features": "seed",
    "train": "recipe.sigma_data",
    "select": "samples",
    "sample": "samples",
}
"""The same settings as records name them."""


@pytest.fixture
def with_other(grid, grid_content):
    """Settings of the grid's first cell in which one setting of a stage is another."""

    def make(stage):
        (*above, last), _, value = OTHERS[stage]
        section = grid_content
        for key in above:
            section = section.setdefault(key, {})
        section[last] = value
        params = Params.model_validate(grid_content)
        cell = grid.cells[0]
        return Settings.of(
            params.training(cell),
            extractor=params.extractor_named("classifier"),
            measurement=params.measurement(cell),
        )

    return make


@pytest.mark.parametrize(("stage", "read"), [pair for pair in PAIRS if pair[1] != "reference"])
def test_output_of_other_settings_is_refused(grid, with_other, tmp_path, stage, read):
    _, present, wanted = OTHERS[read]
    with pytest.raises(UserError) as caught:
        grid.run_stage(stage, with_other(read), {**grid.outputs, stage: tmp_path / "out"})
    message = str(caught.value)
    # The data set is a setting of the run too.
    key = (
        "dataset.test_images"
        if (read, stage) == ("prepare", "train") and "dataset." in message
        else KEYS[read]
    )
    advice = ADVICE.get(read, f"give another folder, or run `couplet {read}` again")
    assert message == f"{grid.outputs[read]}: made with {key} = {present}, this needs {wanted}; {advice}"
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(("stage", "read"), PAIRS)
def test_output_of_another_stage_is_refused(grid, tmp_path, stage, read):
    other = next(name for name in ("features", "prepare") if name != read)
    wrong = {**grid.outputs, read: grid.outputs[other], stage: tmp_path / "out"}
    with pytest.raises(UserError) as caught:
        grid.run_stage(stage, grid.settings, wrong)
    assert str(grid.outputs[other]) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(("stage", "read"), PAIRS)
def test_output_without_a_record_is_refused(grid, tmp_path, stage, read):
    path = record_of(read, grid.outputs[read])
    path.unlink()
    with pytest.raises(UserError) as caught:
        grid.run_stage(stage, grid.settings, {**grid.outputs, stage: tmp_path / "out"})
    assert str(caught.value) == f"{path}: no such record; run `couplet {read}` to make it"
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("stage", [stage for stage, read in PAIRS if read == "train"])
def test_run_of_another_seed_is_refused(grid, tmp_path, stage):
    settings = grid.settings._replace(training=grid.settings.training.with_seed(1))
    with pytest.raises(UserError) as caught:
        grid.run_stage(stage, settings, {**grid.outputs, stage: tmp_path / "out"})
    assert str(caught.value) == (
        f"{grid.train}: made with cell.seed = 0, this needs 1; give another folder or other settings; "
        "measuring without --params takes the run's own"
    )


@pytest.mark.parametrize(
    ("stage", "read", "common"),
    [("sample", "select", "train"), ("evaluate", "select", "train"), ("evaluate", "sample", "select")],
)
def test_selection_and_samples_of_another_run_are_refused(grid, tmp_path, stage, read, common):
    """Runs may share all settings of measuring."""
    second = grid.layout.outputs(grid.cells[1], "classifier")
    with pytest.raises(UserError) as caught:
        grid.run_stage(stage, grid.settings, {**grid.outputs, read: second[read], stage: tmp_path / "out"})
    here, there = (read_json(record_of(common, each[common]))["key"] for each in (grid.outputs, second))
    assert str(caught.value) == (
        f"{second[read]}: comes from `couplet {common}` with key {there}, {grid.outputs[common]} from key "
        f"{here}; give folders that belong together"
    )
    assert not list(tmp_path.glob("out*"))


@pytest.fixture
def of_other_data(grid, tmp_path):
    """Extractor and statistics of another data set, with the settings of the grid's extractor."""
    other = grid.params.dataset_named("digits").model_copy(update={"test_images": 200})
    settings = grid.settings._replace(dataset=other)
    outputs = {stage: tmp_path / "other" / stage for stage in ("prepare", "features", "reference")}
    for stage in outputs:
        grid.run_stage(stage, settings, outputs)
    return outputs


@pytest.mark.parametrize("replaced", [("features", "reference"), ("reference",), ("features",)])
@pytest.mark.parametrize("stage", ["select", "evaluate"])
def test_statistics_of_another_data_set_are_refused(grid, of_other_data, tmp_path, stage, replaced):
    outputs = {**grid.outputs, **{read: of_other_data[read] for read in replaced}, stage: tmp_path / "out"}
    with pytest.raises(UserError, match=r"comes from `couplet \w+` with key \w{8}, \S+ from key \w{8}; "):
        grid.run_stage(stage, grid.settings, outputs)
    assert not list(tmp_path.glob("out*"))


def test_another_data_set_under_the_name_is_refused(grid, tmp_path, noise_archive):
    """Other images with the settings of digits: a record vouches for its data set's settings."""
    other = grid.params.dataset_named("cifar10")
    folder = noise_archive(tmp_path / "data", other)
    with pytest.raises(UserError) as caught:
        train.run(Context(), grid.settings, data=folder, out=tmp_path / "out")
    assert str(caught.value) == (
        f"{folder}: made with kind = cifar10, this needs digits; give another folder, or run "
        "`couplet prepare` again"
    )
    assert not list(tmp_path.glob("out*"))


@pytest.fixture
def predicting(grid, grid_content):
    """Settings of a cell whose coupling predicts with the grid's first run."""
    pretrained = {"coupling": "independent", "progress": 1.0}
    grid_content["couplings"]["frozen"] = {
        "kind": "generator",
        "predictor": "frozen",
        "pretrained": pretrained,
    }
    params = Params.model_validate(grid_content)
    return Settings.of(params.training(grid.cells[0].model_copy(update={"coupling": "frozen"})))


def test_run_of_a_frozen_predictor_must_be_the_one_that_is_named(grid, predicting, noise_archive, tmp_path):
    def train_with(frozen, data=grid.data):
        return train.run(Context(), predicting, data=data, out=tmp_path / "out", frozen=frozen)

    with pytest.raises(UserError) as caught:
        train_with(grid.layout.output("train", grid.cells[1]))
    assert str(caught.value) == (
        f"{grid.layout.output('train', grid.cells[1])}: made with cell.seed = 1, this needs 0; "
        + ADVICE["train"]
    )
    with pytest.raises(
        UserError, match=r"^--frozen = not given: coupling frozen predicts with a finished run of"
    ):
        train_with(None)
    elsewhere = tmp_path / "elsewhere/train"
    settings = grid.settings._replace(dataset=grid.settings.dataset.model_copy(update={"test_images": 200}))
    settings = settings._replace(training=settings.training.model_copy(update={"dataset": settings.dataset}))
    data = noise_archive(tmp_path / "elsewhere/data", settings.dataset)
    train.run(Context(), settings, data=data, out=elsewhere)
    with pytest.raises(
        UserError, match=r"elsewhere/train: comes from `couplet prepare` with key \w{8}, results/data"
    ):
        train_with(elsewhere)
    assert not list(tmp_path.glob("out*"))
    train_with(grid.train)
    assert (tmp_path / "out/record.json").exists()


WRITERS = [name for name in STAGES if name not in ("train", "probe")]
"""Stages with a record beside their output; `train` refuses every folder that is no run."""


@pytest.mark.parametrize(("stage", "other"), [(a, b) for a in WRITERS for b in WRITERS if a != b])
def test_output_of_another_stage_is_not_overwritten(grid, stage, other):
    before = {path: path.read_bytes() for path in grid.root.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as caught:
        grid.run_stage(stage, grid.settings, {**grid.outputs, stage: grid.outputs[other]})
    place = grid.outputs[other]
    assert str(caught.value).startswith(f"{place}: ")
    assert {path: path.read_bytes() for path in grid.root.rglob("*") if path.is_file()} == before
