"""Distances between two images: both pseudo-Hubers, the squared norm, ECT's norm."""

from __future__ import annotations

import math
import re

import harness
import pytest
from torch import Tensor

from couplet.config import recipes
from couplet.config.variants import build
from couplet.losses import elementwise_pseudo_huber, ict_c

KINDS = {
    "vct_per_sample": recipes.ElementwisePseudoHuberConfig(),
    "gc_huber": recipes.PseudoHuberConfig(),
    "gc_l2": recipes.SquaredL2Config(),
}


def distance(kind: str, a: Tensor, b: Tensor, c: float) -> Tensor:
    if kind == "vct_elementwise":  # every value on its own, as an image of one value
        values = elementwise_pseudo_huber(a.reshape(-1, 1), b.reshape(-1, 1), c)
        return values.reshape(a.shape)
    return build(KINDS[kind], dimensions=a[0].numel())(a, b)


@pytest.mark.parametrize(("name", "array"), harness.outputs("pseudo_huber", r"[^/]+/.*"))
def test_distance(name: str, array: str) -> None:
    group = harness.load(name)
    key, kind = array.split("/")
    case = group.cases[key]
    assert math.isclose(ict_c(case["D"]), case["c"], rel_tol=1e-12)
    a, b = group.tensor(f"{key}/pred"), group.tensor(f"{key}/target")
    group.check(array, distance(kind, a, b, case["c"]))
    group.check64(array, distance(kind, a.double(), b.double(), case["c"]))


@pytest.mark.parametrize(("name", "array"), harness.outputs("ecm_mapping", "dist/.*"))
def test_distance_with_given_c(name: str, array: str) -> None:
    group = harness.load(name)
    c = float(re.fullmatch(r"dist/c(.*)", array).group(1))
    student, teacher = group.tensor("dist/D_t"), group.tensor("dist/D_r")
    between = build(recipes.PseudoHuberConfig(c=c), dimensions=student[0].numel())
    group.check(array, between(student, teacher))
    group.check64(array, between(student.double(), teacher.double()))
