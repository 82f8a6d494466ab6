"""Trajectories of a coupling's pairs in the plane, and of the probability-flow ODE (GC, figure 1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from couplet.config.probes import TrajectoriesConfig
from couplet.data.loader import to_float
from couplet.kernels import Kernel
from couplet.probes.base import Subject
from couplet.probes.levels import Coupled
from couplet.probes.plane import drawn_points
from couplet.training.step import Models, Objective, couple

SUBSTEPS = 8
"""Steps of Heun's method between two noise levels."""


class Position(NamedTuple):
    """Two trajectories at one noise level, which start together at the largest."""

    path: int
    component: int
    """The class of the data point of the pair."""
    level: float
    """Noise level t."""
    x: float
    y: float
    """The noisy point x_t of the pair that the coupling makes at t."""
    ode_x: float
    ode_y: float
    """The solution of the probability-flow ODE."""
    deviation: float
    """``||dx_t/dt - v||²``: the pair's velocity against that of the ODE at the pair's own x_t."""


def velocity(kernel: Kernel, data: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """``dx/dt = (x - D(x, t))/t`` of the probability-flow ODE for independent pairs (EDM, Eq. 1 and 3).

    D is exact: the mean of the points ``data`` [n, d], which are all there are, given x [b, d] at level t [].
    """
    distances = torch.cdist(x, kernel.signal(t) * data, compute_mode="donot_use_mm_for_euclid_dist")
    return (x - (-(distances**2) / (2 * t**2)).softmax(1) @ data) / t


def flow(kernel: Kernel, data: Tensor, x: Tensor, levels: Sequence[float]) -> Iterator[Tensor]:
    """Points [b, d] of the probability-flow ODE at ``levels``, which fall, from ``x`` at the first.

    Heun's method in float64, with steps of equal ratio between two levels.
    """
    yield x
    for begin, end in pairwise(levels):
        steps = torch.linspace(0, 1, SUBSTEPS + 1, dtype=x.dtype, device=x.device)
        for t, after in pairwise(begin * (end / begin) ** steps):
            slope = velocity(kernel, data, x, t)
            guess = x + (after - t) * slope
            x = x + (after - t) * (slope + velocity(kernel, data, guess, after)) / 2
        yield x


@torch.no_grad()
def trajectories(
    models: Models,
    coupled: Coupled,
    classes: Tensor,
    *,
    data: Tensor,
    levels: Sequence[float],
    objective: Objective,
    step: int,
) -> Iterator[Position]:
    """x_t of every pair at each of the rising ``levels``, and the ODE's solution from x_t at the last one.

    The ODE is that of independent pairs, whatever the coupling; a pair's velocity is ``(x_t - x̂)/t``, with
    the data end x̂ that the coupling makes at t.

    ``classes`` [b] are those of the ``coupled`` points; ``data`` [n, c, 1, 1] are all points. The first
    of the ``models``, in evaluation mode, is also the running average.
    """
    kernel, falling, every = objective.kernel, [*reversed(levels)], data.flatten(1).double()
    points, deviations = [], []
    for level in falling:
        t = torch.full((len(classes),), level, device=classes.device)
        batch, noise, uniform = coupled
        pair = couple(models, batch, noise, level=t, uniform=uniform, objective=objective, step=step)
        x = kernel.noise(pair.data, pair.noise, t).flatten(1).double()
        slope = (x - pair.data.flatten(1).double()) / level
        points.append(x)
        deviations.append((slope - velocity(kernel, every, x, t[0].double())).square().sum(1, keepdim=True))
    solution = flow(kernel, every, points[0], falling)
    for level, x, ode, deviation in zip(falling, points, solution, deviations, strict=True):
        rows = torch.cat([x, ode, deviation], dim=1).tolist()
        for path, (component, row) in enumerate(zip(classes.tolist(), rows, strict=True)):
            yield Position(path, component, level, *row)


def probe(config: TrajectoriesConfig, subject: Subject) -> Iterator[Position]:
    """:func:`trajectories` of the last snapshot, for points that are drawn from the training split."""
    models = subject.snapshot(subject.last)
    coupled, classes = drawn_points(subject, models, config.pairs)
    return trajectories(
        models,
        coupled,
        classes,
        data=to_float(subject.archive.train.images[:], subject.device),
        levels=config.levels,
        objective=subject.objective(models),
        step=subject.last - 1,
    )
