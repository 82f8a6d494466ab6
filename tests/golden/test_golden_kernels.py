"""Kernels: the noisy image and the coefficients of the preconditioning."""

from __future__ import annotations

import harness
import pytest
import torch
from tiny import kernel_of

from couplet.kernels import Kernel


def kernel(case: dict) -> Kernel:
    return kernel_of(case["kernel"], case["sigma_min"], case["sigma_max"], case["sigma_data"])


@pytest.mark.parametrize(("name", "array"), harness.outputs("kernels", r".*/(bc|nobc)/c_\w+"))
def test_scalings(name: str, array: str) -> None:
    group = harness.load(name)
    key, shift, coefficient = array.rsplit("/", 2)
    for check, dtype in ((group.check, torch.float32), (group.check64, torch.float64)):
        t = group.tensor(f"{key}/sigma", dtype)
        scalings = kernel(group.cases[key]).scalings(t, boundary=shift == "bc")
        check(array, getattr(scalings, coefficient))


@pytest.mark.parametrize(("name", "array"), harness.outputs("kernels", ".*/fwd/x_t"))
def test_noise(name: str, array: str) -> None:
    group, key = harness.load(name), array.removesuffix("/x_t")
    for check, dtype in ((group.check, torch.float32), (group.check64, torch.float64)):
        x, noise, t = (group.tensor(f"{key}/{part}", dtype) for part in ("x", "noise", "t"))
        check(array, kernel(group.cases[key.removesuffix("/fwd")]).noise(x, noise, t))
