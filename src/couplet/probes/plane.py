"""What a model and its coupling do with points of the plane (VCT, figure 1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from couplet.couplings import Variational
from couplet.model import ConsistencyModel
from couplet.probes.levels import Coupled
from couplet.training import Objective, couple


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
    model: ConsistencyModel,
    frozen: ConsistencyModel | None,
    batch: Coupled,
    classes: Tensor,
    noise: Tensor,
    *,
    objective: Objective,
    step: int,
) -> Iterator[Segment]:
    """One-step samples, training pairs and the noise of each class's mean.

    Args:
        model: a trained model of points, [b, 2, 1, 1], in evaluation mode.
        frozen: a pre-trained model for couplings that want one.
        batch: points as the coupling is given them.
        classes: class indices of ``batch``, [b].
        noise: standard normal to generate from, [n, 2, 1, 1].
        objective: the recipe's loss.
        step: 0-based step k, which the share of generator-induced pairs depends on.
    """
    top = model.kernel.sigma_max
    means = torch.stack([batch.images[classes == k].mean(0) for k in classes.unique()])
    made = model(top * noise, noise.new_full((len(noise),), top), None, boundary=objective.boundary.sampling)
    nearest = torch.cdist(made.flatten(1), means.flatten(1)).argmin(1)
    yield from _segments("sample", nearest, noise, made)
    pair = couple(
        model,
        model,
        frozen,
        batch.images,
        batch.labels,
        batch.noise,
        level=batch.noise.new_full((len(batch.noise),), top),
        uniform=batch.uniform,
        objective=objective,
        step=step,
    )
    yield from _segments("pair", classes, pair.data, pair.noise)
    coupling = model.coupling
    emitted = torch.zeros_like(means), torch.ones_like(means)
    if isinstance(coupling, Variational):
        emitted = coupling.encode(means, None)
    yield from _segments("posterior", torch.arange(len(means)), *emitted)


def _segments(part: str, components: Tensor, first: Tensor, second: Tensor) -> Iterator[Segment]:
    ends = torch.cat([first.flatten(1), second.flatten(1)], dim=1)
    for component, values in zip(components.tolist(), ends.tolist(), strict=True):
        yield Segment(part, component, *values)
