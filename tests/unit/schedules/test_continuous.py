"""ECT's schedule: mapping from t to r, stages and draws."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from couplet.config import recipes as config
from couplet.config.variants import build
from couplet.schedules import Continuous, const_mapping, sigmoid_mapping, stage_of

LEVELS = torch.logspace(-3, 2, 400, dtype=torch.float64)


def make(total=800, max_level=math.inf, **settings):
    return Continuous(
        config.ContinuousConfig(**settings),
        sigma_min=0.002,
        sigma_max=80.0,
        max_level=max_level,
        total_steps=total,
    )


def test_stages_share_training_equally():
    starts = [k for k in range(400_000) if k % 50_000 == 0]
    for stage, first in enumerate(starts):
        assert stage_of(first, 400_000, 8) == stage
        assert stage_of(first + 49_999, 400_000, 8) == stage
    assert [stage_of(k, 10, 4) for k in range(10)] == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]


@pytest.mark.parametrize("total", [1, 3, 8, 1000, 1001])
def test_stages_rise_one_by_one_and_stay_in_range(total):
    found = [stage_of(k, total, 8) for k in range(total)]
    assert found == sorted(found)
    assert found[0] == 0
    assert max(found) <= 7


def test_teacher_starts_at_zero_below_the_logarithm_of_seven():
    """With q = 2, k = 8, b = 1: a(t) >= 2 exactly for t <= ln 7, as 8/(1 + 7) = 1."""
    t = torch.tensor([1e-3, 1.0, math.log(7) - 1e-9, math.log(7) + 1e-6], dtype=torch.float64)
    r = sigmoid_mapping(t, 0, q=2, k=8, b=1)
    assert r[:3].tolist() == [0, 0, 0]
    assert r[3] > 0


def test_sigmoid_mapping_follows_its_formula():
    for t in (0.5, 3.0, 20.0):
        a = 1 + 8 / (1 + math.exp(1.5 * t))
        for stage in (0, 2, 5):
            wanted = max(0.0, t - t * a / 4 ** (stage + 1))
            found = sigmoid_mapping(torch.tensor(t, dtype=torch.float64), stage, q=4, k=8, b=1.5)
            assert found.item() == pytest.approx(wanted, rel=1e-12)


def test_const_mapping_keeps_a_fixed_ratio():
    for stage in range(4):
        ratio = const_mapping(LEVELS, stage, q=2) / LEVELS
        torch.testing.assert_close(ratio, torch.full_like(ratio, 1 - 0.5 ** (stage + 1)))


@pytest.mark.parametrize("mapping", ["sigmoid", "const"])
def test_teacher_moves_towards_the_student_stage_by_stage(mapping):
    schedule = make(mapping=mapping)
    r = [schedule.r_of(LEVELS, 100 * stage) for stage in range(8)]
    for earlier, later in itertools.pairwise(r):
        assert ((earlier >= 0) & (earlier < LEVELS)).all()
        assert (later >= earlier).all()
        assert (later > earlier)[later > 0].all()
    if mapping == "sigmoid":
        assert (r[0] == 0).any()
    np.testing.assert_allclose((r[-1] / LEVELS)[LEVELS > 20], 255 / 256, rtol=1e-6)


def test_mapping_changes_at_the_boundary_of_a_stage_only():
    schedule = make(total=800)
    assert torch.equal(schedule.r_of(LEVELS, 99), schedule.r_of(LEVELS, 0))
    assert not torch.equal(schedule.r_of(LEVELS, 100), schedule.r_of(LEVELS, 99))
    assert [schedule.curriculum(step) for step in (0, 99, 100, 799)] == [0, 0, 1, 7]


def test_student_levels_are_lognormal():
    t, r = make(p_mean=-0.8, p_std=1.6).draw_pair(0, 20_000, torch.Generator().manual_seed(0))
    assert t.shape == r.shape == (20_000,)
    assert t.dtype == r.dtype == torch.float32
    normal = (np.log(t.double().numpy()) + 0.8) / 1.6
    assert stats.kstest(normal, "norm").pvalue > 0.001


@pytest.mark.parametrize("step", [0, 350, 799])
def test_pairs_are_ordered(step):
    t, r = make().draw_pair(step, 5000, torch.Generator().manual_seed(0))
    assert ((t > r) & (r >= 0)).all()


def test_levels_stop_at_the_largest_level_of_the_kernel():
    normal = torch.tensor([-1.0, 0.0, 2.0, 3.5, 4.0])
    free, _ = make().pair_at(0, normal)
    torch.testing.assert_close(free, torch.exp(2 * normal - 1.1))
    assert free.max() > 80
    capped, r = make(max_level=80.0).pair_at(0, normal)
    torch.testing.assert_close(capped, free.clamp(max=80))
    torch.testing.assert_close(r, make().r_of(capped, 0))


def test_draws_depend_on_the_generator_alone():
    schedule = make()
    first, again, other = (
        schedule.draw_pair(3, 50, torch.Generator().manual_seed(seed))[0] for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("stage", [0, 3, 7])
def test_last_pair_is_sigma_max_and_what_it_maps_to(stage):
    """a(80) is 1 to 34 digits."""
    t, r = make().last_pair(100 * stage)
    assert (t, r) == pytest.approx((80, 80 * (1 - 0.5 ** (stage + 1))), rel=1e-12)


def test_build_takes_length_and_kernel_limit():
    schedule = build(
        config.ContinuousConfig(stages=4, mapping="const"),
        sigma_min=0.002,
        sigma_max=10.0,
        max_level=10.0,
        total_steps=40,
    )
    assert [schedule.curriculum(k) for k in (0, 9, 10, 39)] == [0, 0, 1, 3]
    assert schedule.last_pair(0) == (10, 5)
    assert schedule.pair_at(0, torch.tensor([5.0]))[0].item() == 10
