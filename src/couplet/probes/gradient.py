"""How much the gradient of the training loss differs from one minibatch to the next (VCT)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from couplet.model import ConsistencyModel
from couplet.training import Draws, Objective, consistency_loss

Batch = tuple[Tensor, Tensor | None, Draws]
"""Clean images [b, c, h, w], their one-hot labels [b, k] or None, and the randomness of a step."""


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
    model: ConsistencyModel,
    average: ConsistencyModel,
    frozen: ConsistencyModel | None,
    batches: Iterable[Batch],
    *,
    objective: Objective,
    step: int,
    microbatch: int | None = None,
) -> GradientVariance:
    """``tr Cov(g)`` and ``||E g||²`` of a minibatch's gradient g of :func:`consistency_loss` (VCT).

    By the network's parameters alone: those of a coupling have no counterpart in the others. Welford's update
    keeps the mean gradient and a number, never the gradients.

    Args:
        model: where the gradient is taken, in training mode as in a step, so that dropout counts.
        average: what the loss takes for its running average.
        frozen: a pre-trained model for couplings that want one.
        batches: two at least.
        objective: the recipe's loss.
        step: 0-based step k, which the curriculum depends on.
        microbatch: images that go through the network at once; None: a whole batch.

    Raises:
        ValueError: fewer than two batches.
    """
    parameters = list(model.network.parameters())
    mean = torch.zeros_like(parameters_to_vector(parameters).detach())
    count, squares = 0, 0.0
    for images, labels, draws in batches:
        count += 1
        gradient = torch.zeros_like(mean)
        size = microbatch or len(images)
        for number, begin in enumerate(range(0, len(images), size)):
            rows = slice(begin, begin + size)
            terms = consistency_loss(
                model,
                average,
                frozen,
                images[rows],
                None if labels is None else labels[rows],
                draws.part(number, rows),
                objective=objective,
                step=step,
            )
            share = len(terms.distance) / len(images)
            found = torch.autograd.grad(terms.loss * share, parameters, materialize_grads=True)
            gradient += parameters_to_vector(found)
        gradient -= mean
        squares += float(gradient @ gradient) * (count - 1) / count
        mean += gradient / count
    if count < 2:
        raise ValueError(f"{count} batches: a variance needs two at least")
    return GradientVariance(squares / (count - 1), float(mean @ mean))
