"""Running averages, learning rates, Lion and what happens to gradients that are not finite."""

from __future__ import annotations

import re

import harness
import numpy as np
import pytest
import torch
from harness import Group
from test_golden_schedules import NUMBER
from torch import Tensor, nn

from couplet.config import recipes
from couplet.training.ema import (
    averaged,
    ema_pytorch_ramp,
    posthoc_weights,
    power_decay,
    power_exponent,
    power_std,
)
from couplet.training.loop import INFINITY, replace_nonfinite_
from couplet.training.optim import build_optimizer, learning_rate_factor


class Vector(nn.Module):
    """A model that is nothing but its parameters."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values.clone())


def trajectory(config: recipes.EMAConfig, values: Tensor, first: int = 0) -> Tensor:
    """Our average after each update, if ``first`` updates came before that changed nothing.

    ``values`` holds the initial parameters and then those at each update.
    """
    model = Vector(values[0])
    average = averaged(model, config)
    average.n_averaged += first
    history = []
    for row in values[1:]:
        model.values.data.copy_(row)
        average.update_parameters(model)
        history.append(average.module.values.clone())
    return torch.stack(history)


def compare(group: Group, array: str, config: recipes.EMAConfig, values: str, first: int) -> None:
    group.check(array, trajectory(config, group.tensor(values), first))
    group.check64(array, trajectory(config, group.tensor(values, torch.float64), first))


@pytest.mark.parametrize(("name", "array"), harness.outputs("ema", r"\w+/exp"))
def test_power_function(name: str, array: str) -> None:
    group, source = harness.load(name), array.removesuffix("/exp")
    exponents = [power_exponent(std) for std in group.get(f"{source}/std")]
    group.check(array, exponents)
    if group.has(f"{source}/std_back"):
        group.check(f"{source}/std_back", [power_std(gamma) for gamma in exponents])


@pytest.mark.parametrize(("name", "array"), harness.outputs("ema", r"vct/beta|edm2/\w+/beta"))
def test_power_decay(name: str, array: str) -> None:
    group = harness.load(name)
    source = array.split("/")[0]
    if source == "vct":
        updates = group.get("vct/t")
    else:  # EDM2 may count images, we count steps
        key = array.removesuffix("/beta")
        updates = group.get(f"{key}/t_next") / group.get(f"{key}/t_delta") - 1
    exponents = [power_exponent(std) for std in group.get(f"{source}/std")]
    group.check(array, [[power_decay(n, gamma) for n in updates] for gamma in exponents])


@pytest.mark.parametrize(("name", "case"), harness.cases("ema", "vct/update_"))
def test_vct(name: str, case: str) -> None:
    group = harness.load(name)
    settings = group.cases[case]
    config: recipes.EMAConfig
    if settings["ema_type"] == "traditional":
        config = recipes.ConstantEMA(beta=settings["ema_rate"])
    else:
        assert settings["ema_type"] == "power"
        config = recipes.PowerEMA(std=settings["ema_rate"], inverted=True)
    compare(group, case, config, "vct/params", settings["global_step_of_first_update"])


@pytest.mark.parametrize(("name", "case"), harness.cases("ema", "gc/ema_"))
def test_gc(name: str, case: str) -> None:
    group = harness.load(name)
    settings = group.cases[case]
    known = (settings["inv_gamma"], settings["power"], settings["min_value"])
    assert known == (1.0, 2 / 3, 0.0)
    beta, start = settings["beta"], settings["update_after_step"]
    config = recipes.GCEMA(beta=beta, every=settings["update_every"], start=start)
    compare(group, f"{case}/params", config, "gc/params", 0)
    updates = len(group.get(f"{case}/decay"))
    group.check(f"{case}/decay", [ema_pytorch_ramp(n - start, beta) for n in range(updates)])


@pytest.mark.parametrize(("name", "array"), harness.outputs("ema", "gc/decay/value"))
def test_gc_decay(name: str, array: str) -> None:
    group = harness.load(name)
    steps = "gc/decay/step_buffer"
    beta, start = group.said(steps, rf"beta {NUMBER}, update_after_step {NUMBER}")
    group.check(array, [ema_pytorch_ramp(int(n) - 1 - int(start), beta) for n in group.get(steps)])


@pytest.mark.parametrize(("name", "array"), harness.outputs("ema", "edm2/update"))
def test_edm2(name: str, array: str) -> None:
    group = harness.load(name)
    configs = [recipes.PowerEMA(std=std) for std in group.cases[array]["stds"]]
    for check, dtype in ((group.check, torch.float32), (group.check64, torch.float64)):
        values = group.tensor("edm2/params", dtype)
        check(array, torch.stack([trajectory(config, values) for config in configs], dim=1))


@pytest.mark.parametrize(("name", "array"), harness.outputs("ema", "edm2/posthoc/coefficients"))
def test_edm2_posthoc(name: str, array: str) -> None:
    group = harness.load(name)
    stored, wanted = (
        (
            np.asarray(group.get(f"edm2/posthoc/{side}_ofs"), dtype=np.float64),
            np.array([power_exponent(std) for std in group.get(f"edm2/posthoc/{side}_std")]),
        )
        for side in ("in", "out")
    )
    group.check(array, posthoc_weights(*stored, *wanted))


@pytest.mark.parametrize(("name", "array"), harness.outputs("ema", "vct/lr_decay/lr"))
def test_vct_learning_rate(name: str, array: str) -> None:
    group = harness.load(name)
    lr, reference = group.said(array, rf"lr0={NUMBER}, lr_decay={NUMBER}")
    config = recipes.InverseSqrt(reference=int(reference))
    steps = [int(step) for step in group.get("vct/lr_decay/step")]
    group.check(array, [lr * learning_rate_factor(config, step, max(steps) + 1) for step in steps])


@pytest.mark.parametrize(("name", "array"), harness.outputs("ema", "edm2/lr/value"))
def test_edm2_learning_rate(name: str, array: str) -> None:
    group = harness.load(name)
    settings = group.cases["edm2/lr"]
    batch = settings["batch_size"]
    decay = recipes.InverseSqrt(reference=int(settings["ref_batches"]))
    warmup = recipes.Constant(warmup=round(settings["rampup_Mimg"] * 1e6 / batch))
    rates = []
    for images in group.get("edm2/lr/cur_nimg"):
        step = images / batch
        # EDM2's first step has learning rate 0, our warm-up is one step ahead of that.
        factors = (learning_rate_factor(decay, step, 1), learning_rate_factor(warmup, step - 1, 1))
        rates.append(settings["ref_lr"] * factors[0] * factors[1])
    group.check(array, rates)


@pytest.mark.parametrize(("name", "case"), harness.cases("ema", "gc/lion_"))
def test_lion(name: str, case: str) -> None:
    group = harness.load(name)
    settings = group.cases[case]
    model = Vector(group.tensor("gc/lion/p0"))
    config = recipes.Lion(lr=settings["lr"], betas=settings["betas"], weight_decay=settings["weight_decay"])
    optimizer = build_optimizer(config, model.parameters())
    history = []
    for gradient in group.tensor("gc/lion/grads"):
        model.values.grad = gradient
        optimizer.step()
        history.append(model.values.detach().clone())
    group.check(case, torch.stack(history))


@pytest.mark.parametrize(("name", "array"), harness.outputs("ema", r"vct/grad_sanitise\w*/out"))
def test_gradients_that_are_not_finite(name: str, array: str) -> None:
    group = harness.load(name)
    gradient = group.tensor(re.sub("out$", "in", array))
    parameter = torch.nn.Parameter(torch.zeros_like(gradient))
    parameter.grad = gradient
    replace_nonfinite_([parameter], INFINITY["zero"])
    group.check(array, parameter.grad)
