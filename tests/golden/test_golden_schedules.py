"""Noise levels: iCT's curriculum, grid and probabilities, ECT's mapping and stages, GC's share."""

from __future__ import annotations

import math
import re

import harness
import pytest
import torch
from torch import Tensor

from couplet.config import couplings as coupling_config
from couplet.config import recipes
from couplet.config.variants import build
from couplet.couplings.generator_induced import GeneratorInduced
from couplet.losses import Weighting
from couplet.schedules import (
    Discretised,
    const_mapping,
    grid_points,
    lognormal_probabilities,
    sigma_grid,
    sigmoid_mapping,
    stage_of,
)

CURRICULA = {"exp": "exponential", "baseline": "square_root", "none": "constant"}
NUMBER = r"(-?[\d.]+(?:e-?\d+)?)"


def mapping(case: dict, t: Tensor, stage: int) -> Tensor:
    if case["adj"] == "sigmoid":
        return sigmoid_mapping(t, stage, q=float(case["q"]), k=case["k"], b=case["b"])
    assert case["adj"] == "const"
    return const_mapping(t, stage, q=float(case["q"]))


def weighting(kind: str, sigma_data: float = 0.5) -> Weighting:
    """The weighting that the vectors call ``kind``."""
    settings = {"consistency": recipes.InverseGapConfig(), "karras": recipes.KarrasConfig()}[kind]
    made: Weighting = build(settings, sigma_data=sigma_data)
    return made


@pytest.mark.parametrize(("name", "array"), harness.outputs("ict_schedule", r"(gc/)?N/.*/num_timesteps"))
def test_grid_points(name: str, array: str) -> None:
    group, key = harness.load(name), array.removesuffix("/num_timesteps")
    case = group.cases[key]
    # GC's code knows the exponential curriculum alone and names its bounds differently.
    s0, s1 = (case.get("start_scales", case.get("start")), case.get("end_scales", case.get("end")))
    config = recipes.DiscretisedConfig(s0=s0, s1=s1, curriculum=CURRICULA[case.get("scale_mode", "exp")])
    schedule = Discretised(
        config,
        sigma_min=0.002,
        sigma_max=80.0,
        max_level=math.inf,
        total_steps=case["total_training_steps"],
    )
    steps = [int(step) for step in group.get(f"{key}/step")]
    mine = [schedule.curriculum(step) for step in steps]
    assert mine == [
        grid_points(step, case["total_training_steps"], s0=s0, s1=s1, curriculum=config.curriculum)
        for step in steps
    ]
    group.check(array, mine)


@pytest.mark.parametrize(("name", "array"), harness.outputs("ict_schedule", r"(gc/)?grid/.*/sigmas"))
def test_grid(name: str, array: str) -> None:
    group, key = harness.load(name), array.removesuffix("/sigmas")
    case = group.cases.get(key)
    if case is None:  # GC's are hard-coded; its grid and bounds are those of iCT.
        p_mean, p_std = group.said(f"{key}/pmf", rf"mean {NUMBER}, std {NUMBER}")
        case = {
            "num_timesteps": len(group.get(array)),
            "sigma_min": 0.002,
            "sigma_max": 80.0,
            "rho": 7.0,
            "p_mean": p_mean,
            "p_std": p_std,
        }
    grid = sigma_grid(case["num_timesteps"], case["sigma_min"], case["sigma_max"], case["rho"])
    assert grid.dtype == torch.float64
    group.check(array, grid.float())
    group.check64(array, grid)
    if len(grid) == 1:
        return
    probabilities = lognormal_probabilities(grid, case["p_mean"], case["p_std"])
    # The raw weights are not normalised: they sum to twice the mass between the bounds.
    normal = torch.distributions.Normal(case["p_mean"], case["p_std"])
    bounds = torch.tensor([case["sigma_min"], case["sigma_max"]], dtype=torch.float64)
    mass = 2 * normal.cdf(bounds.log()).diff()
    single = grid.float()
    results = {
        "pmf": (probabilities, probabilities),
        "pmf_unnormalised": (probabilities * mass, probabilities * mass),
        "loss_weights": (
            weighting("consistency")(single[1:], single[:-1]),
            weighting("consistency")(grid[1:], grid[:-1]),
        ),
    }
    for output in group.outputs(f"{key}/"):
        if output != array:
            mine, double = results[output.removeprefix(f"{key}/")]
            group.check(output, mine)
            group.check64(output, double)


@pytest.mark.parametrize(("name", "array"), harness.outputs("ict_schedule", "gc/mix/.*/value"))
def test_share_of_generated(name: str, array: str) -> None:
    group = harness.load(name)
    start, end, total = group.said(array, rf"start {NUMBER}, end {NUMBER}, K={NUMBER}")
    # GC's code mixes by the share of real images, the paper's mu is that of generated ones.
    config = coupling_config.GeneratorInducedConfig(mu=1 - start, mu_end=1 - end)
    coupling = GeneratorInduced(config, None)
    steps = group.get("gc/mix/step")
    group.check(array, [1 - coupling.mu_at(int(step) / total) for step in steps])


@pytest.mark.parametrize(("name", "array"), harness.outputs("ecm_mapping", "r/.*"))
def test_mapping(name: str, array: str) -> None:
    group = harness.load(name)
    case = group.cases[array]
    t, stages = group.tensor("t"), [int(stage) for stage in group.get("stages")]
    group.check(array, torch.stack([mapping(case, t, stage) for stage in stages]))
    group.check64(array, torch.stack([mapping(case, t.double(), stage) for stage in stages]))


@pytest.mark.parametrize(("name", "array"), harness.outputs("ecm_mapping", "stage/.*/stage"))
def test_stage(name: str, array: str) -> None:
    group, key = harness.load(name), array.removesuffix("/stage")
    case = group.cases[key]
    stages = [
        stage_of(int(step), case["total_training_steps"], case["n_stages"])
        for step in group.get(f"{key}/step")
    ]
    group.check(array, stages)
    one = torch.ones((), dtype=torch.float64)
    group.check(f"{key}/ratio", [float(const_mapping(one, s, q=float(case["q"]))) for s in stages])


@pytest.mark.parametrize(("name", "array"), harness.outputs("ecm_mapping", "weights/.*"))
def test_weighting(name: str, array: str) -> None:
    group = harness.load(name)
    kind, sigma_data = re.fullmatch(rf"weights/(\w+)_sd{NUMBER}", array).groups()
    weight = weighting(kind, float(sigma_data))
    t, r = group.tensor("weights/t"), group.tensor("weights/r")
    group.check(array, weight(t, r))
    group.check64(array, weight(t.double(), r.double()))


def test_probabilities_are_of_the_schedule() -> None:
    """What training draws from is what the vectors hold."""
    config = recipes.DiscretisedConfig(s0=3, s1=12)
    schedule = Discretised(config, sigma_min=0.01, sigma_max=50.0, max_level=math.inf, total_steps=30)
    grid = sigma_grid(schedule.curriculum(0), 0.01, 50.0, config.rho)
    t, r = schedule.draw_pair(0, 4000, torch.Generator().manual_seed(0))
    expected = lognormal_probabilities(grid, config.p_mean, config.p_std)
    for i, probability in enumerate(expected.tolist()):
        share = (r == grid[i].float()).double().mean().item()
        assert math.isclose(share, probability, abs_tol=4 * math.sqrt(0.25 / 4000))
        assert (t[r == grid[i].float()] == grid[i + 1].float()).all()
