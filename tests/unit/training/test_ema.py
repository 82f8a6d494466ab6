"""Running averages of the weights against closed forms and plain recursions."""

import math

import pytest
import torch
from torch import nn

from couplet.config.recipes import (
    ConstantEMAConfig,
    DiscretisedConfig,
    EMAPyTorchConfig,
    PowerEMAConfig,
    WarmupEMAConfig,
)
from couplet.config.variants import build
from couplet.schedules import Discretised
from couplet.training.ema import Average, power_decay, power_exponent, target

ALL = [
    ConstantEMAConfig(beta=0.9),
    WarmupEMAConfig(),
    PowerEMAConfig(),
    PowerEMAConfig(inverted=True),
    EMAPyTorchConfig(),
]


class Toy(nn.Module):
    """One parameter in double precision, and a buffer."""

    def __init__(self, value=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([value], dtype=torch.float64))
        self.register_buffer("frequencies", torch.tensor([1.0, 2.0]))


def follow(config, values, start=0.0):
    """The average after each update with ``values``."""
    model = Toy(start)
    average = Average(model, build(config))
    found = []
    for value in values:
        with torch.no_grad():
            model.weight.fill_(value)
        average.update(model)
        found.append(average.module.weight.item())
    return found


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_constant_average_of_a_constant(beta):
    """``ema_n = 1 - beta^n`` for a network that jumps from 0 to 1."""
    found = follow(ConstantEMAConfig(beta=beta), [1.0] * 30)
    assert found == pytest.approx([1 - beta ** (n + 1) for n in range(30)])


def test_warmup_decay():
    decay = build(WarmupEMAConfig(beta=0.99))
    assert [decay(n) for n in (0, 1, 8)] == pytest.approx([1 / 10, 2 / 11, 9 / 18])
    assert decay(10_000) == 0.99
    # (1 + n)/(10 + n) = 0.99 at n = 890.
    assert decay(889) < 0.99
    assert decay(891) == 0.99


@pytest.mark.parametrize(("std", "gamma"), [(0.05, 16.97), (0.1, 6.94)])
def test_published_exponents_of_edm2(std, gamma):
    assert power_exponent(std) == pytest.approx(gamma, abs=5e-3)


@pytest.mark.parametrize("std", [0.01, 0.05, 0.1, 0.2, 0.28])
def test_exponent_gives_the_power_function_its_width(std):
    """EDM2, Sec. 3.1: the standard deviation of a density ∝ t^gamma on [0, 1]."""
    gamma = power_exponent(std)
    moments = [(gamma + 1) / (gamma + 1 + i) for i in (1, 2)]
    assert math.sqrt(moments[1] - moments[0] ** 2) == pytest.approx(std, rel=1e-9)


@pytest.mark.parametrize("std", [0.05, 0.1, 0.25])
def test_power_average_is_the_power_weighted_mean(std):
    """Update i of N has the mass of t^gamma between i/N and (i + 1)/N."""
    values = torch.randn(40, dtype=torch.float64)
    gamma = power_exponent(std)
    edges = (torch.arange(41, dtype=torch.float64) / 40) ** (gamma + 1)
    found = follow(PowerEMAConfig(std=std), values.tolist(), start=100.0)
    assert found[-1] == pytest.approx((edges.diff() * values).sum().item(), rel=1e-9)


def test_first_power_update_is_a_copy():
    assert power_decay(0, 6.94) == 0
    assert follow(PowerEMAConfig(), [3.5], start=9.0) == [3.5]


def test_inverted_power_average_follows_the_network():
    """VCT's code: the first update changes nothing, later the network has nearly all of the weight."""
    assert follow(PowerEMAConfig(std=0.1, inverted=True), [3.5], start=9.0) == [9.0]
    decay = build(PowerEMAConfig(std=0.1, inverted=True))
    assert 1 - decay(1000) == pytest.approx(0.992, abs=5e-4)
    assert decay(7) == pytest.approx(1 - build(PowerEMAConfig(std=0.1))(7))


@pytest.mark.parametrize(("every", "start"), [(5, 0), (5, 7), (3, 6), (1, 2)])
def test_gc_average_is_that_of_ema_pytorch(every, start):
    """ema-pytorch 0.2.3, written as its own loop with its ``initted`` flag."""
    values = torch.randn(60, dtype=torch.float64).tolist()
    average, initted, wanted = 50.0, False, []
    for n, value in enumerate(values):
        if n % every == 0:
            if n <= start:
                average = value
            elif not initted:
                average, initted = value, True
            else:
                decay = min(0.85, 1 - (1 + max(n - start, 0)) ** (-2 / 3))
                average = decay * average + (1 - decay) * value
        wanted.append(average)
    found = follow(EMAPyTorchConfig(beta=0.85, every=every, start=start), values, start=50.0)
    assert found == pytest.approx(wanted, rel=1e-9)


