"""Sorting along directions: exact in one dimension, the best of several in more."""

import pytest
import torch

from couplet.config.couplings import ProjectedConfig
from couplet.config.variants import build
from couplet.couplings.base import Setting
from couplet.couplings.minibatch import assignment, sorted_along


def gain(images, noise, permutation):
    return (images * noise[permutation]).double().sum().item()


@pytest.mark.parametrize("theta", [1.0, -3.0])
@pytest.mark.parametrize("seed", range(3))
def test_single_values_are_assigned_optimally(theta, seed):
    images, noise = torch.randn(2, 40, 1, 1, 1, generator=torch.Generator().manual_seed(seed))
    found = sorted_along(images, noise, torch.tensor([[theta]]))
    assert torch.equal(found, assignment(images, noise))


def test_images_on_a_line_are_assigned_optimally_along_it():
    direction = torch.randn(9, 1)
    images = (torch.randn(20, 1) @ direction.T).reshape(20, 1, 3, 3)
    noise = torch.randn(20, 1, 3, 3)
    assert torch.equal(sorted_along(images, noise, direction), assignment(images, noise))


def test_ranks_along_the_direction_agree():
    images, noise = torch.randn(2, 20, 1, 3, 3)
    direction = torch.randn(9, 1)
    dealt = noise[sorted_along(images, noise, direction)]
    ranks = [(values.flatten(1) @ direction)[:, 0].argsort() for values in (images, dealt)]
    assert torch.equal(*ranks)


def test_the_cheapest_of_the_directions_is_taken():
    images, noise = torch.randn(2, 20, 1, 3, 3)
    directions = torch.randn(9, 8)
    each = [sorted_along(images, noise, direction[:, None]) for direction in directions.T]
    gains = [gain(images, noise, permutation) for permutation in each]
    best = max(range(8), key=gains.__getitem__)
    assert best != 0
    assert torch.equal(sorted_along(images, noise, directions), each[best])


def test_seed_and_number_of_directions_matter():
    images, noise = torch.randn(2, 20, 1, 3, 3)

    def assigned(**settings):
        return build(ProjectedConfig(**settings), Setting(1, 0.5, None)).assign(images, noise)

    first = assigned(directions=1)
    assert torch.equal(assigned(directions=1, seed=0), first)
    assert not torch.equal(assigned(directions=1, seed=1), first)
    assert gain(images, noise, assigned(directions=64)) > gain(images, noise, first)
