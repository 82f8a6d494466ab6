"""`couplet export --diffusers`: diffusers itself makes the same pixels."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hub_server import hub

from couplet import library, model, sampling
from couplet.interop.convert import import_model
from couplet.interop.diffusers import pipeline
from couplet.interop.files import Refused
from couplet.interop.openai import from_diffusers
from couplet.model import ImageShape, Saved
from couplet.tensors import CPU

NETWORK = {
    "kind": "adm",
    "model_channels": 32,
    "channel_mult": [1, 2],
    "num_blocks": 2,
    "attn_resolutions": [4],
    "channels_per_head": 16,
    "channels_per_group": 1,
    "noise_scale": 1000.0,
}
SHAPE = ImageShape(channels=3, resolution=8, num_classes=3)

DIFFUSERS = """
import sys, numpy, torch
from diffusers import ConsistencyModelPipeline

source, noise, timesteps, classes, out = sys.argv[1:]
pipe = ConsistencyModelPipeline.from_pretrained(source)
pipe.set_progress_bar_config(disable=True)
latents = torch.from_numpy(numpy.load(noise))
labels = [int(each) for each in classes.split(",") if each] or None
steps = [int(each) for each in timesteps.split(",")]
images = pipe(
    len(latents), labels, num_inference_steps=None, timesteps=steps, latents=latents, output_type="np",
    generator=torch.Generator().manual_seed(5),
).images
numpy.save(out, images)
"""


@pytest.fixture(scope="module")
def make_adm(make_training):
    """Makes a model with random weights everywhere, also where a training begins with zeros."""

    def make(shape=SHAPE, coupling="independent", kernel="ve", recipe=None, **network):
        recipe = {"conditional": True, **(recipe or {}), "network": {**NETWORK, **network}}
        training = make_training(coupling, kernel=kernel, **recipe)
        torch.manual_seed(1)
        built = model.build(training.design, shape)
        for name, parameter in built.named_parameters():
            torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.1)
        return built.eval(), Saved(training, shape, 4)

    return make


def made_by_diffusers(source, timesteps, noise, classes, folder, **environment):
    """Images in [0, 1] of diffusers in a process of its own, [n, h, w, c], from the first noise."""
    np.save(folder / "noise.npy", noise.numpy())
    arguments = [source, folder / "noise.npy", ",".join(map(str, timesteps)), classes, folder / "images.npy"]
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DIFFUSERS, *map(str, arguments)],
        check=True,
        env={**os.environ, **environment},
    )
    return np.load(folder / "images.npy")


def assert_same_pixels(file, images, noise):
    """couplet's pixels from the noise of :func:`made_by_diffusers` are those of ``images``."""
    network, saved = model.load(file, CPU)
    second = torch.randn(noise.shape, generator=torch.Generator().manual_seed(5))
    levels = saved.sampler.levels
    labels = torch.eye(saved.shape.num_classes)[torch.arange(len(noise)) % saved.shape.num_classes]
    *_, mine = sampling.multistep(
        network,
        [noise, second][: len(levels)],
        levels,
        labels if saved.conditional else None,
        boundary=saved.sampler.boundary,
        clip=saved.sampler.clip,
        renoise=saved.sampler.renoise,
    )
    mine = (mine.permute(0, 2, 3, 1).numpy() / 2 + 0.5).clip(0, 1)
    assert mine.std() > 0.1
    assert np.mean((mine > 0) & (mine < 1)) > 0.05
    np.testing.assert_allclose(images, mine, rtol=0, atol=0.1 / 255)
    theirs, own = ((each * 255).round().astype(int) for each in (images, mine))
    assert np.abs(theirs - own).max() <= 1
    assert np.mean(theirs == own) > 0.98


def classes_of(count, classes):
    return ",".join(str(index % classes) for index in range(count))


@pytest.mark.parametrize("levels", [[], [0.821]], ids=["one evaluation", "two evaluations"])
def test_a_trained_adm_has_the_pixels_of_diffusers(levels, make_adm, couplet, tmp_path):
    network, saved = make_adm(recipe={"mid_sigmas": levels})
    model.save(tmp_path / "own.safetensors", network, saved)
    code, _, error = couplet("export", tmp_path / "own.safetensors", "--to", tmp_path / "x", "--diffusers")
    assert code == 0, error
    card = (tmp_path / "x/README.md").read_text()
    timesteps = pipeline(network, saved).timesteps
    assert f"timesteps={list(timesteps)}" in card
    assert len(timesteps) == 1 + len(levels)
    noise = torch.randn(6, 3, 8, 8)
    images = made_by_diffusers(tmp_path / "x", timesteps, noise, classes_of(6, 3), tmp_path)
    assert_same_pixels(tmp_path / "x/model.safetensors", images, noise)


