"""How much it matters where papers and released code disagree: the numbers in docs/discrepancies.md.

    python benchmarks/discrepancies.py --json benchmarks/results/discrepancies.json

Everything is synthetic, on the CPU and from fixed seeds; it takes seconds. Nothing is trained: these are
sizes of effects inside a step, a metric or a file, not effects on a trained model. The one exception is
`--ot-models` with checkpoints of `coupling: ot` on digits: what re-pairing in sampling does to them.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import report
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from couplet import model
from couplet.config import recipes
from couplet.config.datasets import DigitsConfig
from couplet.config.extractors import ClassifierConfig
from couplet.config.variants import build
from couplet.couplings.minibatch import cheapest
from couplet.data.loader import to_float
from couplet.data.sources.base import read
from couplet.losses import elementwise_pseudo_huber, ict_c, pseudo_huber
from couplet.metrics.distances import frechet_distance
from couplet.metrics.extractor.classifier import train_classifier
from couplet.metrics.measure import Moments, MomentsAccumulator
from couplet.sampling import generate, to_uint8
from couplet.schedules import lognormal_probabilities, sigma_grid, sigmoid_mapping
from couplet.training.ema import ema_pytorch_ramp, power_decay, power_exponent, target

SIGMA_MIN, SIGMA_MAX, SIGMA_DATA, RHO = 0.002, 80.0, 0.5, 7.0
CIFAR = (3, 32, 32)
INVERSE_GAP = build(recipes.InverseGapConfig(), sigma_data=SIGMA_DATA)


class Row(NamedTuple):
    """One number."""

    topic: str
    quantity: str
    value: float


def distances() -> Iterator[Row]:
    """Element-wise against norm pseudo-Huber, on images that differ by noise of three sizes."""
    generator = torch.Generator().manual_seed(0)
    c = ict_c(math.prod(CIFAR))
    for size in (0.001, 0.01, 0.1):
        target = torch.rand(64, *CIFAR, generator=generator) * 2 - 1
        values, gradients = [], []
        for distance in (elementwise_pseudo_huber, pseudo_huber):
            noise = torch.randn(64, *CIFAR, generator=torch.Generator().manual_seed(1))
            student = (target + size * noise).requires_grad_()
            value = distance(student, target, c)
            (gradient,) = torch.autograd.grad(value.sum(), student)
            values.append(value.detach())
            gradients.append(gradient.flatten(1).norm(dim=1))
        for name, (element, norm) in (("value", values), ("gradient norm", gradients)):
            ratio = float((element / norm).mean())
            yield Row("pseudo_huber", f"{name}, element-wise over norm, difference {size} per pixel", ratio)
    yield Row("pseudo_huber", "c of a 3x32x32 image", c)


def power_average() -> Iterator[Row]:
    """VCT's swapped weights against EDM2's."""
    decay = power_decay(1000, power_exponent(0.1))
    yield Row("power_ema", "weight of the raw network at step 1000, std 0.1, as VCT computes it", decay)
    yield Row("power_ema", "weight of the raw network at step 1000, std 0.1, as EDM2 means it", 1 - decay)


def gc_average() -> Iterator[Row]:
    """The decay that GC's average really has, and how many steps it looks back."""
    for steps in (1_000, 10_000, 100_000):
        decay = ema_pytorch_ramp(steps, 0.9999)
        yield Row("gc_ema", f"decay at step {steps}, applied every 5 steps", decay)
        yield Row("gc_ema", f"steps it looks back at step {steps}: 5 / (1 - decay)", 5 / (1 - decay))
    yield Row("gc_ema", "steps that a decay of 0.9999 after every step looks back", 1 / (1 - 0.9999))


def target_average() -> Iterator[Row]:
    """The decay of CM's target average on CIFAR-10, by N(k) and, as its codes have it, by N(k) - 1."""
    steps = 800_000
    config = recipes.DiscretisedConfig(curriculum="square_root", s0=2, s1=150)
    levels = {"sigma_min": SIGMA_MIN, "sigma_max": SIGMA_MAX, "max_level": SIGMA_MAX}
    schedule = build(config, **levels, total_steps=steps)
    decay = target(0.9, schedule)
    for k in (0, steps - 1):
        n = schedule.curriculum(k)
        yield Row("target_ema", f"steps it looks back at N = {n}: 1 / (1 - decay)", 1 / (1 - decay(k)))
        yield Row("target_ema", f"decay at N = {n}", decay(k))
        yield Row("target_ema", f"decay at N = {n}, by the number of intervals", decay(k) ** (n / (n - 1)))


def last_gaps() -> Iterator[Row]:
    """t over the gap t - r of ECM's last stage at t = 80, by the number of stages of ratio 2."""
    for stages in (4, 8, 16):
        top = torch.tensor(SIGMA_MAX, dtype=torch.float64)
        gap = SIGMA_MAX - float(sigmoid_mapping(top, stages - 1, q=2.0, k=8.0, b=1.0))
        yield Row("stages", f"t over t - r at the end of {stages} stages", SIGMA_MAX / gap)


