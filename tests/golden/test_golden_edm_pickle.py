"""Snapshot pickles of EDM: every tensor bit by bit, and the network that they make."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from harness import DIRECTORY, Group, cases, load, names
from safetensors import safe_open
from torch import Tensor

from couplet.config.networks import ADMConfig, DDPMPlusPlusConfig, NetworkConfig
from couplet.config.variants import build
from couplet.interop import Snapshot, import_edm, read_snapshot
from couplet.networks.base import Network
from couplet.networks.initial import initialise

SIGMA_DATA = 0.5
CONFIGS: dict[str, type[NetworkConfig]] = {
    "SongUNet": DDPMPlusPlusConfig,
    "DhariwalUNet": ADMConfig,
}


@pytest.mark.parametrize(("name", "case"), cases("edm_pickle"))
def test_tensors_and_denoiser(name: str, case: str) -> None:
    group = load(name)
    snapshot = _snapshot(group, case)
    assert snapshot.sha256 == group.cases[case]["sha256"]
    assert snapshot.arguments == group.cases[case]["network_kwargs"]
    _compare_denoised(group, case, snapshot)
    inside = f"{case}/ema/"
    expected = [array.removeprefix(inside) for array in group.outputs(inside)]
    assert list(snapshot.tensors) == expected
    for key, tensor in snapshot.tensors.items():
        assert str(tensor.dtype) == f"torch.{group.arrays[inside + key]['dtype']}"
        group.check(inside + key, tensor)


def _compare_denoised(group: Group, case: str, snapshot: Snapshot) -> None:
    network = _network(snapshot)
    report = initialise(network, snapshot.network)
    assert report.missing == ()
    assert report.unexpected == ()
    for check, dtype in ((group.check, torch.float32), (group.check64, torch.float64)):
        x, sigma = (group.tensor(f"{case}/{part}", dtype) for part in ("x", "sigma"))
        name = f"{case}/class_labels"
        labels = group.tensor(name, dtype) if group.has(name) else None
        check(f"{case}/denoised", _denoise(network.to(dtype).eval(), x, sigma, labels))


@pytest.mark.parametrize("name", [name for name in names("net_adm") if load(name).has("class_labels")])
def test_denoiser_of_a_case_with_labels(name: str, made_up: Callable[..., Group]) -> None:
    """A case made from the vectors of a network alone: EDM's preconditioning around its official output."""
    official = load(name)
    style = next(key for key in official.arrays if key.startswith("state_")).split("/")[0]
    tensors = {
        f"model.{key.removeprefix(f'{style}/')}": official.tensor(key)
        for key in official.arrays
        if key.startswith(f"{style}/")
    }
    arguments = official.params["constructor_kwargs"]
    snapshot = Snapshot("", "EDMPrecond", "DhariwalUNet", arguments, arguments, tensors)
    sigma = (4 * official.tensor("noise_labels", torch.float64)).exp()
    level = sigma.reshape(-1, 1, 1, 1)
    total = level**2 + SIGMA_DATA**2
    x = official.tensor("x", torch.float64) * total.sqrt()
    raw = official.tensor(f"out_{style.removeprefix('state_')}", torch.float64)
    denoised = SIGMA_DATA**2 / total * x + level * SIGMA_DATA / total.sqrt() * raw
    labels = official.tensor("class_labels")
    tolerance = {"rtol": 1e-4, "atol": 1e-4, "basis": ""}
    arrays = {f"case/{part}": {"role": "input"} for part in ("x", "sigma", "class_labels")}
    arrays["case/denoised"] = {"role": "output", "tol": tolerance}
    for given, same in ((labels, True), (labels.flip(0), False)):
        stored = {"x": x, "sigma": sigma, "class_labels": given, "denoised": denoised}
        group = made_up(
            arrays, {f"case/{part}": value.numpy() for part, value in stored.items()}, {"case": {}}
        )
        with nullcontext() if same else pytest.raises(AssertionError, match="made-up: case/denoised"):
            _compare_denoised(group, "case", snapshot)


@pytest.mark.parametrize(("name", "case"), cases("edm_pickle"))
def test_import(name: str, case: str, tmp_path: Path) -> None:
    group = load(name)
    snapshot = _snapshot(group, case)
    out = tmp_path / "model.safetensors"
    report = import_edm(DIRECTORY / group.cases[case]["file"], out)
    with safe_open(out, "pt") as written:
        assert set(written.keys()) == set(snapshot.network)
        for key, tensor in snapshot.network.items():
            assert torch.equal(written.get_tensor(key), tensor)
    assert f": {len(snapshot.network)} tensors, " in report
    left_out = report.partition("left out: ")[2].split(", ") if snapshot.extras else []
    assert set(left_out) == set(snapshot.extras)
    assert len(snapshot.network) + len(left_out) == len(snapshot.tensors)


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
def _denoise(network: Network, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
    """EDM's own preconditioning (Karras et al. 2022, Table 1)."""
    sigma = sigma.reshape(-1, 1, 1, 1)
    total = sigma**2 + SIGMA_DATA**2
    raw = network(x / total.sqrt(), sigma.flatten().log() / 4, labels)
    return SIGMA_DATA**2 / total * x + sigma * SIGMA_DATA / total.sqrt() * raw
