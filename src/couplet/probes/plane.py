"""What a model and its coupling do with points of the plane (VCT, figure 1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from couplet.config.probes import PlaneConfig
from couplet.data.loader import to_float
from couplet.probes.base import Subject
from couplet.probes.levels import Coupled
from couplet.tensors import generator
from couplet.training.step import Batch, Models, Objective, couple


class Segment(NamedTuple):
    """Two points that belong together."""

    part: str
    """`sample`: noise z and f(sigma_max z, sigma_max). `pair`: data end and noise end of a training pair.
    `posterior`: mean and standard deviation of the noise that belongs to the mean of a class."""
    component: int
    """The class: of the data end, or whose mean is nearest to what was generated."""
    x0: float
    y0: float
    x1: float
    y1: float


@torch.no_grad()
def plane(
    models: Models, coupled: Coupled, classes: Tensor, noise: Tensor, *, objective: Objective, step: int
) -> Iterator[Segment]:
    """One-step samples, training pairs and the noise of each class's mean.

    ``classes`` [b] are those of the ``coupled`` points; samples are generated from ``noise``, [n, 2, 1, 1].
    The first of the trained ``models``, in evaluation mode, is also the running average. The share of
    generator-induced pairs depends on the 0-based ``step``.
    """
    model, points = models.online, coupled.batch.images
    top = model.kernel.sigma_max
    means = torch.stack([points[classes == k].mean(0) for k in classes.unique()])
    levels = noise.new_full((len(noise),), top)
    generated = model(top * noise, levels, None, boundary=objective.recipe.boundary.sampling)
    nearest = torch.cdist(generated.flatten(1), means.flatten(1)).argmin(1)
    yield from _segments("sample", nearest, noise, generated)
    pair = couple(
        models,
        coupled.batch,
        coupled.noise,
        level=points.new_full((len(points),), top),
        uniform=coupled.uniform,
        objective=objective,
        step=step,
    )
    yield from _segments("pair", classes, pair.data, pair.noise)
    yield from _segments("posterior", torch.arange(len(means)), *model.coupling.posterior(means, None))


def _segments(part: str, components: Tensor, first: Tensor, second: Tensor) -> Iterator[Segment]:
    ends = torch.cat([first.flatten(1), second.flatten(1)], dim=1)
    for component, values in zip(components.tolist(), ends.tolist(), strict=True):
        yield Segment(part, component, *values)


def normal(subject: Subject, part: str, shape: torch.Size) -> Tensor:
    """Standard normal points of the run's seed: the noise of its ``part``."""
    stream = generator(subject.device, subject.training.cell.seed, "plane", part)
    return torch.randn(shape, generator=stream, device=subject.device)


def drawn_points(subject: Subject, models: Models, most: int) -> tuple[Coupled, Tensor]:
    """At most ``most`` points of the training split with their noise, arranged, and the points' classes.

    A coupling that chooses at random chooses every pair.
    """
    train = subject.archive.train
    count = min(most, len(train))
    chosen = np.sort(np.random.default_rng(0).choice(len(train), count, replace=False))
    points = to_float(train.images[chosen], subject.device)
    noise = models.online.coupling.arrange(points, normal(subject, "pairs", points.shape))
    coupled = Coupled(Batch(points, None), noise, points.new_zeros(len(points)))
    return coupled, torch.from_numpy(train.labels[chosen]).to(subject.device)


def probe(config: PlaneConfig, subject: Subject) -> Iterator[Segment]:
    """:func:`plane` of the last snapshot, for points that are drawn from the training split."""
    models = subject.snapshot(subject.last)
    coupled, classes = drawn_points(subject, models, config.points)
    return plane(
        models,
        coupled,
        classes,
        normal(subject, "samples", coupled.noise.shape),
        objective=subject.objective(models),
        step=subject.last - 1,
    )
