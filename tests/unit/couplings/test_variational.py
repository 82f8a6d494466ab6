"""The variational noise coupling: its KL, its posterior, its encoder."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from couplet.config.couplings import VariationalConfig
from couplet.config.networks import NetworkConfig
from couplet.config.variants import build
from couplet.couplings.base import Setting
from couplet.couplings.variational import gaussian_kl
from couplet.model import resized


class Encoder(nn.Module):
    """One convolution, remembering what it was shown."""

    def __init__(self, out_channels):
        super().__init__()
        self.conv = nn.Conv2d(2, out_channels, 3, padding=1)
        self.seen = []

    def forward(self, x, levels, labels=None):
        self.seen.append((x, levels, labels))
        return self.conv(x)


def make(kl_weight=30.0, sigma_data=0.5):
    def network(*, out_channels, model_channels, num_blocks):
        assert (out_channels, model_channels, num_blocks) == (4, 16, 2)
        return Encoder(out_channels)

    settings = VariationalConfig(kl_weight=kl_weight, encoder={"model_channels": 16, "num_blocks": 2})
    return build(settings, Setting(channels=2, sigma_data=sigma_data, make_network=network))


def forward(coupling, images, noise, labels=None):
    b = len(images)
    return coupling(
        images,
        noise,
        labels,
        level=torch.ones(b),
        predictors=None,
        progress=0.0,
        uniform=torch.zeros(b),
    )


def test_kl_is_zero_for_the_prior():
    zero = torch.zeros(3, 1, 2, 2)
    assert gaussian_kl(zero, torch.ones_like(zero)).tolist() == [0, 0, 0]


def test_kl_agrees_with_torch_and_is_positive():
    mean = torch.randn(20, 2, 3, 3, dtype=torch.float64)
    std = torch.rand_like(mean) * 3 + 1e-4
    found = gaussian_kl(mean, std)
    prior = Normal(torch.zeros_like(mean), torch.ones_like(mean))
    torch.testing.assert_close(found, kl_divergence(Normal(mean, std), prior).sum((1, 2, 3)))
    assert (found > 0).all()


def test_noise_is_drawn_from_the_posterior():
    coupling, (images, noise) = make(), torch.randn(2, 5, 2, 4, 4)
    pair = forward(coupling, images, noise)
    output = coupling.encoder.conv(images / 0.5)
    mean, std = output[:, :2], torch.log1p(output[:, 2:].exp())
    torch.testing.assert_close(pair.noise, mean + std * noise)
    assert torch.equal(pair.data, images)


@pytest.mark.parametrize("kl_weight", [0.0, 1.0, 30.0])
def test_penalty_is_the_weighted_kl(kl_weight):
    coupling, (images, noise) = make(kl_weight), torch.randn(2, 5, 2, 4, 4)
    mean, std = (value.double() for value in coupling.posterior(images, None))
    kl = kl_divergence(Normal(mean, std), Normal(0 * mean, 1 + 0 * std)).sum((1, 2, 3))
    penalty = forward(coupling, images, noise).penalty
    torch.testing.assert_close(penalty.double(), kl_weight * kl, rtol=1e-4, atol=1e-4)


def test_penalty_stays_finite_where_the_posterior_collapses():
    coupling = make()
    with torch.no_grad():
        coupling.encoder.conv.weight.zero_()
        coupling.encoder.conv.bias.copy_(torch.tensor([0.0, 0.0, -200.0, -200.0]))
    pair = forward(coupling, *torch.randn(2, 3, 2, 4, 4))
    assert torch.isfinite(pair.penalty).all()
    assert (pair.penalty > 0).all()


def test_encoder_sees_scaled_images_level_zero_and_labels():
    coupling = make(sigma_data=0.25)
    images, labels = torch.randn(3, 2, 4, 4), torch.eye(3)
    forward(coupling, images, torch.randn(3, 2, 4, 4), labels)
    [(x, levels, seen)] = coupling.encoder.seen
    torch.testing.assert_close(x, images * 4)
    assert levels.tolist() == [0, 0, 0]
    assert seen is labels


def test_gradients_of_noise_and_penalty_reach_the_encoder():
    coupling = make()
    for part in ("noise", "penalty"):
        coupling.zero_grad(set_to_none=True)
        getattr(forward(coupling, *torch.randn(2, 3, 2, 4, 4)), part).square().sum().backward()
        gradient = coupling.encoder.conv.weight.grad
        assert (gradient.flatten(1).norm(dim=1) > 0).all()


@pytest.mark.parametrize("kind", ["ddpmpp", "edm2"])
def test_starts_at_mean_zero_and_deviation_log_two(kind):
    """VCT's encoder puts out almost nothing at first, and softplus(0) = ln 2."""
    config = NetworkConfig.parse(
        {"kind": kind, "model_channels": 8, "channel_mult": [1], "num_blocks": 1}
        | ({"channels_per_head": 8} if kind == "edm2" else {})
    )

    def network(*, out_channels, model_channels, num_blocks):
        small = resized(config, model_channels=model_channels, num_blocks=num_blocks)
        return build(small, in_channels=1, out_channels=out_channels, resolution=8)

    settings = VariationalConfig(encoder={"model_channels": 8})
    coupling = build(settings, Setting(channels=1, sigma_data=0.5, make_network=network))
    mean, std = coupling.posterior(torch.randn(4, 1, 8, 8), None)
    assert mean.shape == std.shape == (4, 1, 8, 8)
    assert mean.abs().max() < 1e-3
    assert (std - math.log(2)).abs().max() < 1e-3


def test_sampling_draws_from_the_posterior_of_the_generated_images():
    coupling, (images, noise) = make(), torch.randn(2, 3, 2, 4, 4)
    wanted = forward(coupling, images, noise).noise
    assert torch.equal(coupling.renoise(images, noise, None), wanted)
    high = coupling.renoise(images.double(), noise.double(), None)
    torch.testing.assert_close(high, wanted.double())


def test_encoder_belongs_to_the_parameters():
    assert {name for name, _ in make().named_parameters()} == {
        "encoder.conv.weight",
        "encoder.conv.bias",
    }
