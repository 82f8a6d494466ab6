"""Optimisers and learning rates against their written rules."""

import math

import pytest
import torch
from torch import nn

from couplet.config.recipes import (
    AdamConfig,
    ConstantRateConfig,
    CosineConfig,
    InverseSqrtConfig,
    LionConfig,
    RAdamConfig,
)
from couplet.training.optim import build_optimizer, learning_rate_factor


def walk(config, gradients, start):
    """The parameter after steps with the given gradients."""
    parameter = nn.Parameter(start.clone())
    optimizer = build_optimizer(config, [parameter])
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


@pytest.fixture
def problem():
    return torch.randn(12, 7, dtype=torch.float64), torch.randn(7, dtype=torch.float64)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lion(problem, weight_decay):
    """``p -= lr (sign(0.9 m + 0.1 g) + wd p)``, ``m = 0.99 m + 0.01 g``."""
    gradients, start = problem
    p, m = start.clone(), torch.zeros(7, dtype=torch.float64)
    for g in gradients:
        p = p * (1 - 0.01 * weight_decay) - 0.01 * torch.sign(0.9 * m + 0.1 * g)
        m = 0.99 * m + 0.01 * g
    found = walk(LionConfig(lr=0.01, weight_decay=weight_decay), gradients, start)
    torch.testing.assert_close(found, p)


def test_adam_with_the_betas_of_edm2(problem):
    gradients, start = problem
    p, m, v = start.clone(), 0, 0
    for i, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
        p = p - 0.01 * (m / (1 - 0.9**i)) / ((v / (1 - 0.99**i)).sqrt() + 1e-8)
    torch.testing.assert_close(walk(AdamConfig(lr=0.01), gradients, start), p)


def test_radam_with_its_rectification(problem):
    """Liu et al. 2020, Algorithm 2: plain momentum until the variance can be trusted."""
    gradients, start = problem
    p, m, v = start.clone(), 0, 0
    longest = 2 / (1 - 0.999) - 1
    for i, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        rho = longest - 2 * i * 0.999**i / (1 - 0.999**i)
        step = m / (1 - 0.9**i)
        if rho > 5:
            up = (rho - 4) * (rho - 2) * longest
            down = (longest - 4) * (longest - 2) * rho
            adapted = math.sqrt(1 - 0.999**i) / (v.sqrt() + 1e-8)
            step = step * math.sqrt(up / down) * adapted
        p = p - 0.01 * step
    torch.testing.assert_close(walk(RAdamConfig(lr=0.01), gradients, start), p)


@pytest.mark.parametrize("kind", [RAdamConfig, AdamConfig, LionConfig])
def test_settings_arrive(kind):
    config = kind(lr=0.02, weight_decay=0.3, betas=(0.8, 0.95))
    [group] = build_optimizer(config, [nn.Parameter(torch.zeros(1))]).param_groups
    assert (group["lr"], group["weight_decay"], tuple(group["betas"])) == (0.02, 0.3, (0.8, 0.95))


def factors(config, total=1000):
    factor = learning_rate_factor(config, total)
    return [factor(step) for step in range(total)]


def test_constant():
    assert set(factors(ConstantRateConfig())) == {1}


def test_warmup_rises_linearly_and_then_stays():
    found = factors(ConstantRateConfig(warmup=4))
    assert found[:5] == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    assert set(found[4:]) == {1}


def test_inverse_square_root():
    """1 up to the reference, then one half at four times the reference."""
    found = factors(InverseSqrtConfig(reference=100))
    assert set(found[:101]) == {1}
    assert (found[400], found[900]) == pytest.approx((1 / 2, 1 / 3))
    assert found == sorted(found, reverse=True)


def test_cosine_is_flat_then_falls_to_its_floor():
    found = factors(CosineConfig(flat=0.5, floor=0.1))
    assert set(found[:501]) == {1}
    assert found[750] == pytest.approx(0.1 + 0.9 / 2)
    assert found[625] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    assert found[-1] == pytest.approx(0.1, abs=1e-4)
    assert found == sorted(found, reverse=True)


def test_cosine_without_flat_part_is_half_a_cosine():
    assert factors(CosineConfig(flat=0.0, floor=0.0))[500] == pytest.approx(0.5)


@pytest.mark.parametrize(
    "config",
    [ConstantRateConfig(warmup=50), InverseSqrtConfig(reference=3, warmup=50), CosineConfig(warmup=50)],
)
def test_factors_lie_between_zero_and_one(config):
    found = factors(config)
    assert all(0 < factor <= 1 for factor in found)
    without = factors(config.model_copy(update={"warmup": 0}))
    assert found[9] == pytest.approx(without[9] * 10 / 50)
    assert found[50:] == without[50:]
