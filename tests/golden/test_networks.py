"""Networks against the official ones: outputs with given weights, and numbers of parameters.

Everything about a network follows from the parameters that the index holds for it, so a set with
other networks needs no change here; a parameter without a counterpart fails.
"""

from __future__ import annotations

import functools
import json
import re
from typing import Any

import pytest
import torch
from harness import INDEX, Group, load, names
from torch import Tensor

from couplet.config.networks import (
    ADMConfig,
    DDPMPlusPlusConfig,
    EDM2Config,
    NCSNPlusPlusConfig,
    NetworkConfig,
    SongConfig,
)
from couplet.config.variants import build
from couplet.model import resized
from couplet.networks.base import Network

SIGMA_DATA = 0.5
LOGVAR_WEIGHTS = 128
"""Weights of the uncertainty head in NVIDIA's files, which consistency models do not have."""

SOURCES = {
    "SongUNet": "song",
    "DhariwalUNet": "adm",
    "EDM2": "edm2",
    "Precond / UNet": "edm2_precond",
    "ConsistencyPrecond(SongUNet)": "gc",
}
"""The official function, as the end of a group's ``sources`` names it."""

PREFIXES = {"edm2_precond": "unet.", "gc": "model."}
"""What wrappers put before the keys of the network's state."""

SONG_DEFAULTS = {
    "channel_mult": [1, 2, 2, 2],
    "attn_resolutions": [16],
    "embedding_type": "positional",
    "encoder_type": "standard",
    "channel_mult_noise": 1,
    "resample_filter": [1, 1],
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "song": SONG_DEFAULTS,
    "gc": SONG_DEFAULTS | {"attn_resolutions": []},
    "adm": {"attention_below_head_width": "absent"},
    "edm2": {"attention_below_head_width": "absent"},
    "edm2_precond": {"attention_below_head_width": "absent"},
}
"""What the official constructors assume where an argument is not given."""

RENAMED = {"dropout_res": "dropout_resolution"}
NEUTRAL: dict[str, Any] = {
    "augment_dim": 0,
    "decoder_type": "standard",
    "label_dropout": 0,
    "use_fp16": False,
    "sigma_data": SIGMA_DATA,
}
"""Arguments that may be given with this value only: couplet has no such choice."""


def source_of(name: str) -> str:
    """Which official class made the group."""
    entry = next(entry for entry in INDEX["groups"] if entry["name"] == name)
    (source,) = entry["sources"]
    matching = [end for end in SOURCES if source.endswith(f" {end}")]
    assert len(matching) == 1, f"{name}: which network is {source!r}?"
    return SOURCES[matching[0]]


def config_of(source: str, arguments: dict[str, Any]) -> NetworkConfig:
    """The configuration for arguments of the official constructor, shapes apart."""
    given = {RENAMED.get(key, key): value for key, value in arguments.items()}
    for key in NEUTRAL.keys() & given.keys():
        assert given.pop(key) == NEUTRAL[key], f"{source}: no counterpart of {key}"
    settings = DEFAULTS[source] | given
    if source == "adm":
        return ADMConfig.model_validate(settings)
    if source.startswith("edm2"):
        return EDM2Config.model_validate(settings)
    member: type[SongConfig] = DDPMPlusPlusConfig
    if settings["embedding_type"] == "fourier":
        member = NCSNPlusPlusConfig
    return member.model_validate(settings)


def build_from(source: str, arguments: dict[str, Any]) -> tuple[Network, dict[str, float]]:
    """The network for arguments of the official constructor, and its noise level limits if any."""
    rest = dict(arguments)
    resolution = rest.pop("img_resolution")
    channels = rest.pop("img_channels", None)
    limits = {key: rest.pop(key) for key in ("sigma_min", "sigma_max") if key in rest}
    shape = {
        "in_channels": rest.pop("in_channels", channels),
        "out_channels": rest.pop("out_channels", channels),
        "num_classes": rest.pop("label_dim", 0),
    }
    return build(config_of(source, rest), resolution=resolution, **shape), limits


