"""Data that does not fit the settings is refused by the first stage that reads it, before any work."""

import re

import numpy as np
import pytest
import yaml
from PIL import Image

from couplet.files import read_json


@pytest.fixture
def refused(couplet, tmp_path, monkeypatch, grid_content):
    """Runs a command that must fail with one line and write nothing; gives the line."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(grid_content))

    def run(*command):
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        code, out, err = couplet(*command, "--device", "cpu")
        *progress, line = err.splitlines()
        assert (code, out) == (2, ""), err
        assert all(re.match(r"features: classifier: \d+/\d+, ", each) for each in progress), err
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
        return line.removeprefix("couplet: ")

    return run


@pytest.fixture
def prepared(couplet, tmp_path):
    """Writes images of 8×8 below folders and prepares them as a data set; gives its archive."""

    def prepare(folders, count=6, *, name="mine", equal=False):
        rng = np.random.default_rng(0)
        for folder in folders:
            (tmp_path / name / folder).mkdir(parents=True)
            for i in range(count):
                pixels = np.full((8, 8), 90, np.uint8) if equal else rng.integers(0, 256, (8, 8), np.uint8)
                Image.fromarray(pixels).save(tmp_path / name / folder / f"{i}.png")
        assert couplet("prepare", name, "--from", name, "--resolution", "8")[0] == 0
        return f"data/{name}"

    return prepare


TRAIN = ("train", "--dataset", "mine", "--out", "o", "--data")
NO_TEST = (
    'data/mine: select.split = "test": data set mine has no test split; set train, as the papers do, or '
    "datasets.mine.test_images"
)
NO_CLASSES = (
    'extractor = "classifier": data set mine has no classes that a classifier could learn; choose another'
)


def test_data_without_a_test_split_is_refused_before_training(refused, prepared):
    assert refused(*TRAIN, prepared(["a", "b"])) == NO_TEST


def test_conditional_training_without_labels_is_refused(refused, prepared):
    change = ("--set", "recipes.ict.conditional=true", "--set", "extractor=values")
    assert refused(*TRAIN, prepared(["train", "test"]), *change) == (
        "data/mine: recipes.ict.conditional = true: must be false: data set mine has no labels"
    )


def test_extractor_that_cannot_measure_is_refused_before_training(refused, prepared):
    data = prepared(["train", "test"])
    assert NO_CLASSES in refused(*TRAIN, data)
    assert NO_CLASSES in refused("features", "--params", "params.yaml", "--data", data, "--out", "f")


@pytest.mark.parametrize(
    ("count", "equal", "message"),
    [
        (
            1,
            False,
            "data set mine has 2 training images, a classifier needs 3 or more; choose another extractor: ",
        ),
        (
            3,
            True,
            "training images are too few or too equal for a classifier, or learning_rate = ",
        ),
    ],
)
def test_images_that_teach_a_classifier_nothing(refused, prepared, tmp_path, count, equal, message):
    data = prepared(["a", "b"], count, equal=equal)
    assert message in refused("features", "--params", "params.yaml", "--data", data, "--out", "f")
    assert not list(tmp_path.glob("f*"))


def test_classifier_that_learns_nothing_is_refused(refused, prepared, tmp_path, grid_content):
    data = prepared(["train/a", "train/b", "test/a"])
    grid_content["features"]["classifier"] |= {"learning_rate": 100.0, "steps": 500}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(grid_content))
    message = refused("features", "--params", "params.yaml", "--data", data, "--out", "f")
    assert message.startswith(f"{data}: the 12 training images are too few or too equal for a classifier")
    assert "or learning_rate = 100.0 is too large" in message


def test_run_is_refused_before_features_and_goes_on_as_it_was_told(couplet, prepared, tmp_path, refused):
    prepared([""])
    command = ("run", "--dataset", "mine", "--out", "o", "--device", "cpu")
    for more, message in (
        ((), NO_TEST),
        (("--set", "select.split=train"), NO_CLASSES),
        (
            ("--set", "select.split=train", "--set", "recipes.ict.conditional=true", "--extractor", "values"),
            "recipes.ict.conditional = true: must be false: data set mine has no labels",
        ),
    ):
        code, _, err = couplet(*command, *more)
        assert (code, message.removeprefix("data/mine: ") in err.splitlines()[-1]) == (2, True), err
        assert {path.name for path in (tmp_path / "o").iterdir()} <= {
            "data",
            "data.record.json",
            "params.yaml",
        }
    code, out, err = couplet(*command, "--set", "select.split=train", "--extractor", "values")
    assert code == 0, err
    assert "mine-ict-ve-independent-s0" in out


def test_run_checks_the_network_before_features(couplet, prepared, tmp_path, refused):
    prepared(["train", "test"])
    code, _, err = couplet(
        *("run", "--dataset", "mine", "--out", "o", "--device", "cpu", "--extractor", "values"),
        *("--set", "recipes.ict.network.model_channels=7"),
    )
    assert (code, "recipes.ict.network: " in err.splitlines()[-1]) == (2, True)
    assert not (tmp_path / "o/features").exists()


def test_batch_larger_than_the_data_is_said(couplet, prepared, refused):
    data = prepared(["train", "test"], 3)
    code, _, err = couplet(*TRAIN, data, "--set", "extractor=values", "--device", "cpu")
    assert code == 0, err
    assert "mine-ict-ve-independent-s0: a batch of 4 repeats images, the data set has 3" in err


@pytest.mark.parametrize(("data", "cell"), [("mine", "other"), ("other", "mine")])
@pytest.mark.parametrize("kind", ["same images", "same settings"])
def test_data_set_of_another_name_is_refused(
    couplet, refused, prepared, tmp_path, grid_content, data, cell, kind
):
    """Also if the two have the same settings, or even the same images."""
    for name in ("mine", "other"):
        prepared(["train/a", "train/b", "test/a"], name=name)
    place = {name: name if kind == "same settings" else "mine" for name in ("mine", "other")}
    grid_content["datasets"] = {
        name: {"kind": "images", "path": path, "resolution": 8} for name, path in place.items()
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(grid_content))
    assert refused("train", "--data", f"data/{data}", "--dataset", cell, "--out", "o") == (
        f"data/{data}/card.json: holds data set {data}, the cell is of {cell}; give another folder"
    )


def test_data_set_under_the_name_of_a_kind_is_refused(refused, prepared):
    assert refused("train", "--data", prepared(["a", "b"]), "--dataset", "digits", "--out", "o") == (
        "data/mine/card.json: holds data set mine, the cell is of digits; give another folder"
    )


@pytest.mark.parametrize("file", ["train-images.npy", "test-labels.npy"])
def test_archive_edited_by_hand_is_refused(refused, prepared, tmp_path, file):
    data = prepared(["train/a", "train/b", "test/a"])
    path = tmp_path / data / file
    array = np.load(path)
    np.save(path, array[::-1] if file == "train-images.npy" else 1 - array)
    for command in (TRAIN, ("features", "--params", "params.yaml", "--out", "f", "--data")):
        assert refused(*command, data).endswith("edited or damaged; run `couplet prepare` again")


def test_card_edited_by_hand_is_refused(refused, prepared, tmp_path):
    data = prepared(["train/a", "train/b", "test/a"])
    card = tmp_path / data / "card.json"
    card.write_text(card.read_text().replace('"mine"', '"digits"'))
    message = refused("train", "--dataset", "digits", "--out", "o", "--data", data)
    assert message.startswith(f"{data}: made with ") or "edited or damaged" in message


def test_settings_of_a_prepared_set_are_those_of_its_record(couplet, refused, prepared, tmp_path):
    data = prepared(["train/a", "train/b", "test/a"])
    code, _, err = couplet(*TRAIN, data, "--device", "cpu")
    assert code == 0, err
    dataset = read_json(tmp_path / "o/config.json")["dataset"]
    assert (dataset["kind"], dataset["path"], dataset["resolution"]) == ("images", "mine", 8)


def test_unknown_set_that_was_never_prepared_is_refused(refused, prepared):
    prepared(["train/a", "train/b", "test/a"])
    line = refused("run", "--dataset", "mime", "--out", "o")
    assert line.startswith('params.yaml or --set: dataset = "mime": ')
