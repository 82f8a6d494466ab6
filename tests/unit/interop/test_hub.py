"""A model goes to a hub on loopback and comes back: only its files, the same pixels, nothing executed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_server import hub

from couplet import library, model
from couplet.errors import UserError
from couplet.interop.convert import import_model
from couplet.model import ImageShape, Saved, build
from couplet.provenance.record import read_record

LOAD = """
import sys, couplet
from couplet.errors import UserError
for name in sys.argv[1:]:
    try:
        print(couplet.load(name, "cpu").sample(3, seed=1).tobytes().hex())
    except UserError as error:
        print(error)
"""

COMMANDS = """
import json, sys
from couplet.cli.app import app
for words in json.loads(sys.argv[1]):
    app(words, standalone_mode=False)
"""


@pytest.fixture
def server(tmp_path, monkeypatch):
    with hub() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.address)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
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


def files_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def served(folder):
    """The files of a folder, as the server keeps them."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in files_in(folder)}


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
    assert sorted(server.fetched) == sorted(["config.json", *served(unpacked_pipeline)])


def test_the_command_imports_from_the_hub(server, unpacked_pipeline, tmp_path):
    server.files["jane/cd"] = {**served(unpacked_pipeline), "README.md": b"not asked for"}
    command = [sys.executable, "-m", "couplet", "import"]
    out = tmp_path / "own.safetensors"
    done = subprocess.run([*command, "jane/cd", "--out", str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "jane/cd: diffusers ConsistencyModelPipeline" in done.stdout
    assert "README.md" not in server.fetched
    assert out.exists()
    out.unlink()
    done = subprocess.run([*command, "jane/other", "--out", str(out)], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("couplet: jane/other: no such file or folder, and not fetched from the ")
    assert done.stderr.count("\n") == 1
    assert not out.exists()


def test_commands_take_what_load_takes(server, exported, unpacked_pipeline, tmp_path):
    """`generate`, `score` and `export`, for an exported model and one that needs an import."""
    server.files |= {"jane/x": served(exported), "jane/cd": served(unpacked_pipeline)}
    options = ("--count", 4, "--seed", 1, "--device", "cpu")
    images, score, again = tmp_path / "cd.npz", tmp_path / "score.json", tmp_path / "again"
    commands = [
        ("generate", "jane/x", *options, "--out", tmp_path / "x.npz"),
        ("generate", "jane/cd", *options, "--out", images),
        ("score", "jane/cd", *options, "--reference", images, "--extractor", "values", "--out", score),
        ("export", "jane/cd", "--device", "cpu", "--score", score, "--to", again),
    ]
    words = json.dumps([[str(word) for word in command] for command in commands])
    done = subprocess.run([sys.executable, "-c", COMMANDS, words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    x, cd = (library.load(folder, device="cpu").sample(4, seed=1) for folder in (exported, unpacked_pipeline))
    assert np.array_equal(np.load(tmp_path / "x.npz")["arr_0"], x)
    assert np.array_equal(np.load(images)["arr_0"], cd)
    assert np.array_equal(library.load(again, device="cpu").sample(4, seed=1), cd)
    assert "## Metrics" in (again / "README.md").read_text()

    own, theirs = (read_record(tmp_path / f"{name}.npz.record.json") for name in ("x", "cd"))
    assert [path.name for path in own.inputs] == ["model.safetensors"]
    assert {path.name for path in theirs.inputs} == {path.name for path in files_in(unpacked_pipeline)}
    assert all(path.exists() for path in theirs.inputs), "no temporary file"
    assert any(name.startswith("couplet.interop.convert") for name in theirs.content["code"])


def test_weights_of_the_older_format_are_fetched_if_alone(server, tmp_path, unpacked_pipeline):
    files = served(unpacked_pipeline)
    tensors = model.load_tensors(unpacked_pipeline / "unet/diffusion_pytorch_model.safetensors")[1]
    torch.save(tensors, tmp_path / "weights.bin")
    del files["unet/diffusion_pytorch_model.safetensors"]
    server.files["jane/bin"] = {
        **files,
        "unet/diffusion_pytorch_model.bin": (tmp_path / "weights.bin").read_bytes(),
    }
    wanted = library.load(unpacked_pipeline, device="cpu").sample(3, seed=1).tobytes()
    assert bytes.fromhex(loaded("jane/bin")) == wanted


def test_the_package_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"huggingface.hub is not installed; pip install huggingface.hub$"):
        import_model("owner/name", tmp_path / "model")


def test_wrong_names_and_contents_are_one_line(server, exported):
    files = served(exported)
    server.files["jane/damaged"] = {**files, "model.safetensors": files["model.safetensors"][:100]}
    server.files["jane/later"] = {**files, "config.json": b'{"library_name": "couplet", "format": 9}'}
    server.files["jane/without"] = {"config.json": files["config.json"]}
    server.files["jane/other"] = {"README.md": b"#"}
    problems = {
        "jane/nothing": "no such file or folder, and not fetched from the Hugging Face hub (404",
        "jane/damaged": "cannot be read as safetensors",
        "jane/later": "format = 9, this version of couplet reads 1; update it",
        "jane/without": "a repository without model.safetensors",
        "jane/other": "a repository without model_index.json; expected a model of couplet or",
        "../jane": "not owner/name of a model",
    }
    for line, (name, problem) in zip(loaded(*problems).splitlines(), problems.items(), strict=True):
        assert problem in line, name
