"""A denoiser's schedule: levels as ECT draws them, and the data end as target."""

import pytest
import torch

from couplet.config.recipes import Recipe
from couplet.losses import build_weighting
from couplet.schedules import Continuous, Denoising, build


def recipe(**settings):
    return Recipe.model_validate(
        {
            "steps": 40,
            "schedule": {"kind": "denoising", "p_mean": -1.2, "p_std": 1.2},
            "network": {"kind": "ddpmpp"},
            **settings,
        }
    )


def test_levels_are_those_of_the_continuous_schedule_and_the_target_is_clean():
    schedule = build(recipe(), max_level=80.0)
    assert isinstance(schedule, Denoising)
    continuous = build(recipe(schedule={"kind": "continuous", "p_mean": -1.2, "p_std": 1.2}), max_level=80.0)
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
        schedule = build(recipe(schedule={"kind": kind}), max_level=80.0)
        assert torch.equal(schedule.coupling_level(t, r), level)


@pytest.mark.parametrize(("weighting", "scale"), [("karras", 1.0), ("uniform", 1.0), ("inverse_gap", 1 / 40)])
def test_scale_of_a_penalty_is_finite_and_the_same_in_all_steps(weighting, scale):
    made = recipe(sigma_max=40.0, weighting=weighting)
    schedule = build(made, max_level=40.0)
    assert {schedule.last_pair(step) for step in (0, 39)} == {(40.0, 0.0)}
    assert schedule.fineness(39) == 0
    assert build_weighting(made).penalty_scale(*schedule.last_pair(39)) == scale
