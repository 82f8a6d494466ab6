"""Both couplings in one: each does what it does alone, the second with the noise of the first."""

import pytest
import torch
from torch import nn

from couplet.config.couplings import GeneratorInducedConfig, VariationalConfig, VariationalGeneratorConfig
from couplet.config.variants import build
from couplet.couplings.base import Predictors, Setting

B = 12


def network(*, out_channels, model_channels, num_blocks):
    torch.manual_seed(model_channels + num_blocks)
    return Encoder(out_channels)


class Encoder(nn.Module):
    def __init__(self, out_channels):
        super().__init__()
        self.conv = nn.Conv2d(1, out_channels, 3, padding=1)

    def forward(self, x, levels, labels=None):
        return self.conv(x)


SETTING = Setting(1, 0.5, network)


def predict(data, noise, level, labels):
    """f(x + r z), which no other function of data and noise is mistaken for."""
    return (data + level[:, None, None, None] * noise).tanh()


@pytest.fixture
def call():
    images, noise = torch.rand(B, 1, 3, 3), torch.randn(B, 1, 3, 3)
    context = {
        "level": torch.linspace(0.1, 2, B),
        "predictors": Predictors(None, predict, None),
        "progress": 0.0,
        "uniform": torch.linspace(0, 0.99, B),
    }

    def run(config, noise=noise):
        return build(config, SETTING)(images, noise, None, **context)

    return run


def test_noise_and_penalty_are_those_of_the_encoder_whatever_mu(call):
    alone = call(VariationalConfig(kl_weight=3.0))
    for mu in (0.0, 0.5, 1.0):
        pair = call(VariationalGeneratorConfig(kl_weight=3.0, mu=mu))
        assert torch.equal(pair.noise, alone.noise)
        assert torch.equal(pair.penalty, alone.penalty)
    assert (alone.penalty > 0).all()


@pytest.mark.parametrize("mu", [0.0, 0.5, 1.0])
def test_data_end_is_the_generators(call, mu):
    pair = call(VariationalGeneratorConfig(mu=mu))
    wanted = call(GeneratorInducedConfig(mu=mu), noise=pair.noise)
    assert torch.equal(pair.data, wanted.data)
    if mu:
        assert not torch.equal(pair.data, call(GeneratorInducedConfig(mu=mu)).data)


def test_encoder_learns_through_its_noise_and_not_through_the_data_end(call):
    pair = call(VariationalGeneratorConfig(mu=1.0))
    assert not pair.data.requires_grad
    assert pair.noise.requires_grad
    assert pair.penalty.requires_grad


def test_sampling_encodes_again():
    images, noise = torch.randn(2, B, 1, 3, 3)
    found = build(VariationalGeneratorConfig(), SETTING).renoise(images, noise, None)
    assert torch.equal(found, build(VariationalConfig(), SETTING).renoise(images, noise, None))
    assert not torch.equal(found, noise)


def test_asks_for_the_predictions_of_the_generator():
    assert build(VariationalGeneratorConfig(mu=0.2, mu_end=0.6), SETTING).predictions == pytest.approx(0.4)


def test_has_the_settings_of_both():
    both = {
        **VariationalConfig().model_dump(),
        **GeneratorInducedConfig().model_dump(),
        "kind": "vae_generator",
    }
    assert VariationalGeneratorConfig().model_dump() == both
    assert VariationalGeneratorConfig(predictor="frozen").wants_frozen
    for wrong in ({"mu": 1.5}, {"kl_weight": -1.0}, {"parts": 2}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            VariationalGeneratorConfig(**wrong)