def added_noise() -> Iterator[Row]:
    """The noise that VCT and ECT add before a second evaluation, relative to CM's."""
    tau = 0.821
    yield Row("renoise", f"excess of tau over CM's, tau = {tau}", tau / math.sqrt(tau**2 - SIGMA_MIN**2) - 1)


def single_precision() -> Iterator[Row]:
    """Grid, weights and probabilities of N = 1281 in float32 against float64."""
    n = 1281
    grid = sigma_grid(n, SIGMA_MIN, SIGMA_MAX, RHO)
    low, high = SIGMA_MIN ** (1 / RHO), SIGMA_MAX ** (1 / RHO)
    theirs = (low + torch.arange(n, dtype=torch.float32) / (n - 1) * (high - low)) ** RHO
    exact = 1 / grid.diff()
    for name, single in (("all in float32", theirs), ("grid rounded to float32", grid.float())):
        error = (INVERSE_GAP(single[1:], single[:-1]).double() / exact - 1).abs()
        yield Row("float32", f"largest relative error of a weight, {name}", float(error.max()))
        yield Row("float32", f"median relative error of a weight, {name}", float(error.median()))
    exact = lognormal_probabilities(grid, -1.1, 2.0)
    error = (lognormal_probabilities(theirs, -1.1, 2.0).double() / exact - 1).abs()
    yield Row("float32", "largest relative error of a probability, all in float32", float(error.max()))
    share = float(exact[error > 1e-3].sum())
    yield Row("float32", "share of draws whose probability is off by more than 0.1 %", share)


def covariance_divisor() -> Iterator[Row]:
    """Frechet distances with N and N - 1, 64 Gaussian features, against 50,000 of another Gaussian."""
    rng = np.random.default_rng(0)
    real = rng.standard_normal((50_000, 64))
    for n in (2_000, 50_000):
        generated = 0.05 + 1.05 * rng.standard_normal((n, 64))
        pair = [moments(generated), moments(real)]
        unbiased, biased = (frechet_distance(*both) for both in (pair, map(with_divisor_n, pair)))
        yield Row("covariance", f"Frechet distance, N - 1, {n} samples", unbiased)
        yield Row("covariance", f"Frechet distance, N, {n} samples", biased)
        yield Row("covariance", f"N over N - 1, relative difference, {n} samples", biased / unbiased - 1)


def moments(values: NDArray[np.floating]) -> Moments:
    """Mean and covariance, with divisor N - 1."""
    return MomentsAccumulator().add(values).result()


def with_divisor_n(unbiased: Moments) -> Moments:
    """The same moments with divisor N."""
    return replace(unbiased, covariance=unbiased.covariance * (unbiased.count - 1) / unbiased.count)


def stretching() -> Iterator[Row]:
    """GC's min-max stretch of a batch against clamping, in grey levels of 0 to 255."""
    generator = torch.Generator().manual_seed(2)
    clean = (torch.randn(500, *CIFAR, generator=generator) * 0.5).clamp(-1, 1)
    error = 0.03 * torch.randn(500, *CIFAR, generator=generator)
    cases = {"values beyond [-1, 1]": clean + error, "values within [-0.8, 0.8]": 0.8 * clean}
    for name, images in cases.items():
        low, high = images.min(), images.max()
        stretched = (images - low) / (high - low) * 2 - 1
        shift = (grey(stretched) - grey(images.clamp(-1, 1))).abs().mean()
        yield Row("stretching", f"contrast factor, {name}", float(2 / (high - low)))
        yield Row("stretching", f"mean change in grey levels, {name}", float(shift))


def grey(images: Tensor) -> Tensor:
    """Images in [-1, 1] on the scale 0 to 255, not rounded."""
    return images * 127.5 + 127.5


def rounding() -> Iterator[Row]:
    """Truncation to uint8 (VCT, GC) against rounding (ECT, couplet)."""
    images = torch.rand(1_000_000, generator=torch.Generator().manual_seed(3)) * 2 - 1
    for name, pixels in (("truncated", truncated(images)), ("rounded", to_uint8(images))):
        shift = (pixels.double() - grey(images.double())).mean()
        yield Row("rounding", f"mean shift in grey levels, {name}", float(shift))
    levels = torch.arange(256, dtype=torch.uint8)
    data = levels.float() / 127.5 - 1
    for name, pixels in (("truncated", truncated(data)), ("rounded", to_uint8(data))):
        yield Row(
            "rounding", f"of 256 data values, changed when written back, {name}", (pixels != levels).sum()
        )


def truncated(images: Tensor) -> Tensor:
    """To uint8 as VCT does it."""
    return ((0.5 * images.clamp(-1, 1) + 0.5) * 255).to(torch.uint8)


def penalty() -> Iterator[Row]:
    """The factor on VCT's KL term as training goes on, before kl_weight."""
    context = {"sigma_min": SIGMA_MIN, "sigma_max": SIGMA_MAX, "max_level": math.inf, "total_steps": 400_000}
    discretised = build(recipes.DiscretisedConfig(), **context)
    continuous = build(recipes.ContinuousConfig(), **context)
    for name, schedule in (("iCT, N", discretised), ("ECM, stage", continuous)):
        for step in (0, 200_000, 399_999):
            factor = INVERSE_GAP.penalty_scale(*schedule.last_pair(step))
            yield Row("kl_scale", f"{name} = {schedule.curriculum(step)}", factor)
    yield Row("kl_scale", "ECM with weighting karras, every stage", 1.0)


