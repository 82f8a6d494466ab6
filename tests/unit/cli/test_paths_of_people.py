"""Paths as people type them: with `~`, without a name, of a file where a folder is written."""

import re

import pytest
import yaml
from PIL import Image

from couplet.config.base import validated
from couplet.config.datasets import ImagesConfig
from couplet.config.extractors import ExtractorConfig
from couplet.config.params import Params
from couplet.config.resolve import resolve
from couplet.files import read_json


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder with two pictures, next to the working folder."""
    folder, here = tmp_path / "home", tmp_path / "here"
    (folder / "pictures").mkdir(parents=True)
    here.mkdir()
    for i in range(2):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / f"pictures/{i}.png")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(here)
    return folder


@pytest.mark.parametrize("joined", [True, False])
def test_home_in_options(couplet, home, joined):
    given = {"--from": "~/pictures", "--out": "~/data/mine"}
    words = [f"{k}={v}" for k, v in given.items()] if joined else [w for pair in given.items() for w in pair]
    code, _, err = couplet("prepare", "mine", *words, "--resolution", "8")
    assert code == 0, err
    assert read_json(home / "data/mine/card.json")["counts"] == {"train": 2}
    assert couplet("verify", "~/data")[0] == 0


def test_home_in_parameters(couplet, home, grid_content):
    grid_content["datasets"] = {
        "mine": {"kind": "images", "path": "~/pictures", "resolution": 8},
        "digits": {},
    }
    (home / "base.yaml").write_text(yaml.safe_dump(grid_content))
    with open("params.yaml", "w") as file:  # noqa: PTH123
        file.write("base: ~/base.yaml\nraw: ~/raw\n")
    code, out, err = couplet("prepare", "mine")
    assert code == 0, err
    assert f"read from {home}/pictures" in out
    assert couplet("check", "--params=~/base.yaml")[0] == 0


def test_home_in_every_setting_that_is_a_path(home, grid_content):
    grid_content["recipes"]["ict"] |= {"init_from": "~/a", "frozen_from": "~/b"}
    params = Params.model_validate({**grid_content, "raw": "~/raw"})
    recipe = params.training(params.experiment).recipe
    assert (params.raw, recipe.init_from, recipe.frozen_from) == tuple(
        f"{home}/{name}" for name in ("raw", "a", "b")
    )
    images = validated(ImagesConfig, {"path": "~/x", "test_path": "~/y", "resolution": 8}, "")
    assert (images.path, images.test_path) == (f"{home}/x", f"{home}/y")
    assert ExtractorConfig.parse({"kind": "dinov2", "weights": "~/w"}).weights == f"{home}/w"
    changed = ["raw=~/other"]
    (home / "p.yaml").write_text(yaml.safe_dump(grid_content))
    assert resolve(home / "p.yaml", None, changed).raw == f"{home}/other"


@pytest.mark.parametrize("text", ["a~/b", "~x", "--set=raw=~x", "x=~/y"])
def test_other_tildes_are_left_alone(home, couplet, text):
    assert text in couplet("show", text)[2] or "No such option" in couplet("show", text)[2]


COMMANDS = {
    "prepare": ("digits",),
    "features": ("--data", "x"),
    "reference": ("--data", "x", "--features", "x"),
    "train": ("--data", "x"),
    "select": ("--train", "x", "--features", "x", "--reference", "x"),
    "sample": ("--train", "x", "--selection", "x"),
    "probe": ("gradient", "--train", "x", "--data", "x"),
    "run": (),
    "check": (),
    "table": (),
    "adopt": ("x", "--data", "x"),
    "import": ("x",),
    "paper": ("x",),
    "figure": ("--params", "x"),
}


@pytest.mark.parametrize("out", ["/", "", ".", "..", "x/.."])
@pytest.mark.parametrize("command", COMMANDS)
def test_output_without_a_name_is_refused(couplet, home, command, out):
    before = sorted(home.parent.rglob("*"))
    code, printed, err = couplet(command, *COMMANDS[command], "--out", out)
    assert (code, printed) == (2, "")
    assert re.fullmatch(rf"couplet: --out {out or '.'}: must end in the name of a (file|folder)\n", err)
    assert sorted(home.parent.rglob("*")) == before


def test_file_where_a_folder_is_written_is_refused_before_work(couplet, home, tmp_path, grid_content):
    (tmp_path / "here/params.yaml").write_text(yaml.safe_dump(grid_content))
    (tmp_path / "here/file").write_text("mine")
    code, _, err = couplet("prepare", "digits", "--out", "file")
    assert (code, err) == (2, "couplet: --out file: is a file; give another folder\n")
    assert couplet("prepare", "digits")[0] == 0
    code, _, err = couplet("features", "--data", "data/digits", "--out", "file")
    assert (code, err) == (2, "couplet: --out file: is a file; give another folder\n")
    assert (tmp_path / "here/file").read_text() == "mine"
