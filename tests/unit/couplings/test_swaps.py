"""Swaps: each for the better, and in the end no worse than any other pair's exchange."""

import itertools

import pytest
import torch

from couplet.config.couplings import SwapsConfig
from couplet.config.variants import build
from couplet.couplings.base import Setting
from couplet.couplings.minibatch import assignment, swapped


def cost(images, noise, permutation, sigma=80.0):
    return (images.double() - sigma * noise.double()[permutation]).square().sum().item()


def every_pair(b):
    """Meetings, one at a time, of everyone with everyone."""
    return torch.tensor(list(itertools.combinations(range(b), 2)))[:, :, None]


@pytest.mark.parametrize("seed", range(5))
def test_two_images_are_assigned_optimally(seed):
    images, noise = torch.randn(2, 2, 1, 2, 2, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(swapped(images, noise, every_pair(2)), assignment(images, noise))


def test_no_meeting_raises_the_cost_and_some_lower_it():
    images, noise = torch.randn(2, 10, 1, 3, 3)
    meetings = every_pair(10)
    costs = [cost(images, noise, swapped(images, noise, meetings[:end])) for end in range(len(meetings) + 1)]
    assert costs[0] == cost(images, noise, torch.arange(10))
    assert all(after < before * (1 + 1e-6) for before, after in itertools.pairwise(costs))
    assert len(set(costs)) > 5


def test_meetings_of_one_round_do_not_disturb_each_other():
    images, noise = torch.randn(2, 10, 1, 3, 3)
    pairs = torch.randperm(10).view(2, 5)
    alone = torch.stack(pairs.split(1, dim=1))
    assert torch.equal(swapped(images, noise, pairs[None]), swapped(images, noise, alone))


def test_after_enough_meetings_no_exchange_is_worth_while():
    images, noise = torch.randn(2, 8, 1, 3, 3)
    found = swapped(images, noise, every_pair(8).repeat(20, 1, 1))
    least = cost(images, noise, found)
    for i, j in itertools.combinations(range(8), 2):
        other = found.clone()
        other[[i, j]] = found[[j, i]]
        assert cost(images, noise, other) > least


def test_more_rounds_and_other_seeds_matter():
    images, noise = torch.randn(2, 32, 1, 3, 3)

    def assigned(**settings):
        return build(SwapsConfig(**settings), Setting(1, 0.5, None)).assign(images, noise)

    few, many = assigned(rounds=2), assigned(rounds=64)
    assert cost(images, noise, many) < cost(images, noise, few)
    assert not torch.equal(assigned(rounds=2, seed=1), few)
