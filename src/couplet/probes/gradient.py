"""The gradients of minibatches at a snapshot: VCT's numbers, and how much they differ from batch to batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from couplet.config.probes import GradientConfig
from couplet.probes.base import Subject
from couplet.training.loop import draws_of
from couplet.training.step import Batch, Draws, Models, Objective, consistency_loss


class GradientStatistics(NamedTuple):
    """Numbers of a minibatch's gradient over several minibatches.

    The first three are means over minibatches of what VCT's code logs with `evaluate_grad_var`; the others
    compare the minibatches.
    """

    grad_variance: float
    """Variance over the elements of one gradient by the network's parameters, divided by their number."""
    x_grad_variance: float
    """Variance over the elements of the gradient by the images, divided by their number minus one. The loss
    is a mean over the batch: the variance is inversely proportional to the batch's square."""
    grad_norm: float
    """Norm of the gradient by the network's parameters."""
    covariance_trace: float
    """Trace of the gradient's covariance over minibatches, unbiased."""
    mean_norm2: float
    """Squared norm of the mean gradient; on average trace/batches more than that of the expected one."""

    @property
    def ratio(self) -> float:
        """``covariance_trace / mean_norm2``: if batches are all noise, on average about their number."""
        return self.covariance_trace / self.mean_norm2 if self.mean_norm2 else float("nan")


def gradient_statistics(
    models: Models,
    batches: Iterable[tuple[Batch, Draws]],
    *,
    objective: Objective,
    step: int,
    microbatch: int | None = None,
) -> GradientStatistics:
    """Numbers of the gradient of :func:`consistency_loss`, before clipping (VCT).

    By the network's parameters alone: a coupling's have no counterpart in other couplings. The gradient by
    the images includes the encoder's part. Welford's update holds the mean gradient, never all gradients.

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
    each, squares = [], 0.0
    for batch, draws in batches:
        gradient, by_images = _gradients(
            models, parameters, batch, draws, objective=objective, step=step, microbatch=microbatch
        )
        variances = gradient.var(unbiased=False), by_images.var()
        each.append(torch.stack([*variances, gradient.norm()]).double())
        gradient -= mean
        squares += float(gradient @ gradient) * (len(each) - 1) / len(each)
        mean += gradient / len(each)
    if len(each) < 2:
        raise ValueError(f"{len(each)} batches: a variance needs two at least")
    variance, x_variance, norm = torch.stack(each).mean(0).tolist()
    trace = squares / (len(each) - 1)
    return GradientStatistics(
        variance, x_variance, norm, covariance_trace=trace, mean_norm2=float(mean @ mean)
    )


def _gradients(
    models: Models,
    parameters: list[torch.nn.Parameter],
    batch: Batch,
    draws: Draws,
    *,
    objective: Objective,
    step: int,
    microbatch: int | None,
) -> tuple[Tensor, Tensor]:
    """The gradients of a minibatch's loss by the parameters [p] and by the images [b, c, h, w]."""
    by_parameters: Tensor | float = 0.0
    by_images = []
    size = microbatch or len(batch.images)
    for number, begin in enumerate(range(0, len(batch.images), size)):
        rows = slice(begin, begin + size)
        images, labels = batch.rows(rows)
        images = images.detach().requires_grad_(True)
        terms = consistency_loss(
            models, Batch(images, labels), draws.part(number, rows), objective=objective, step=step
        )
        share = len(images) / len(batch.images)
        *partial, by_part = torch.autograd.grad(
            terms.loss * share, [*parameters, images], materialize_grads=True
        )
        by_parameters = by_parameters + parameters_to_vector(partial)
        by_images.append(by_part)
    assert isinstance(by_parameters, Tensor)
    return by_parameters, torch.cat(by_images)


def probe(config: GradientConfig, subject: Subject) -> Iterator[tuple[float, ...]]:
    """:func:`gradient_statistics` of each snapshot, with the curriculum of the step that led to it.

    The minibatches are the same for all snapshots.
    """
    for taken in subject.checkpoints:
        models = subject.snapshot(taken)
        objective, step = subject.objective(models), taken - 1
        online = deepcopy(models.ema).requires_grad_(True).train()
        online.normalize_weights_()
        found = gradient_statistics(
            models._replace(online=online),
            _minibatches(config, subject, models, objective, step=step),
            objective=objective,
            step=step,
            microbatch=subject.training.train.microbatch,
        )
        yield (taken, *found, found.ratio)


def _minibatches(
    config: GradientConfig, subject: Subject, models: Models, objective: Objective, *, step: int
) -> Iterator[tuple[Batch, Draws]]:
    for number, (batch, noise) in enumerate(subject.arranged(models, config.batches)):
        yield batch, draws_of(subject.training, objective, step, noise, purpose=("probe", number))
        subject.advance(len(noise))
