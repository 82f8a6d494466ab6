"""Entropic transport against its definition, and its rounding against the plain greedy loop."""

import itertools

import pytest
import torch

from couplet.couplings.minibatch import assignment, greedy, transport_plan


@pytest.fixture
def batch():
    return torch.randn(2, 12, 1, 3, 3).double()


def centred(matrix):
    return matrix - matrix.mean(0) - matrix.mean(1, keepdim=True) + matrix.mean()


def test_plan_has_uniform_marginals(batch):
    plan = transport_plan(*batch, epsilon=0.5, iterations=200).exp() / 12
    torch.testing.assert_close(
        plan.sum(0), torch.full((12,), 1 / 12, dtype=torch.float64), rtol=1e-12, atol=0
    )
    torch.testing.assert_close(plan.sum(1), torch.full((12,), 1 / 12, dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 3.0])
def test_plan_is_that_of_the_entropic_problem(batch, epsilon):
    """Its solution is ``exp(f_i + g_j - C_ij/(epsilon s))``: what is left is in rows and columns."""
    images, noise = batch
    cost = centred(torch.cdist(images.flatten(1), 80 * noise.flatten(1)) ** 2)
    wanted = -cost / (epsilon * cost.square().mean().sqrt())
    torch.testing.assert_close(centred(transport_plan(*batch, epsilon, 1)), wanted)


def test_plan_costs_least_with_its_entropy(batch):
    """Moving mass around cycles of two rows and two columns, either way, is worse."""
    images, noise = batch
    cost = centred(-(images.flatten(1) @ noise.flatten(1).T))
    weight = 0.3 * cost.square().mean().sqrt()
    plan = transport_plan(*batch, epsilon=0.3, iterations=2000).exp() / 12

    def value(p):
        return ((p * cost).sum() + weight * (p * p.log()).sum()).item()

    for (i, j), (k, m) in itertools.product(itertools.combinations(range(5), 2), repeat=2):
        for sign in (1, -1):
            moved = plan.clone()
            mass = sign * 0.1 * plan[[i, i, j, j], [k, m, k, m]].min()
            moved[i, k] += mass
            moved[j, m] += mass
            moved[i, m] -= mass
            moved[j, k] -= mass
            assert value(moved) > value(plan)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 255.0])
def test_plan_does_not_depend_on_scale_and_offset(batch, scale):
    images, noise = batch
    found = transport_plan(scale * images + 7, 80 * noise - 2, 0.1, 20)
    torch.testing.assert_close(found, transport_plan(images, noise, 0.1, 20))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("b", [2, 5, 12])
def test_small_epsilon_gives_the_optimal_assignment(b, seed):
    images, noise = torch.randn(2, b, 1, 3, 3, generator=torch.Generator().manual_seed(seed))
    found = greedy(transport_plan(images, noise, epsilon=0.005, iterations=3000))
    assert torch.equal(found, assignment(images, noise))


def test_noise_near_the_images_is_found_at_the_defaults():
    images = 2 * torch.randn(32, 1, 4, 4)
    order = torch.randperm(32)
    noise = images[order] + 0.05 * torch.randn(32, 1, 4, 4)
    assert torch.equal(order[greedy(transport_plan(images, noise, 0.1, 20))], torch.arange(32))


def test_large_epsilon_gives_the_greedy_assignment(batch):
    images, noise = (values.flatten(1) for values in batch)
    gain = (images - images.mean(0)) @ (noise - noise.mean(0)).T
    assert torch.equal(greedy(transport_plan(*batch, epsilon=1e6, iterations=20)), greedy(gain))


def slowly(score):
    """One pair at a time: the largest entry whose row and column are free."""
    partner, score = [None] * len(score), score.clone()
    for _ in range(len(score)):
        row, column = divmod(score.argmax().item(), len(score))
        partner[row] = column
        score[row], score[:, column] = -torch.inf, -torch.inf
    return partner


@pytest.mark.parametrize("b", [1, 2, 3, 10, 64])
def test_greedy_takes_the_largest_entry_that_is_left(b):
    for seed in range(5):
        score = torch.randn(b, b, generator=torch.Generator().manual_seed(seed))
        assert greedy(score).tolist() == slowly(score)


def test_greedy_knows_what_to_do_with_ties():
    assert greedy(torch.zeros(5, 5)).tolist() == [0, 1, 2, 3, 4]
    score = torch.randint(3, (20, 20), generator=torch.Generator().manual_seed(0)).double()
    assert sorted(greedy(score).tolist()) == list(range(20))
