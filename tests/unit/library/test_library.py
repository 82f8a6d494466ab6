"""`import couplet`: models, scores, trainings and edits as objects."""

import lzma
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import couplet as library
from couplet import editing
from couplet.errors import UserError
from couplet.plan.layout import Layout


@pytest.fixture(scope="module")
def run(made_grid):
    """Parameters and folders of a finished run: data, features, train."""
    params, root = made_grid
    layout = Layout(params, root)
    [cell, *_] = params.cells()
    return {stage: layout.output(stage, cell, params.extractor) for stage in ("prepare", "features", "train")}


@pytest.fixture(scope="module")
def model(run):
    return library.load(run["train"].parent, device="cpu")


@pytest.fixture(scope="module")
def images(run):
    return np.load(run["prepare"] / "train-images.npy")[:6]


def test_importing_is_cheap_and_lists_what_there_is():
    code = "import couplet, sys; assert 'torch' not in sys.modules; print(*dir(couplet))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {*library.__all__} <= {*done.stdout.split()}
    with pytest.raises(AttributeError, match="no attribute 'lood'"):
        _ = library.lood


def test_samples_are_the_pixels_of_the_command(model, run, couplet, tmp_path):
    assert (
        couplet("generate", run["train"].parent, "--out", tmp_path / "x.npz", "--count", 5, "--seed", 3)[0]
        == 0
    )
    made = model.sample(5, seed=3)
    assert made.dtype == np.uint8
    assert np.array_equal(made, np.load(tmp_path / "x.npz")["arr_0"])
    assert np.array_equal(model.sample(3, seed=3), made[:3])
    assert not np.array_equal(model.sample(5, seed=4), made)


def test_one_step_of_sampling_is_the_denoiser_at_the_highest_level(model):
    level = model.levels[0]
    denoised = model.denoise(level * model.noise(0, range(4)), level)
    assert np.array_equal(model.pixels(denoised), model.sample(4))


def test_wrong_arguments_name_what_is_allowed(model, images):
    with pytest.raises(UserError, match=r"count, nfe = 0, 1: must be at least 1"):
        model.sample(0)
    with pytest.raises(UserError, match=r"count, nfe = 1, 9: .* levels 80"):
        model.sample(1, nfe=9)
    with pytest.raises(UserError, match=r"labels = 3: must be None"):
        model.sample(1, labels=3)
    with pytest.raises(UserError, match=r"images: float64\[6, 8, 8, 1\], must be uint8\[n, 8, 8, 1\]"):
        model.tensor(images / 255)
    with pytest.raises(UserError, match=r"no such file or folder"):
        library.load("nowhere at all")


def test_tensors_and_pixels_are_inverse(model, images):
    assert np.array_equal(model.pixels(model.tensor(images)), images)
    assert np.array_equal(model.pixels(model.tensor(images[0])), images[:1])


def test_a_checkpoint_and_its_run_are_one_model(model, run):
    last = sorted((run["train"] / "checkpoints").glob("*"))
    found = [library.load(path, device="cpu").sample(2) for path in last]
    assert any(np.array_equal(each, model.sample(2)) for each in found)


def test_a_training_makes_the_weights_of_the_command(run, tmp_path, couplet, params_content):
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params_content))
    changes = {
        "recipes.ict.steps": 3,
        "recipes.ict.batch": 8,
        "recipes.ict.network.model_channels": 8,
        "train.snapshots": 1,
        "coupling": "vae",
    }
    data = tmp_path / "data"
    common = ["--params", tmp_path / "params.yaml"]
    assert couplet("prepare", "digits", *common, "--out", data)[0] == 0
    training = library.train(tmp_path / "params.yaml", data=data, changes=changes, device="cpu")
    assert len(training) == 3
    losses = [step.loss for step in training]
    assert len(losses) == 3
    training.save(tmp_path / "own.safetensors")
    given = [f"--set={key}={value}" for key, value in changes.items()]
    assert couplet("train", *common, *given, "--data", data, "--out", tmp_path / "run")[0] == 0
    [snapshot] = (tmp_path / "run/checkpoints").glob("*")
    assert (tmp_path / "own.safetensors").read_bytes() == snapshot.read_bytes()
    mean, std = training.model.encode(np.load(data / "train-images.npy")[:2])
    assert mean.shape == std.shape == (2, 1, 8, 8)
    assert (std > 0).all()


def test_a_training_is_refused_the_data_of_another(run, tmp_path, params_content):
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params_content))
    with pytest.raises(UserError):
        library.train(
            tmp_path / "params.yaml", data=run["prepare"], changes={"dataset": "mixture"}, device="cpu"
        )


