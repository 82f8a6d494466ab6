"""Snapshot pickles of EDM: every tensor bit by bit, and the denoiser of the imported model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from harness import DIRECTORY, cases, load

from couplet import model
from couplet.interop import files, pickles
from couplet.interop.convert import import_model
from couplet.networks.initial import read_weights
from couplet.tensors import CPU


@pytest.mark.parametrize(("name", "case"), cases("edm_pickle"))
def test_tensors(name: str, case: str) -> None:
    group = load(name)
    whole = files.read(DIRECTORY / group.cases[case]["file"]).value["ema"]
    found = {key: tensor.read() for key, tensor in pickles.state_of(whole).items()}
    inside = f"{case}/ema/"
    assert list(found) == [array.removeprefix(inside) for array in group.outputs(inside)]
    for key, tensor in found.items():
        assert str(tensor.dtype) == f"torch.{group.arrays[inside + key]['dtype']}"
        group.check(inside + key, tensor)
    for array in group.inputs(case):  # read by the next test
        group.get(array)


@pytest.mark.parametrize(("name", "case"), cases("edm_pickle"))
def test_tensors_and_denoiser(name: str, case: str, precision: str, tmp_path: Path) -> None:
    """Through `couplet import`; what training augments with is left out."""
    group, out = load(name), tmp_path / "model.safetensors"
    import_model(str(DIRECTORY / group.cases[case]["file"]), out)
    inside = f"{case}/ema/model."
    wanted = {array.removeprefix(inside) for array in group.outputs(inside)}
    assert set(read_weights(out)) == {key for key in wanted if not key.startswith("map_augment.")}

    network, saved = model.load(out, CPU)
    dtype = torch.get_default_dtype()
    x, sigma = (group.tensor(f"{case}/{part}", dtype) for part in ("x", "sigma"))
    labels = f"{case}/class_labels"
    given = group.tensor(labels, dtype) if group.has(labels) else None
    assert saved.conditional == (given is not None)
    with torch.no_grad():
        denoised = network.to(dtype)(x, sigma, given, boundary=False)
    check = {"float32": group.check, "float64": group.check64}[precision]
    check(f"{case}/denoised", denoised)
