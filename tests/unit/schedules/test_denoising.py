"""A denoiser's schedule: levels as ECT draws them, and the data end as target."""

import pytest
import torch

from couplet.config.recipes import ScheduleConfig, WeightingConfig
from couplet.config.variants import build
from couplet.schedules import Continuous, Denoising


def schedule_of(kind, sigma_max=80.0):
    config = ScheduleConfig.parse({"kind": kind, "p_mean": -1.2, "p_std": 1.2})
    return build(config, sigma_min=0.002, sigma_max=sigma_max, max_level=sigma_max, total_steps=40)


def test_levels_are_those_of_the_continuous_schedule_and_the_target_is_clean():
    schedule = schedule_of("denoising")
    assert isinstance(schedule, Denoising)
    continuous = schedule_of("continuous")
    assert isinstance(continuous, Continuous)
    t, r = schedule.draw_pair(7, 500, torch.Generator().manual_seed(0))
    assert torch.equal(t, continuous.draw_pair(7, 500, torch.Generator().manual_seed(0))[0])
    assert r.shape == t.shape
    assert not r.any()
    capped, _ = schedule.pair_at(0, torch.tensor([0.0, 9.0]))
    torch.testing.assert_close(capped, torch.tensor([-1.2]).exp().new_tensor([0.30119421, 80.0]))


def test_coupling_makes_a_denoisers_pairs_at_t_and_others_at_r():
    t, r = torch.tensor([2.0, 3.0]), torch.tensor([0.0, 1.0])
    kinds = {"denoising": t, "continuous": r, "discretised": r}
    for kind, level in kinds.items():
        assert torch.equal(schedule_of(kind).coupling_level(t, r), level)


@pytest.mark.parametrize(("weighting", "scale"), [("karras", 1.0), ("uniform", 1.0), ("inverse_gap", 1 / 40)])
def test_scale_of_a_penalty_is_finite_and_the_same_in_all_steps(weighting, scale):
    schedule = schedule_of("denoising", sigma_max=40.0)
    assert {schedule.last_pair(step) for step in (0, 39)} == {(40.0, 0.0)}
    assert schedule.curriculum(39) == 0
    weight = build(WeightingConfig.parse(weighting), sigma_data=0.5)
    assert weight.penalty_scale(*schedule.last_pair(39)) == scale
