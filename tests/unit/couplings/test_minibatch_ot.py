"""Minibatch optimal transport against brute force."""

import itertools

import pytest
import torch

from couplet.config.couplings import MinibatchOTConfig
from couplet.config.variants import build
from couplet.couplings.base import Setting
from couplet.couplings.minibatch import assignment, cheapest


def cost(images, noise, permutation, sigma=80.0):
    """``sum_i ||x_i - sigma z_pi(i)||²`` in double precision."""
    difference = images.double() - sigma * noise.double()[torch.as_tensor(permutation)]
    return difference.square().sum().item()


@pytest.mark.parametrize("b", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("seed", range(3))
def test_is_the_best_of_all_permutations(b, seed):
    rng = torch.Generator().manual_seed(seed)
    images, noise = torch.randn(2, b, 1, 2, 2, generator=rng)
    best = min(itertools.permutations(range(b)), key=lambda p: cost(images, noise, p))
    assert assignment(images, noise).tolist() == list(best)


def test_is_no_worse_than_random_permutations():
    images, noise = torch.randn(2, 64, 3, 4, 4)
    found = assignment(images, noise)
    assert sorted(found.tolist()) == list(range(64))
    least = cost(images, noise, found)
    assert all(least < cost(images, noise, torch.randperm(64)) for _ in range(200))


def test_float32_costs_no_more_than_float64():
    rng = torch.Generator().manual_seed(0)
    images, noise = torch.randn(2, 256, 3, 8, 8, generator=rng)
    exact = cheapest(-images.flatten(1).double() @ noise.flatten(1).double().T)
    least = cost(images, noise, exact, sigma=1.0)
    assert cost(images, noise, assignment(images, noise), sigma=1.0) == pytest.approx(least, rel=1e-6)


@pytest.mark.parametrize("sigma", [1e-3, 0.5, 80.0])
def test_does_not_depend_on_the_noise_level(sigma):
    images, noise = torch.randn(2, 32, 1, 4, 4)
    assert torch.equal(assignment(images, sigma * noise), assignment(images, noise))


def test_finds_noise_that_equals_the_images():
    images = torch.randn(16, 1, 3, 3)
    order = torch.randperm(16)
    assert torch.equal(images[order][assignment(images, images[order])], images)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 1])
def test_refuses_what_is_not_finite(value, place):
    both = torch.randn(2, 4, 1, 2, 2)
    both[place, 2, 0, 1, 1] = value
    with pytest.raises(ValueError, match="not finite"):
        assignment(*both)


def test_keeps_gradients_out_of_the_solver():
    images = torch.randn(4, 1, 2, 2, requires_grad=True)
    assert not assignment(images, torch.randn(4, 1, 2, 2)).requires_grad


def test_the_coupling_takes_that_permutation():
    images, noise = torch.randn(2, 16, 1, 2, 2)
    dealt = build(MinibatchOTConfig(), Setting(1, 0.5, None)).arrange(images, noise)
    assert torch.equal(dealt, noise[assignment(images, noise)])
    assert not torch.equal(dealt, noise)
