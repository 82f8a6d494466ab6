"""Snapshot pickles of EDM: every tensor bit by bit, and the network that they make."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from harness import DIRECTORY, Group, cases, load
from safetensors import safe_open

from couplet.config.networks import ADMConfig, DDPMPlusPlusConfig, NetworkConfig
from couplet.config.variants import build
from couplet.networks.base import Network
from couplet.networks.edm_snapshot import Snapshot, network_tensors, read_snapshot
from couplet.networks.initial import initialise
from couplet.stages.import_edm import import_edm

SIGMA_DATA = 0.5
CONFIGS: dict[str, type[NetworkConfig]] = {
    "SongUNet": DDPMPlusPlusConfig,
    "DhariwalUNet": ADMConfig,
}


@pytest.mark.parametrize(("name", "case"), cases("edm_pickle"))
def test_every_tensor(name: str, case: str) -> None:
    group = load(name)
    snapshot = _snapshot(group, case)
    assert snapshot.sha256 == group.cases[case]["sha256"]
    assert snapshot.arguments == group.cases[case]["network_kwargs"]
    inside = f"{case}/ema/"
    expected = [array.removeprefix(inside) for array in group.outputs(inside)]
    assert list(snapshot.tensors) == expected
    for key, tensor in snapshot.tensors.items():
        assert str(tensor.dtype) == f"torch.{group.arrays[inside + key]['dtype']}"
        group.check(inside + key, tensor)


@pytest.mark.parametrize(("name", "case"), cases("edm_pickle"))
def test_denoiser(name: str, case: str) -> None:
    group = load(name)
    snapshot = _snapshot(group, case)
    network = _network(snapshot)
    report = initialise(network, network_tensors(snapshot).tensors)
    assert report.missing == ()
    assert report.unexpected == ()
    x, sigma = group.tensor(f"{case}/x"), group.tensor(f"{case}/sigma")
    group.check(f"{case}/denoised", _denoise(network.eval(), x, sigma))
    group.check64(f"{case}/denoised", _denoise(network.double(), x.double(), sigma.double()))


@pytest.mark.parametrize(("name", "case"), cases("edm_pickle"))
def test_import(name: str, case: str, tmp_path: Path) -> None:
    group = load(name)
    snapshot = _snapshot(group, case)
    out = tmp_path / "model.safetensors"
    report = import_edm(DIRECTORY / group.cases[case]["file"], out)
    expected = network_tensors(snapshot)
    with safe_open(out, "pt") as written:
        assert set(written.keys()) == set(expected.tensors)
        for key, tensor in expected.tensors.items():
            assert torch.equal(written.get_tensor(key), tensor)
    assert set(report.extras) == set(expected.extras)
    assert report.tensors + len(report.extras) == len(snapshot.tensors)


def _snapshot(group: Group, case: str) -> Snapshot:
    return read_snapshot(DIRECTORY / group.cases[case]["file"])


def _network(snapshot: Snapshot) -> Network:
    arguments = snapshot.network_arguments
    config = CONFIGS[snapshot.network_class]
    settings = {key: arguments[key] for key in config.model_fields if key in arguments}
    if config is ADMConfig:
        settings["attention_below_head_width"] = "absent"
    return build(
        config.model_validate(settings),
        in_channels=arguments["in_channels"],
        out_channels=arguments["out_channels"],
        resolution=arguments["img_resolution"],
        num_classes=arguments["label_dim"],
    )


@torch.no_grad()
def _denoise(network: Network, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """EDM's own preconditioning (Karras et al. 2022, Table 1)."""
    sigma = sigma.reshape(-1, 1, 1, 1)
    total = sigma**2 + SIGMA_DATA**2
    raw = network(x / total.sqrt(), sigma.flatten().log() / 4)
    return SIGMA_DATA**2 / total * x + sigma * SIGMA_DATA / total.sqrt() * raw