def test_an_imported_pipeline_is_exported_as_it_was(couplet, tmp_path, unpacked_pipeline):
    """From a folder of diffusers and back: the same settings and tensors; from the hub, the same pixels."""
    import_model(str(unpacked_pipeline), tmp_path / "own.safetensors")
    code, _, error = couplet("export", tmp_path / "own.safetensors", "--to", tmp_path / "x", "--diffusers")
    assert code == 0, error
    for name in ("unet/config.json", "scheduler/scheduler_config.json", "model_index.json"):
        theirs, own = (json.loads((root / name).read_text()) for root in (unpacked_pipeline, tmp_path / "x"))
        assert {**own, **theirs} == {**theirs, **own}
        assert theirs.keys() - own.keys() == {"_diffusers_version"}
    name = "unet/diffusion_pytorch_model.safetensors"
    _, theirs = model.load_tensors(unpacked_pipeline / name)
    _, own = model.load_tensors(tmp_path / "x" / name)
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[key], theirs[key]) for key in own)

    noise = torch.randn(4, 3, 8, 8)
    with hub() as server:
        files = [path for path in (tmp_path / "x").rglob("*") if path.is_file()]
        content = {str(path.relative_to(tmp_path / "x")): path.read_bytes() for path in files}
        server.files["jane/x"] = content
        environment = {"HF_ENDPOINT": server.address, "HF_HOME": str(tmp_path / "home")}
        images = made_by_diffusers("jane/x", [22, 0], noise, classes_of(4, 10), tmp_path, **environment)
    assert_same_pixels(tmp_path / "own.safetensors", images, noise)


@pytest.mark.parametrize("mid", [(), (0.821,), (17.1, 1.526), (20.0, 5.0, 0.661)])
def test_timesteps_lead_to_the_levels(mid, make_adm):
    """The list of EDM's equation 5, at the indices that diffusers takes in falling order."""
    made = pipeline(*make_adm(recipe={"mid_sigmas": mid}))
    count = made.scheduler["num_train_timesteps"]
    assert list(made.timesteps) == sorted(made.timesteps, reverse=True)
    high, low = 80 ** (1 / 7), 0.002 ** (1 / 7)
    levels = [(high + index / (count - 1) * (low - high)) ** 7 for index in made.timesteps[::-1]]
    np.testing.assert_allclose(levels, [80, *mid], rtol=1e-5)


def test_names_and_tensors_go_there_and_back(make_adm):
    network, saved = make_adm()
    made = pipeline(network, saved)
    back, own = from_diffusers(made.tensors, 8), network.network.state_dict()
    assert back.keys() == own.keys()
    assert all(torch.equal(back[name], own[name]) for name in own)


UNFIT = {
    "network ddpmpp, only adm": {"kind": "ddpmpp"},
    "network.noise_scale = 1.0, only 1000.0": {"noise_scale": 1.0},
    "network.channel_mult_emb = 2, only 4": {"channel_mult_emb": 2},
    r"network.channel_mult = \[2, 2\], only one that begins with 1": {"channel_mult": [2, 2]},
    r"network.num_blocks = \(1, 2\), only one number": {"num_blocks": [1, 2]},
    "of 16 groups of 64 channels, only 32": {"channels_per_group": 4, "model_channels": 64},
    "a decoder that begins without attention": {
        "channels_per_head": 128,
        "attention_below_head_width": "absent",
    },
}


@pytest.mark.parametrize("problem", UNFIT)
def test_a_network_that_is_none_of_openai_is_named(problem, make_adm):
    changed = UNFIT[problem]
    if changed.get("kind"):
        allowed = ("model_channels", "channel_mult", "num_blocks", "attn_resolutions")
        network, saved = make_adm(recipe={})
        other = {key: NETWORK[key] for key in allowed} | changed
        design = saved.of.model_dump(mode="json")
        design["recipe"]["network"] = other
        saved = saved._replace(of=type(saved.of).model_validate(design))
    else:
        network, saved = make_adm(**changed)
    with pytest.raises(Refused, match=problem):
        pipeline(network, saved)


def test_a_way_of_sampling_that_the_pipeline_lacks_is_named(make_adm):
    with pytest.raises(Refused, match="kernel li, only ve"):
        pipeline(*make_adm(kernel="li"))
    with pytest.raises(Refused, match="without a shift"):
        pipeline(*make_adm(recipe={"boundary": {"training": True, "sampling": False}}))
    vae = {"kind": "vae", "encoder": {"model_channels": 32, "num_blocks": 1}}
    with pytest.raises(Refused, match="coupling vae, which decides the noise"):
        pipeline(*make_adm(coupling=vae, recipe={"mid_sigmas": [0.821]}))
    with pytest.raises(Refused, match=r"a further evaluation at 0\.01"):
        pipeline(*make_adm(recipe={"mid_sigmas": [0.01]}))


def test_the_command_says_what_does_not_fit(make_training, couplet, tmp_path):
    training = make_training()
    shape = ImageShape(1, 8, 0)
    file = tmp_path / "own.safetensors"
    model.save(file, model.build(training.design, shape), Saved(training, shape, 4))
    expected = (
        f"couplet: --diffusers: {file}: diffusers' ConsistencyModelPipeline cannot express network ddpmpp, "
        "only adm; leave it out\n"
    )
    assert couplet("export", file, "--to", tmp_path / "x", "--diffusers") == (2, "", expected)
    assert not (tmp_path / "x").exists()
    assert library.load(file, device="cpu").sample(1).shape == (1, 8, 8, 1)
