"""How much the gradient of the training loss differs from one minibatch to the next (VCT)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import NamedTuple

import torch
from torch.nn.utils import parameters_to_vector

from couplet.config.probes import GradientConfig
from couplet.probes.base import Subject
from couplet.training.loop import draws_of
from couplet.training.step import Batch, Draws, Models, Objective, consistency_loss


class GradientVariance(NamedTuple):
    """The gradient of a minibatch over many of them."""

    variance: float
    """Trace of its covariance: its variance, unbiased, summed over the network's parameters."""
    mean_norm2: float
    """Squared norm of the mean gradient; on average variance/batches more than that of the expected one."""

    @property
    def ratio(self) -> float:
        """``variance / mean_norm2``: of batches that are all noise, on average about their number."""
        return self.variance / self.mean_norm2 if self.mean_norm2 else float("nan")


def gradient_variance(
    models: Models,
    batches: Iterable[tuple[Batch, Draws]],
    *,
    objective: Objective,
    step: int,
    microbatch: int | None = None,
) -> GradientVariance:
    """``tr Cov(g)`` and ``||E g||²`` of a minibatch's gradient g of :func:`consistency_loss` (VCT).

    With respect to the network's parameters alone: a coupling's have no counterpart in other couplings.
    Welford's update holds the mean gradient and a number, never the gradients.

    Args:
        models: the gradient is taken of the first, in training mode as in a step, so that dropout counts.
        batches: each with the randomness of a step.
        step: 0-based step k, on which the curriculum depends.
        microbatch: images that go through the network at once; None: a whole batch.

    Raises:
        ValueError: fewer than two batches.
    """
    parameters = list(models.online.network.parameters())
    mean = torch.zeros_like(parameters_to_vector(parameters).detach())
    count, squares = 0, 0.0
    for batch, draws in batches:
        count += 1
        gradient = torch.zeros_like(mean)
        size = microbatch or len(batch.images)
        for number, begin in enumerate(range(0, len(batch.images), size)):
            rows = slice(begin, begin + size)
            part = draws.part(number, rows)
            terms = consistency_loss(models, batch.rows(rows), part, objective=objective, step=step)
            share = len(terms.distance) / len(batch.images)
            partial = torch.autograd.grad(terms.loss * share, parameters, materialize_grads=True)
            gradient += parameters_to_vector(partial)
        gradient -= mean
        squares += float(gradient @ gradient) * (count - 1) / count
        mean += gradient / count
    if count < 2:
        raise ValueError(f"{count} batches: a variance needs two at least")
    return GradientVariance(squares / (count - 1), float(mean @ mean))


def probe(config: GradientConfig, subject: Subject) -> Iterator[tuple[float, ...]]:
    """:func:`gradient_variance` of each snapshot, with the curriculum of the step that led to it.

    The minibatches are the same for all snapshots.
    """
    for taken in subject.checkpoints:
        models = subject.snapshot(taken)
        objective, step = subject.objective(models), taken - 1
        online = deepcopy(models.ema).requires_grad_(True).train()
        online.normalize_weights_()
        variance = gradient_variance(
            models._replace(online=online),
            _minibatches(config, subject, models, objective, step=step),
            objective=objective,
            step=step,
            microbatch=subject.training.train.microbatch,
        )
        yield (taken, *variance, variance.ratio)


def _minibatches(
    config: GradientConfig, subject: Subject, models: Models, objective: Objective, *, step: int
) -> Iterator[tuple[Batch, Draws]]:
    for number, (batch, noise) in enumerate(subject.arranged(models, config.batches)):
        yield batch, draws_of(subject.training, objective, step, noise, purpose=("probe", number))
        subject.advance(len(noise))
