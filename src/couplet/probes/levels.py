"""What a trained coupling's pairs are like at each noise level (GC)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from couplet.config.probes import LevelsConfig, RegulariserConfig, TransportConfig
from couplet.couplings.base import Pair
from couplet.losses import squared_l2
from couplet.probes.base import Subject
from couplet.tensors import generator
from couplet.training.step import Batch, Models, Objective, couple


class Coupled(NamedTuple):
    """A batch as a coupling is to be given it."""

    batch: Batch
    noise: Tensor
    """As the coupling arranged it, [b, c, h, w]."""
    uniform: Tensor
    """In [0, 1), for couplings that choose at random, [b]; 0 chooses every pair."""


class Estimate(NamedTuple):
    """A mean over images."""

    level: float
    """Noise level t."""
    mean: float
    std_error: float
    """Standard deviation over images by the root of their number, as if each stood alone."""


Measure = Callable[[Pair, Tensor, Models, Objective], Tensor]
"""A number [b] of each pair that the coupling makes at the levels t [b]."""


def transport_cost(pair: Pair, t: Tensor, models: Models, objective: Objective) -> Tensor:
    """``||x̂_t - z||²``, whose mean is c(t): squared distance of the ends of a pair (GC, figure 3).

    ``x̂_t`` is the data end that the coupling makes at level t, and z the noise that it emits. Images and
    drawn noise are the same at all levels, and so is the cost of all couplings but the generator-induced.
    """
    return squared_l2(pair.data, pair.noise)


def regulariser(pair: Pair, t: Tensor, models: Models, objective: Objective) -> Tensor:
    """``||dx_t/dt - v_t(x_t)||²`` with ``v_t(x) = E[dx_t/dt | x_t = x]`` (GC, figure 2).

    A path is ``x_t = signal(t) x̂ + t z``, where the signal is 1 (VE) or ``1 - t/sigma_max`` (LI), so that in
    both ``dx_t/dt = (x_t - x̂)/t``. With a denoiser ``D(x, t) = E[x̂ | x_t = x]`` therefore
    ``v_t(x) = (x - D(x, t))/t``, and the regulariser is ``||x̂ - D(x_t, t)||²/t²``. The first of ``models`` is
    a denoiser that was trained with pairs of the same coupling.
    """
    noisy = objective.kernel.noise(pair.data, pair.noise, t)
    denoised = models.online(noisy, t, pair.labels, boundary=objective.recipe.boundary.training)
    return squared_l2(denoised, pair.data) / t**2


@torch.no_grad()
def estimates(
    measure: Measure,
    models: Models,
    batches: Iterable[Coupled],
    levels: Sequence[float],
    *,
    objective: Objective,
    step: int,
) -> list[Estimate]:
    """The mean over all images, two at least, of a measure, at each level t in (0, sigma_max].

    The first of the trained ``models``, in evaluation mode, is also the running average. The share of
    generator-induced pairs depends on the 0-based ``step``.
    """
    values: list[list[Tensor]] = [[] for _ in levels]
    for batch, noise, uniform in batches:
        for level, of_level in zip(levels, values, strict=True):
            t = torch.full((len(noise),), level, device=noise.device)
            pair = couple(models, batch, noise, level=t, uniform=uniform, objective=objective, step=step)
            of_level.append(measure(pair, t, models, objective).double())
    return [
        Estimate(level, float(every.mean()), float(every.std()) / math.sqrt(len(every)))
        for level, every in zip(levels, map(torch.cat, values), strict=True)
    ]


def transport(config: TransportConfig, subject: Subject) -> list[Estimate]:
    """:func:`transport_cost` at each level, of the last snapshot.

    All pairs of a generator-induced coupling are generator-induced, whatever its mu but 0.
    """
    return _of_last(transport_cost, config, subject, choose_all=True)


def velocity(config: RegulariserConfig, subject: Subject) -> list[Estimate]:
    """:func:`regulariser` at each level, of the last snapshot, which must be a denoiser.

    Pairs are distributed as in its training, since its velocity is theirs: GC's figure has mu = 1.
    """
    return _of_last(regulariser, config, subject, choose_all=False)


def _of_last(measure: Measure, config: LevelsConfig, subject: Subject, *, choose_all: bool) -> list[Estimate]:
    """Estimates from ``config.pairs`` images with their noise, a microbatch at a time.

    ``choose_all``: a coupling that chooses at random is to choose every pair.
    """
    models, training = subject.snapshot(subject.last), subject.training
    batch_size = training.recipe.batch
    size = training.train.microbatch or batch_size

    def pairs() -> Iterator[Coupled]:
        count = math.ceil(config.pairs / batch_size)
        for number, (batch, noise) in enumerate(subject.arranged(models, count)):
            stream = generator(noise.device, training.cell.seed, "coupling", "probe", number)
            uniform = torch.rand(batch_size, generator=stream, device=noise.device)
            # The last batch is arranged whole and used in part.
            used = min(batch_size, config.pairs - number * batch_size)
            for begin in range(0, used, size):
                rows = slice(begin, min(begin + size, used))
                chosen = torch.zeros_like(uniform[rows]) if choose_all else uniform[rows]
                yield Coupled(batch.rows(rows), noise[rows], chosen)
                subject.advance(len(chosen))

    objective, step = subject.objective(models), subject.last - 1
    return estimates(measure, models, pairs(), config.levels, objective=objective, step=step)
