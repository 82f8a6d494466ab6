"""Optimal transport within a minibatch."""

from __future__ import annotations

import harness
import pytest
import torch

from couplet.couplings.minibatch import assignment, cheapest


@pytest.mark.parametrize(("name", "case"), [c for c in harness.cases("ot") if "/gc" not in c[1]])
def test_squared_cost(name: str, case: str) -> None:
    group = harness.load(name)
    batch = case.rsplit("/", 1)[0]
    x, noise = group.tensor(f"{batch}/x"), group.tensor(f"{batch}/noise")
    factor = group.cases[case]["noise_factor"]
    permutation = assignment(x, factor * noise)
    group.check(f"{case}/perm", permutation)
    difference = x.double() - factor * noise[permutation].double()
    group.check(f"{case}/cost", difference.square().sum())
    plan = torch.nn.functional.one_hot(permutation, len(x)).double() / len(x)
    group.check(f"{case}/plan_max_dev", (plan.sum(0) - 1 / len(x)).abs().max())


@pytest.mark.parametrize(("name", "case"), [c for c in harness.cases("ot") if c[1].endswith("/gc")])
def test_euclidean_cost(name: str, case: str) -> None:
    """GC's helper, which its training never calls: our solver on its cost, truncated and not."""
    group = harness.load(name)
    batch = case.rsplit("/", 1)[0]
    x, noise = group.tensor(f"{batch}/x"), group.tensor(f"{batch}/noise")
    cost = torch.cdist(x.double().flatten(1), noise.double().flatten(1))
    rows = torch.arange(len(cost))
    permutation = cheapest(cost)
    group.check(f"{case}/euclid_perm", permutation)
    group.check(f"{case}/euclid_cost", cost[rows, permutation].sum())
    whole = cost.floor()
    group.check(f"{case}/truncated_cost_optimum", whole[rows, cheapest(whole)].sum())
