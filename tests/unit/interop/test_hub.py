"""A model goes to a hub on loopback and comes back: only its files, the same pixels, nothing executed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import hub

from couplet import library, model
from couplet.interop.convert import import_model
from couplet.model import ImageShape, Saved, build

LOAD = """
import sys, couplet
from couplet.errors import UserError
for name in sys.argv[1:]:
    try:
        print(couplet.load(name, "cpu").sample(3, seed=1).tobytes().hex())
    except UserError as error:
        print(error)
"""


@pytest.fixture
def server(tmp_path, monkeypatch):
    with hub() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.address)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        yield served


@pytest.fixture
def exported(make_training, couplet, tmp_path):
    """The folder of a small model."""
    training, shape = make_training("vae"), ImageShape(1, 8, 0)
    model.save(tmp_path / "own.safetensors", build(training.design, shape), Saved(training, shape, 4))
    assert couplet("export", tmp_path / "own.safetensors", "--to", tmp_path / "x")[0] == 0
    return tmp_path / "x"


def loaded(*names):
    """What a process that loads the models prints: a line of each with pixels, or the error."""
    done = subprocess.run([sys.executable, "-c", LOAD, *names], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def served(folder):
    """The files of a folder, as the server keeps them."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_what_hf_uploads_is_what_couplet_loads(server, exported):
    """With the command that `couplet export` prints, and in another process, also without the server."""
    hf = shutil.which("hf", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    assert hf is not None
    subprocess.run([hf, "upload", "jane/x", str(exported)], check=True, capture_output=True)
    assert server.files["jane/x"] == served(exported)
    wanted = library.load(exported, device="cpu").sample(3, seed=1).tobytes()
    assert bytes.fromhex(loaded("jane/x")) == wanted
    assert sorted(server.fetched) == ["config.json", "model.safetensors"]
    server.files.clear()
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        assert bytes.fromhex(loaded("jane/x")) == wanted
    finally:
        del os.environ["HF_HUB_OFFLINE"]


def test_a_pipeline_of_diffusers_loads_from_the_hub(server, unpacked_pipeline, tmp_path):
    """Its needed files alone, although others lie beside them."""
    others = {
        "model.safetensors": b"of another library",
        "config.json": b'{"model_type": "other"}',
        "pipeline.py": b"raise SystemExit",
    }
    server.files["jane/cd"] = {**served(unpacked_pipeline), **others}
    import_model(str(unpacked_pipeline), tmp_path / "own.safetensors")
    wanted = library.load(tmp_path / "own.safetensors", device="cpu").sample(3, seed=1).tobytes()
    assert bytes.fromhex(loaded("jane/cd")) == wanted
    assert sorted(server.fetched) == ["config.json", *sorted(served(unpacked_pipeline))]


def test_wrong_names_and_contents_are_one_line(server, exported):
    files = served(exported)
    server.files["jane/damaged"] = {**files, "model.safetensors": files["model.safetensors"][:100]}
    server.files["jane/later"] = {**files, "config.json": b'{"library_name": "couplet", "format": 9}'}
    server.files["jane/without"] = {"config.json": files["config.json"]}
    server.files["jane/other"] = {"README.md": b"#"}
    problems = {
        "jane/nothing": "cannot be fetched from the Hugging Face hub (404",
        "jane/damaged": "cannot be read as safetensors",
        "jane/later": "format = 9, this version of couplet reads 1; update it",
        "jane/without": "a repository without model.safetensors",
        "jane/other": "a repository without model_index.json; expected a model of couplet or",
        "../jane": "not owner/name of a model",
    }
    for line, (name, problem) in zip(loaded(*problems).splitlines(), problems.items(), strict=True):
        assert problem in line, name