def boundary() -> Iterator[Row]:
    """What the shift by sigma_min changes in the preconditioning at small noise levels."""
    levels = {"sigma_min": 0.003, "sigma_max": SIGMA_MAX, "sigma_data": SIGMA_DATA}
    kernel = build(recipes.VarianceExplodingConfig(), **levels)
    t = torch.tensor([0.003, 0.01, 0.1, 0.821], dtype=torch.float64)
    shifted, plain = (kernel.scalings(t, boundary=on).c_out for on in (True, False))
    for level, change in zip(t.tolist(), (shifted / plain - 1).tolist(), strict=True):
        yield Row("boundary", f"c_out, relative change by the shift at t = {level}", change)


def levels_beyond() -> Iterator[Row]:
    """How often an unclamped lognormal level exceeds sigma_max."""
    for mean, std in ((-1.1, 2.0), (-0.8, 1.6)):
        share = 0.5 * math.erfc((math.log(SIGMA_MAX) - mean) / (math.sqrt(2) * std))
        yield Row("unclamped", f"share of t above 80, P = ({mean}, {std})", share)


def transport_costs() -> Iterator[Row]:
    """Squared, plain and truncated Euclidean cost: which assignment, at what squared cost."""
    generator = torch.Generator().manual_seed(4)
    images = (torch.randn(128, *CIFAR, generator=generator) * 0.5).clamp(-1, 1)
    noise = torch.randn(128, *CIFAR, generator=generator)
    euclidean = torch.cdist(images.flatten(1).double(), noise.flatten(1).double())
    best = cheapest(euclidean**2)
    least = cost_of(euclidean**2, best)
    random = cost_of(euclidean**2, torch.arange(128))
    for name, other in (("Euclidean", euclidean), ("Euclidean, truncated", euclidean.floor())):
        found = torch.as_tensor(linear_sum_assignment(other.numpy())[1])
        yield Row(
            "ot_cost", f"pairs that differ from the squared cost's, {name}", (found != best).sum() / 128
        )
        kept = (random - cost_of(euclidean**2, found)) / (random - least)
        yield Row("ot_cost", f"share of the possible gain that is left, {name}", kept)


def cost_of(cost: Tensor, permutation: Tensor) -> Tensor:
    """The cost of an assignment."""
    return cost[torch.arange(len(cost)), permutation].sum()


def recoupling(checkpoints: Sequence[Path]) -> Iterator[Row]:
    """Trained OT models with and without re-pairing in sampling, in the digits classifier's features."""
    if not checkpoints:
        return
    with read(DigitsConfig(), Path("raw")) as source:
        train, test = source.splits["train"], source.splits["test"]
    classifier, _ = train_classifier(ClassifierConfig(), train, test, len(source.classes))
    target = moments(features(classifier, train.images))
    for path in checkpoints:
        network, saved = model.load(path, torch.device("cpu"))
        seed = 0 if saved.training is None else saved.training.cell.seed
        for group in (500, None):
            network.coupling.joint_samples = group
            batches = list(
                generate(
                    network,
                    saved.shape,
                    saved.sampler,
                    seed=seed,
                    purpose="sample",
                    count=3000,
                    batch=500,
                    nfe=(1, 2),
                    conditional=False,
                )
            )
            for nfe in (1, 2) if group else (2,):
                images = np.concatenate([batch[nfe] for batch in batches])
                distance = frechet_distance(moments(features(classifier, images)), target)
                how = "" if nfe == 1 else f", re-paired in groups of {group}" if group else ", not re-paired"
                quantity = f"Frechet distance, NFE {nfe}{how}, seed {seed}, {saved.step} steps"
                yield Row("ot_sampling", quantity, distance)


@torch.no_grad()
def features(classifier: nn.Module, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The classifier's features of images [n, h, w, c]."""
    return classifier.features(to_float(images, torch.device("cpu"))).numpy()


MEASUREMENTS = (
    distances,
    power_average,
    gc_average,
    target_average,
    last_gaps,
    added_noise,
    single_precision,
    penalty,
    boundary,
    levels_beyond,
    stretching,
    rounding,
    covariance_divisor,
    transport_costs,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to FILE")
    parser.add_argument("--ot-models", type=Path, nargs="*", default=[], metavar="CHECKPOINT")
    arguments = parser.parse_args()
    found = [row for measure in MEASUREMENTS for row in measure()]
    found += recoupling(arguments.ot_models)
    rows = [Row(topic, what, float(value)) for topic, what, value in found]
    for topic in dict.fromkeys(row.topic for row in rows):
        print(topic)
        for row in rows:
            if row.topic == topic:
                print(f"  {row.quantity:<78} {row.value:>12.6g}")
    if arguments.json:
        report.write(arguments.json, measurements=[row._asdict() for row in rows])


if __name__ == "__main__":
    main()
