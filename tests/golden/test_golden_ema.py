"""Running averages, learning rates, Lion and what happens to gradients that are not finite."""

from __future__ import annotations

import math
import re

import harness
import numpy as np
import pytest
import torch
from harness import Group
from numpy.typing import NDArray
from test_golden_schedules import NUMBER
from torch import Tensor, nn

from couplet.config import recipes
from couplet.config.variants import build
from couplet.training.ema import (
    Average,
    ema_pytorch_ramp,
    power_decay,
    power_exponent,
)
from couplet.training.loop import INFINITY, replace_nonfinite_
from couplet.training.optim import build_optimizer, learning_rate_factor


def power_std(gamma: float) -> float:
    """The inverse of :func:`power_exponent`: ``sqrt((g + 1)/((g + 2)² (g + 3)))`` (EDM2, Eq. 123)."""
    return math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))


def posthoc_weights(
    stored_at: NDArray[np.float64],
    stored_gamma: NDArray[np.float64],
    wanted_at: NDArray[np.float64],
    wanted_gamma: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Weights that turn stored power-function averages into ones of other widths (EDM2, Alg. 3).

    Args:
        stored_at: when each of n averages was stored, in steps > 0, [n].
        stored_gamma: the exponent of each, [n].
        wanted_at: when the wanted averages end, [m].
        wanted_gamma: the exponent of each, [m].

    Returns:
        Least-squares weights [n, m], each column summing to 1.
    """
    at, gamma = stored_at[:, None], stored_gamma[:, None]

    def products(other_at: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
        """Inner products of the stored averages' profiles, down, with others, across."""
        power = np.where(at < other_at, other, -gamma)
        scale = (gamma + other + 1) * np.maximum(at, other_at)
        return (gamma + 1) * (other + 1) * (at / other_at) ** power / scale

    weights = np.linalg.solve(products(stored_at, stored_gamma), products(wanted_at, wanted_gamma))
    return weights / weights.sum(axis=0)


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
    average = Average(model, build(config))
    average.updates = first
    history = []
    for row in values[1:]:
        model.values.data.copy_(row)
        average.update(model)
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
        config = recipes.ConstantEMAConfig(beta=settings["ema_rate"])
    else:
        assert settings["ema_type"] == "power"
        config = recipes.PowerEMAConfig(std=settings["ema_rate"], inverted=True)
    compare(group, case, config, "vct/params", settings["global_step_of_first_update"])


@pytest.mark.parametrize(("name", "case"), harness.cases("ema", "gc/ema_"))
def test_gc(name: str, case: str) -> None:
    group = harness.load(name)
    settings = group.cases[case]
    known = (settings["inv_gamma"], settings["power"], settings["min_value"])
    assert known == (1.0, 2 / 3, 0.0)
    beta, start = settings["beta"], settings["update_after_step"]
    config = recipes.EMAPyTorchConfig(beta=beta, every=settings["update_every"], start=start)
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
    configs = [recipes.PowerEMAConfig(std=std) for std in group.cases[array]["stds"]]
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
    config = recipes.InverseSqrtConfig(reference=int(reference))
    steps = [int(step) for step in group.get("vct/lr_decay/step")]
    factor = learning_rate_factor(config, max(steps) + 1)
    group.check(array, [lr * factor(step) for step in steps])


@pytest.mark.parametrize(("name", "array"), harness.outputs("ema", "edm2/lr/value"))
def test_edm2_learning_rate(name: str, array: str) -> None:
    group = harness.load(name)
    settings = group.cases["edm2/lr"]
    batch = settings["batch_size"]
    decay = learning_rate_factor(recipes.InverseSqrtConfig(reference=int(settings["ref_batches"])), 1)
    ramp = recipes.ConstantRateConfig(warmup=round(settings["rampup_Mimg"] * 1e6 / batch))
    warmup = learning_rate_factor(ramp, 1)
    rates = []
    for images in group.get("edm2/lr/cur_nimg"):
        step = images / batch
        # EDM2's first step has learning rate 0, our warm-up is one step ahead of that.
        rates.append(settings["ref_lr"] * decay(step) * warmup(step - 1))
    group.check(array, rates)


@pytest.mark.parametrize(("name", "case"), harness.cases("ema", "gc/lion_"))
def test_lion(name: str, case: str) -> None:
    group = harness.load(name)
    settings = group.cases[case]
    model = Vector(group.tensor("gc/lion/p0"))
    config = recipes.LionConfig(
        lr=settings["lr"], betas=settings["betas"], weight_decay=settings["weight_decay"]
    )
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
    replace_nonfinite_([gradient], INFINITY["zero"])
    group.check(array, gradient)
