"""Metrics against clean-fid, torchmetrics and ECT on stored features."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from harness import cases, load
from scipy.special import softmax

from couplet.metrics.distances import frechet_distance, kernel_distance
from couplet.metrics.inception_score import inception_score
from couplet.metrics.measure import Moments, MomentsAccumulator
from couplet.metrics.precision_recall import precision_recall


@pytest.mark.parametrize(("name", "case"), cases("frechet", "pair"))
def test_frechet_distance(name: str, case: str) -> None:
    group = load(name)
    moments = {}
    for kind in ("real", "fake"):
        moments[kind] = MomentsAccumulator().add(group.get(f"{case}/feats_{kind}")).result()
        group.check(f"{case}/mu_{kind}", moments[kind].mean)
        group.check(f"{case}/cov_{kind}", moments[kind].covariance)
    distance = frechet_distance(moments["real"], moments["fake"])
    group.check(f"{case}/fid_clean", distance)
    group.check(f"{case}/fid_torchmetrics", distance)
    # ECT divides covariances by n.
    biased = [
        replace(each, covariance=each.covariance * (each.count - 1) / each.count) for each in moments.values()
    ]
    group.check(f"{case}/fid_ect", frechet_distance(*biased))
    stored = [
        Moments(group.get(f"{case}/mu_{kind}"), group.get(f"{case}/cov_{kind}"), 2)
        for kind in ("real", "fake")
    ]
    group.check(f"{case}/frechet_distance", frechet_distance(*stored))


@pytest.mark.parametrize(("name", "case"), cases("frechet", "pair"))
def test_kernel_distance(name: str, case: str) -> None:
    group = load(name)
    settings = group.cases[case]
    real, fake = group.get(f"{case}/feats_real"), group.get(f"{case}/feats_fake")
    distance = kernel_distance(
        fake,
        real,
        subsets=settings["kid_num_subsets"],
        subset_size=settings["kid_max_subset_size"],
        seed=settings["kid_numpy_seed"],
    )
    group.check(f"{case}/kid_clean", distance)
    least = min(len(real), len(fake))
    full = kernel_distance(fake[:least], real[:least], subsets=1, subset_size=least, seed=0)
    group.check(f"{case}/kid_full", full)


@pytest.mark.parametrize("variant", ["clean", "ect"])
@pytest.mark.parametrize(("name", "case"), cases("frechet", "pair"))
def test_kernel_distance_of_the_stored_draws(name: str, case: str, variant: str) -> None:
    """The same subsets, one after another: the mean over them is the distance."""
    group = load(name)
    real, fake = group.get(f"{case}/feats_real"), group.get(f"{case}/feats_fake")
    draws = group.get(f"{case}/kid_draws" if variant == "clean" else f"{case}/kid_ect_draws")
    parts = [
        kernel_distance(fake[drawn[0]], real[drawn[1]], subsets=1, subset_size=len(drawn[0]), seed=0)
        for drawn in draws
    ]
    group.check(f"{case}/kid_{variant}", np.mean(parts))


@pytest.mark.parametrize(("name", "case"), cases("frechet", "is"))
def test_inception_score(name: str, case: str) -> None:
    group = load(name)
    splits = int(group.get(f"{case}/splits"))
    logits = group.get(f"{case}/logits")
    shuffled = softmax(logits[group.get(f"{case}/perm")].astype(np.float64), axis=1)
    mean, std = inception_score(shuffled, variant="torchmetrics", splits=splits)
    group.check(f"{case}/is_torchmetrics_mean", mean)
    group.check(f"{case}/is_torchmetrics_std", std)
    probabilities = group.get(f"{case}/probs_f32")
    np.testing.assert_allclose(probabilities, softmax(logits, axis=1), rtol=1e-5, atol=1e-7)
    mean, std = inception_score(probabilities, variant="ect", splits=splits)
    group.check(f"{case}/is_ect_mean", mean)
    group.check(f"{case}/is_ect_std", std)


@pytest.mark.parametrize(("name", "case"), cases("frechet", "pr"))
def test_precision_recall(name: str, case: str) -> None:
    group = load(name)
    real, fake = group.get(f"{case}/feats_real"), group.get(f"{case}/feats_fake")
    precision, recall = precision_recall(real, fake, k=group.cases[case]["nhood_size"])
    group.check(f"{case}/precision", precision)
    group.check(f"{case}/recall", recall)