def test_gc_average_acts_every_fifth_step():
    decays = list(map(build(EMAPyTorchConfig(beta=0.9999, every=5, start=0)), range(1, 60)))
    assert [n for n, decay in enumerate(decays, 1) if decay < 1] == list(range(5, 60, 5))


def test_gc_average_never_reaches_its_beta():
    """At n = 100,000, the end of GC's training: 0.99954 in place of 0.9999."""
    decay = build(EMAPyTorchConfig(beta=0.9999, every=5, start=0))
    assert decay(100_000) == pytest.approx(0.99954, abs=5e-6)
    assert decay(2_000_000) == 0.9999


@pytest.mark.parametrize("config", ALL, ids=lambda config: f"{config.kind}")
def test_average_of_what_never_moves_stays(config):
    assert follow(config, [2.0] * 12, start=2.0) == [2.0] * 12


@pytest.mark.parametrize("config", ALL, ids=lambda config: f"{config.kind}")
def test_average_lies_between_old_average_and_network(config):
    values = torch.randn(40, dtype=torch.float64).tolist()
    found = follow(config, values)
    for old, value, new in zip([0.0, *found], values, found, strict=False):
        assert min(old, value) - 1e-12 <= new <= max(old, value) + 1e-12


@pytest.mark.parametrize(
    ("settings", "mu0", "wanted"),
    [
        # CM on CIFAR-10: N is 2 at the start, 107 in the middle, 151 at the last step.
        (
            {"curriculum": "square_root", "s0": 2, "s1": 150},
            0.9,
            {0: 0.9, 400_000: 0.9 ** (2 / 107), 799_999: 0.9 ** (2 / 151)},
        ),
        # iCT's curriculum: 11 levels first, 1281 at last.
        (
            {"curriculum": "exponential", "s0": 10, "s1": 1280},
            0.9,
            {0: 0.9 ** (10 / 11), 100_000: 0.9 ** (10 / 21), 799_999: 0.9 ** (10 / 1281)},
        ),
        ({"curriculum": "constant", "s0": 10, "s1": 40}, 0.95, {0: 0.95 ** (10 / 41), 5: 0.95 ** (10 / 41)}),
    ],
)
def test_decay_of_the_target_by_hand(settings, mu0, wanted):
    levels = {"sigma_min": 0.002, "sigma_max": 80.0, "max_level": math.inf}
    schedule = Discretised(DiscretisedConfig(**settings), **levels, total_steps=800_000)
    decay = target(mu0, schedule)
    assert {k: decay(k) for k in wanted} == pytest.approx(wanted, rel=1e-12)


def test_target_of_cm_looks_back_ten_steps_at_first_and_seven_hundred_at_last():
    levels = {"sigma_min": 0.002, "sigma_max": 80.0, "max_level": math.inf}
    config = DiscretisedConfig(curriculum="square_root", s0=2, s1=150)
    decay = target(0.9, Discretised(config, **levels, total_steps=800_000))
    assert [round(1 / (1 - decay(k))) for k in (0, 799_999)] == [10, 717]


def test_average_starts_as_a_frozen_copy_in_evaluation_mode():
    model = Toy(3.0).train()
    average = Average(model, build(ConstantEMAConfig()))
    assert average.module.weight.item() == 3
    assert average.module.weight is not model.weight
    assert torch.equal(average.module.frequencies, model.frequencies)
    assert not any(p.requires_grad for p in average.module.parameters())
    assert not any(module.training for module in average.module.modules())
    assert model.training
    assert model.weight.requires_grad


def test_updates_leave_model_buffers_and_modes_alone():
    model = Toy(3.0).train()
    average = Average(model, build(ConstantEMAConfig(beta=0.5)))
    with torch.no_grad():
        model.weight.fill_(5)
    average.update(model)
    assert (model.weight.item(), average.module.weight.item()) == (5, 4)
    assert average.module.frequencies.tolist() == [1, 2]
    assert not average.module.training
    assert not average.module.weight.requires_grad


def test_average_resumes_from_its_weights_and_its_number_of_updates():
    """The decay depends on that number."""
    values = torch.randn(20, dtype=torch.float64).tolist()
    whole = follow(PowerEMAConfig(), values)
    model = Toy()
    average = Average(model, build(PowerEMAConfig()))
    for n, value in enumerate(values):
        if n == 11:
            before, average = average, Average(Toy(77.0), build(PowerEMAConfig()))
            average.module.load_state_dict(before.module.state_dict())
            average.updates = before.updates
        with torch.no_grad():
            model.weight.fill_(value)
        average.update(model)
    assert average.module.weight.item() == whole[-1]
