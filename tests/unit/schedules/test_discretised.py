"""iCT's schedule: curriculum, grid, probabilities and draws."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from couplet.config import recipes as config
from couplet.config.variants import build
from couplet.schedules import Discretised, grid_points, lognormal_probabilities, sigma_grid


def make(total=8000, **settings):
    return Discretised(
        config.DiscretisedConfig(**settings),
        sigma_min=0.002,
        sigma_max=80.0,
        max_level=math.inf,
        total_steps=total,
    )


def points(total, s0, s1, curriculum="exponential"):
    return [grid_points(k, total, s0=s0, s1=s1, curriculum=curriculum) for k in range(total)]


def test_published_curriculum_doubles_every_50000_steps():
    """N(k) of iCT for K = 400,000, s0 = 10, s1 = 1280."""
    intervals = [10, 20, 40, 80, 160, 320, 640, 1280]
    for phase, wanted in enumerate(intervals):
        first, last = 50_000 * phase, 50_000 * (phase + 1) - 1
        for step in (first, first + 1, last):
            assert grid_points(step, 400_000, s0=10, s1=1280, curriculum="exponential") == wanted + 1


def test_remainder_of_the_phases_stays_at_the_cap():
    found = points(403, 10, 40)  # three phases of 134 steps and one step more
    assert [len(list(group)) for _, group in itertools.groupby(found)] == [134, 134, 135]
    assert set(found) == {11, 21, 41}


@pytest.mark.parametrize("curriculum", ["exponential", "square_root"])
@pytest.mark.parametrize(("s0", "s1"), [(10, 1280), (2, 150), (10, 160), (7, 100), (5, 5)])
def test_curriculum_never_falls_and_ends_at_its_cap(curriculum, s0, s1):
    found = points(2000, s0, s1, curriculum)
    assert found == sorted(found)
    assert found[-1] == s1 + 1
    assert found[0] in {s0, s0 + 1}


@pytest.mark.parametrize("total", [1, 2, 3, 7, 8, 9])
@pytest.mark.parametrize("curriculum", ["exponential", "square_root", "constant"])
def test_tiny_trainings_have_a_curriculum_too(total, curriculum):
    found = points(total, 10, 1280, curriculum)
    assert found == sorted(found)
    assert all(2 <= n <= 1281 for n in found)


def test_curriculum_of_a_power_of_two_spends_equal_time_in_each_phase():
    counts = {n: points(800, 10, 1280).count(n) for n in (11, 21, 41, 81, 161, 321, 641, 1281)}
    assert set(counts.values()) == {100}


def test_square_root_curriculum_follows_its_formula():
    """CM, App. C with s0 = 2, s1 = 150: at the half, sqrt((151² - 4)/2 + 4) = 106.8."""
    assert grid_points(0, 1000, s0=2, s1=150, curriculum="square_root") == 2
    assert grid_points(500, 1000, s0=2, s1=150, curriculum="square_root") == 107
    assert grid_points(1000, 1000, s0=2, s1=150, curriculum="square_root") == 151


def test_constant_curriculum():
    assert set(points(50, 10, 80, "constant")) == {81}


@pytest.mark.parametrize("curriculum", ["exponential", "square_root", "constant"])
def test_smallest_configurable_curriculum_has_an_interval(curriculum):
    schedule = make(total=100, s0=1, s1=8, curriculum=curriculum)
    t, r = schedule.draw_pair(0, 4, torch.Generator().manual_seed(0))
    assert (t > r).all()
    assert schedule.last_pair(0)[0] == pytest.approx(80)


@pytest.mark.parametrize("n", [2, 11, 161, 1281])
def test_grid_rises_from_sigma_min_to_sigma_max(n):
    grid = sigma_grid(n, 0.002, 80.0, 7.0)
    assert (len(grid), grid.dtype) == (n, torch.float64)
    assert grid[[0, -1]].tolist() == pytest.approx([0.002, 80.0], rel=1e-12)
    assert (grid.diff() > 0).all()


def test_grid_is_even_in_the_root():
    root = sigma_grid(41, 0.002, 80.0, 7.0) ** (1 / 7)
    np.testing.assert_allclose(root.diff(), (80 ** (1 / 7) - 0.002 ** (1 / 7)) / 40, rtol=1e-9)
    even = sigma_grid(5, 1.0, 9.0, 1.0)
    assert even.tolist() == pytest.approx([1, 3, 5, 7, 9])


@pytest.mark.parametrize("n", [2, 11, 161, 1281])
def test_probabilities_are_those_of_a_truncated_lognormal(n):
    grid = sigma_grid(n, 0.002, 80.0, 7.0)
    found = lognormal_probabilities(grid, -1.1, 2.0)
    assert found.shape == (n - 1,)
    assert (found > 0).all()
    assert found.sum().item() == pytest.approx(1, rel=1e-12)
    lognormal = stats.lognorm(s=2.0, scale=math.exp(-1.1))
    mass = np.diff(lognormal.cdf(grid.numpy()))
    np.testing.assert_allclose(found, mass / mass.sum(), rtol=1e-6)


def test_probabilities_agree_with_lognormal_draws():
    grid = sigma_grid(11, 0.002, 80.0, 7.0)
    draws = np.exp(-0.8 + 1.6 * np.random.default_rng(0).standard_normal(200_000))
    counts, _ = np.histogram(draws, grid.numpy())
    expected = lognormal_probabilities(grid, -0.8, 1.6).numpy() * counts.sum()
    assert stats.chisquare(counts, expected).pvalue > 0.001


@pytest.mark.parametrize("step", [0, 1500, 7999])
def test_pairs_are_neighbours_on_the_grid_of_the_step(step):
    schedule = make()
    t, r = schedule.draw_pair(step, 500, torch.Generator().manual_seed(0))
    assert t.shape == r.shape == (500,)
    assert t.dtype == r.dtype == torch.float32
    grid = sigma_grid(schedule.curriculum(step), 0.002, 80.0, 7.0).float()
    upper = torch.searchsorted(grid, t)
    assert torch.equal(grid[upper], t)
    assert torch.equal(grid[upper - 1], r)
    assert ((t > r) & (r >= 0)).all()


@pytest.mark.parametrize("levels", ["lognormal", "uniform"])
def test_draws_follow_the_probabilities(levels):
    schedule = make(levels=levels)
    t, _ = schedule.draw_pair(0, 20_000, torch.Generator().manual_seed(1))
    grid = sigma_grid(11, 0.002, 80.0, 7.0)
    counts = torch.bincount(torch.searchsorted(grid.float(), t) - 1, minlength=10).numpy()
    wanted = lognormal_probabilities(grid, -1.1, 2.0).numpy()
    if levels == "uniform":
        wanted = np.full(10, 0.1)
    assert stats.chisquare(counts, wanted * counts.sum()).pvalue > 0.001


def test_lognormal_parameters_of_the_configuration_are_used():
    shifted = make(p_mean=-0.8, p_std=1.6).probabilities(11, torch.device("cpu"))
    torch.testing.assert_close(shifted, lognormal_probabilities(make().grid(11), -0.8, 1.6))


def test_draws_depend_on_the_generator_alone():
    schedule = make()
    first, again, other = (
        schedule.draw_pair(3, 50, torch.Generator().manual_seed(seed))[0] for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("step", "n"), [(0, 11), (7999, 1281)])
def test_last_pair_is_the_top_of_the_grid(step, n):
    t, r = make().last_pair(step)
    root = 80 ** (1 / 7)
    below = (root - (root - 0.002 ** (1 / 7)) / (n - 1)) ** 7
    assert (t, r) == pytest.approx((80, below))


def test_build_takes_range_and_length_of_the_recipe():
    schedule = build(
        config.DiscretisedConfig(s0=4, s1=8, rho=1.0),
        sigma_min=0.01,
        sigma_max=10.0,
        max_level=math.inf,
        total_steps=400,
    )
    assert [schedule.curriculum(step) for step in (0, 199, 200, 399)] == [5, 5, 9, 9]
    assert schedule.grid(5).tolist() == pytest.approx([0.01, 2.5075, 5.005, 7.5025, 10])
