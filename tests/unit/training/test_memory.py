"""Activation checkpointing changes no bit of a step, on every kind of network, and takes less memory."""

import shutil
from copy import deepcopy

import numpy as np
import pytest
import torch

from couplet.config.fit import Facts
from couplet.config.networks import NetworkConfig
from couplet.data.archive import Split
from couplet.data.loader import Loader
from couplet.model import ImageShape
from couplet.plan.resources import training_memory
from couplet.plan.stages import Settings, key_of
from couplet.tensors import CPU
from couplet.training.loop import initial_state, run
from couplet.training.memory import recompute_, step_bytes

SHAPE = ImageShape(channels=1, resolution=8, num_classes=3)
UNET = {
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "dropout": 0.3,
    "model_channels": 16,
}
NETWORKS = {
    "ddpmpp": UNET,
    "ncsnpp": UNET,
    "adm": {**UNET, "channels_per_head": 8, "dropout_resolution": None},
    "edm2": {**UNET, "channels_per_head": 8, "dropout_resolution": None},
    "mlp": {"dropout": 0.3},
    "concat_mlp": {"dropout": 0.3},
}


@pytest.fixture(scope="module")
def split():
    rng = np.random.default_rng(0)
    return Split(rng.integers(0, 256, (16, 8, 8, 1), dtype=np.uint8), np.arange(16, dtype=np.int64) % 3)


@pytest.fixture(scope="module")
def settings(make_training):
    def make(kind, coupling="vae", **train):
        network = {"kind": kind, **NETWORKS[kind]}
        return make_training(coupling, train=train, steps=3, batch=8, conditional=True, network=network)

    return make


def taken(training, split):
    """Progress of three steps, the weights after them and the last gradients."""
    state = initial_state(training, SHAPE, CPU)
    if training.train.recompute:
        recompute_(state.model)
    loader = Loader(split, batch=8, seed=0, flip=False, num_classes=3)
    progress = list(run(training, state, loader))
    gradients = [parameter.grad for parameter in state.model.parameters()]
    return progress, [*state.model.parameters()], gradients


def test_every_kind_of_network_is_tried():
    assert {*NETWORKS} == {*NetworkConfig.family}


@pytest.mark.parametrize("coupling", ["vae", "generator"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_steps_are_the_same_to_the_last_bit(settings, split, kind, coupling):
    plain, again = (
        taken(settings(kind, coupling, recompute=flag, microbatch=4), split) for flag in (False, True)
    )
    assert plain[0] == again[0]
    for part in (1, 2):
        for one, other in zip(plain[part], again[part], strict=True):
            assert (one is None and other is None) or torch.equal(one, other)


# torch looks at the gradient of what the encoder made, while it compiles.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch compiles for the CPU with a C++ compiler")
def test_steps_of_compiled_networks_are_the_same_but_for_rounding(settings, split):
    """The masks too: another one would change the losses by far more."""
    torch.compiler.reset()
    plain, again = (
        taken(settings("ddpmpp", "independent", recompute=flag, compile=True), split)
        for flag in (False, True)
    )
    np.testing.assert_allclose(again[0], plain[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["ddpmpp", "ncsnpp", "adm", "edm2"])
def test_takes_less_memory_and_as_much_as_is_asked_for(settings, kind):
    facts = Facts(name="x", resolution=32, channels=3, classes=3, splits=None)
    shape = ImageShape(3, 32, 3)
    plain, again = settings(kind), settings(kind, recompute=True)
    traced = step_bytes(again, shape, 64)
    wide = again.model_copy(update={"recipe": again.recipe.model_copy(update={"batch": 64})})
    assert traced < 0.6 * step_bytes(plain, shape, 64)
    # Of networks as small as these, the first and last layers count twice.
    assert traced <= training_memory(wide, facts).device <= 1.5 * traced


def test_names_of_weights_and_copies_stay(settings):
    state = initial_state(settings("edm2"), SHAPE, CPU)
    names = [*state.model.state_dict()]
    recompute_(state.model)
    assert [*deepcopy(state.model).state_dict()] == [*state.model.state_dict()] == names


def test_is_in_no_record_and_in_keys_only_where_it_rounds(settings):
    plain, again = settings("edm2"), settings("edm2", recompute=True, shard=True)
    assert again.train.recompute and again.train.shard
    assert again.model_dump(mode="json") == plain.model_dump(mode="json")
    assert key_of("train", Settings.of(again)) == key_of("train", Settings.of(plain))
    compiled = [settings("edm2", recompute=flag, compile=True) for flag in (False, True)]
    assert len({key_of("train", Settings.of(each)) for each in compiled}) == 2