def test_the_score_of_images_against_themselves(run, images):
    data = np.load(run["prepare"] / "train-images.npy")
    numbers = library.score(
        data, run["prepare"], extractor=run["features"], device="cpu", metrics=["fd", "kid"]
    )
    values = {each.metric: each.value for each in numbers}
    assert abs(values["fd"]) < 1e-3
    assert numbers[0].protocol["samples"] == len(data)
    with pytest.raises(UserError, match=r"samples: holds float64"):
        library.score(images / 255, run["prepare"], extractor=run["features"], device="cpu")


def test_inpainting_keeps_the_known_pixels(model, images):
    known = np.zeros((8, 8), bool)
    known[:, :5] = True
    filled = editing.inpaint(model, images, known, steps=4)
    assert np.array_equal(filled[:, :, :5], images[:, :, :5])
    assert not np.array_equal(filled[:, :, 5:], images[:, :, 5:])
    each = np.repeat(known[None], len(images), axis=0)
    assert np.array_equal(editing.inpaint(model, images, each, steps=4), filled)
    blind = images.copy()
    blind[:, :, 5:] = 7
    assert np.array_equal(editing.inpaint(model, blind, known, steps=4), filled), (
        "unknown pixels decide nothing"
    )
    assert np.array_equal(editing.inpaint(model, images, np.ones((8, 8), bool), steps=2), images)
    with pytest.raises(
        UserError, match=r"known: int64\[8, 8\], must be bool of shape \[8, 8\] or \[6, 8, 8\]"
    ):
        editing.inpaint(model, images, known.astype(np.int64))


def test_super_resolution_keeps_the_means_of_blocks(model, monkeypatch, images):
    small = images.reshape(6, 4, 2, 4, 2, 1).mean((2, 4)).round().astype(np.uint8)
    exact = []
    monkeypatch.setattr(model, "pixels", lambda x: exact.append(x))
    editing.super_resolve(model, small, steps=4)
    means = torch.nn.functional.avg_pool2d(exact[0], 2)
    wanted = torch.from_numpy(small).permute(0, 3, 1, 2) / 127.5 - 1
    torch.testing.assert_close(means.float(), wanted, rtol=0, atol=1e-5)
    with pytest.raises(UserError, match=r"must be square, of a side that divides 8"):
        editing.super_resolve(model, images[:, :3, :3])


def test_colours_need_a_model_of_colours(model, images):
    with pytest.raises(UserError, match="makes images of 1 channels; colours need 3"):
        editing.colourise(model, images[..., 0])


def test_interpolation_begins_and_ends_with_the_samples(model):
    between = editing.interpolate(model, 1, 3, 5, seed=2)
    ends = model.sample(4, seed=2)
    assert np.abs(between[0].astype(int) - ends[1]).max() <= 1
    assert np.abs(between[-1].astype(int) - ends[3]).max() <= 1
    same = editing.interpolate(model, 1, 1, 3, seed=2)
    assert np.abs(same.astype(int) - ends[1]).max() <= 1
    with pytest.raises(UserError, match="must be >= 0, >= 0 and >= 2"):
        editing.interpolate(model, 0, 1, 1)


def test_a_published_checkpoint_loads_as_it_is(tmp_path):
    golden = Path(__file__).parents[2] / "golden/published"
    (tmp_path / "gc.pt").write_bytes(lzma.decompress((golden / "gc_mix50.pt.xz").read_bytes()))
    published = library.load(tmp_path / "gc.pt", device="cpu")
    assert published.channels == 3
    grey = np.full((2, published.resolution, published.resolution), 90, np.uint8)
    coloured = editing.colourise(published, grey, steps=3)
    assert coloured.shape == (*grey.shape, 3)


def test_colours_keep_the_grey_value():
    """With a denoiser that returns noise, exactly the grey component is that of the input."""

    class Made:
        channels, resolution, sigma_min, levels = 3, 4, 0.002, (80.0,)

        def tensor(self, images):
            return torch.from_numpy(images).permute(0, 3, 1, 2).double() / 127.5 - 1

        def noise(self, seed, indices, evaluation=0):
            return torch.randn(len(indices), 3, 4, 4, dtype=torch.float64)

        def signal(self, level):
            return 1.0

        def denoise(self, x, level, labels):
            return torch.randn_like(x)

        def pixels(self, x):
            return x

    grey = np.arange(32, dtype=np.uint8).reshape(2, 4, 4)
    coloured = editing.colourise(Made(), grey, steps=3)
    weights = torch.tensor(editing.LUMA, dtype=torch.float32).double().reshape(1, 3, 1, 1)
    value = (coloured * weights).sum(1) / weights.sum()
    torch.testing.assert_close(
        value, torch.from_numpy(grey) / 127.5 - 1, rtol=0, atol=1e-6, check_dtype=False
    )