def precondition(network: Network, shift: float, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
    """``c_skip x + c_out F(c_in x, log(t) / 4)`` with the VE coefficients shifted by ``shift``."""
    level = t.reshape(-1, 1, 1, 1)
    c_in = (SIGMA_DATA**2 + level**2).rsqrt()
    c_skip = SIGMA_DATA**2 / ((level - shift) ** 2 + SIGMA_DATA**2)
    c_out = (level - shift) * SIGMA_DATA * c_in
    return c_skip * x + c_out * network(c_in * x, t.log() / 4, y)


class Subject:
    """One network of the set with one style of weights, in one precision."""

    def __init__(self, group: Group, style: str, dtype: torch.dtype) -> None:
        self.source = source_of(group.name)
        arguments = group.params["constructor_kwargs"]
        self.network, self.limits = build_from(self.source, arguments)
        lead = f"state_{style}/{PREFIXES.get(self.source, '')}"
        every = [name for name in group.arrays if name.startswith(f"state_{style}/")]
        assert all(name.startswith(lead) for name in every)
        state = {name.removeprefix(lead): group.tensor(name) for name in every}
        self.network.load_state_dict(state)
        self.network.to(dtype).eval()
        self.x = group.tensor("x", dtype)
        self.noise = group.tensor("noise_labels", dtype)
        self.labels = group.tensor("class_labels", dtype) if group.has("class_labels") else None

    @torch.no_grad()
    def __call__(self, noise: Tensor) -> Tensor:
        if self.source == "gc":
            shift = self.limits["sigma_min"]
            return precondition(self.network, shift, self.x, noise, self.labels)
        if self.source == "edm2_precond":
            return precondition(self.network, 0.0, self.x, noise, self.labels)
        return self.network(self.x, noise, self.labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["single", "double"])
@pytest.mark.parametrize("name", names("net_"))
def test_outputs(name: str, dtype: torch.dtype) -> None:
    group = load(name)
    compare = group.check if dtype == torch.float32 else group.check64
    subject = functools.cache(lambda style: Subject(group, style, dtype))
    for array in group.outputs():
        match = re.fullmatch(
            r"(?P<train>train/)?(?:out|weight_after)_(?P<style>[^/_]+)"
            r"(?P<single>_noise1)?(?:/(?P<weight>.+))?",
            array,
        )
        assert match, f"{name}: what is {array}?"
        if match["train"]:
            one = Subject(group, match["style"], dtype)
            one.network.train().normalize_weights_()
        else:
            one = subject(match["style"])
        if match["weight"]:
            compare(array, one.network.state_dict()[match["weight"]])
        else:
            compare(array, one(one.noise[:1] if match["single"] else one.noise))


@pytest.mark.parametrize("name", names("net_"))
def test_forward_leaves_weights_alone(name: str) -> None:
    group = load(name)
    style = next(key for key in group.arrays if key.startswith("state_")).split("/")[0]
    subject = Subject(group, style.removeprefix("state_"), torch.float32)
    before = {key: value.clone() for key, value in subject.network.state_dict().items()}
    subject.network.train()
    subject(subject.noise)
    for key, value in subject.network.state_dict().items():
        assert torch.equal(value, before[key]), key


DATASETS = {
    "cifar10": (32, 3, 10),
    "ffhq": (64, 3, 0),
    "imagenet": (64, 3, 1000),
    "mnist": (28, 1, 10),
    "fmnist": (28, 1, 10),
}
"""Resolution, channels and classes of the data sets of sony/vct."""

VCT_SONG = {"model_channels": 128, "channel_mult": [2, 2, 2], "num_blocks": 4}
VCT_LARGE = {"model_channels": 192, "channel_mult": [1, 2, 3, 4], "num_blocks": 3}
VCT_NETWORKS: dict[str, dict[str, Any]] = {
    "ddpmpp": {"kind": "ddpmpp", **VCT_SONG, "attn_resolutions": [16]},
    "ncsnpp": {"kind": "ncsnpp", **VCT_SONG, "attn_resolutions": [16]},
    "adm": {"kind": "adm", **VCT_LARGE, "attn_resolutions": [32, 16, 8]},
    "edm2": {"kind": "edm2", **VCT_LARGE, "attn_resolutions": [16, 8]},
}
"""Networks of sony/vct as its configuration files have them."""

VCT_ENCODERS = {
    "encoder_small": {"model_channels": 32, "num_blocks": 1},
    "encoder_big": {"model_channels": 32, "num_blocks": 2},
}
EDM2_CHANNELS = {"xs": 128, "s": 192, "m": 256, "l": 320, "xl": 384, "xxl": 448}
"""``model_channels`` of the presets of EDM2."""


def vct_network(overrides: list[str], part: str) -> Network:
    """A network of sony/vct, or its encoder, from overrides of its configuration files."""
    settings = dict(override.split("=", 1) for override in overrides)
    resolution, channels, classes = DATASETS[settings.pop("dataset")]
    network = dict(VCT_NETWORKS[settings.pop("network")])
    conditional = settings.pop("model.class_conditional", "False") == "True"
    settings.pop("model.coupling", None)
    for key, value in settings.items():
        assert key.startswith("network."), f"what does {key}={value} do?"
        network[key.removeprefix("network.")] = json.loads(value)
    config = NetworkConfig.parse(network)
    outputs = channels
    if part != "net":
        config, outputs = resized(config, **VCT_ENCODERS[part]), 2 * channels
    return build(
        config,
        in_channels=channels,
        out_channels=outputs,
        resolution=resolution,
        num_classes=classes if conditional else 0,
    )


def full_size(case: dict[str, Any], part: str) -> tuple[Network, int]:
    """The network that an entry counts, and the parameters counted that couplet does not have."""
    if "hydra_overrides" in case:
        return vct_network(case["hydra_overrides"], part), 0
    assert part == "net", part
    return build_from("gc", case["kwargs"])[0], 0


def edm2_preset(preset: str, part: str) -> tuple[Network, int]:
    """A network of NVlabs/edm2 for ImageNet 64x64, e.g. ``edm2-img64-s``."""
    match = re.fullmatch(r"edm2-img64-(\w+)", preset)
    assert match, f"unknown network {preset}"
    assert part == "precond_total", part
    config = EDM2Config(model_channels=EDM2_CHANNELS[match[1]])
    network = build(config, in_channels=3, out_channels=3, resolution=64, num_classes=1000)
    return network, LOGVAR_WEIGHTS


@pytest.mark.parametrize("name", names("param_counts"))
def test_numbers_of_parameters(name: str) -> None:
    group = load(name)
    for array in group.outputs():
        case, part = array.split("/")
        with torch.device("meta"):
            if case in group.cases:
                network, others = full_size(group.cases[case], part)
            else:
                network, others = edm2_preset(case, part)
        group.check(array, others + sum(p.numel() for p in network.parameters()))
