"""Entropic optimal transport within the minibatch, rounded to an assignment."""

from __future__ import annotations

import torch
from torch import Tensor

from couplet.config.couplings import SinkhornConfig
from couplet.couplings.base import Setting
from couplet.couplings.minibatch import MinibatchCoupling


def transport_plan(images: Tensor, noise: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Logarithm of b times the plan P that minimises ``<P, C> + epsilon s sum P ln P``, [b, b], float64.

    ``C_ij = ||x_i - sigma z_j||²`` and P has uniform marginals. Terms of one row or one column do not change
    the plan, so ``-(x_i - mean x)·(z_j - mean z)`` is an equivalent cost; s is its root mean square, which
    makes the plan the same for every sigma and every scale of the images.

    Args:
        images: finite, [b, c, h, w].
        noise: finite, [b, c, h, w].
        epsilon: > 0.
        iterations: steps of Sinkhorn's algorithm (Cuturi 2013, with logarithms); columns sum to 1/b exactly
            after each, rows in the limit.
    """
    x, z = (values.flatten(1).double() for values in (images, noise))
    gain = (x - x.mean(0)) @ (z - z.mean(0)).T
    scale = gain.square().mean().sqrt().clamp_min(torch.finfo(gain.dtype).tiny)  # 0 for equal images
    plan = gain / scale / epsilon
    for _ in range(iterations):
        plan = plan.log_softmax(1).log_softmax(0)
    return plan


def greedy(score: Tensor) -> Tensor:
    """The permutation pi [b] that repeatedly takes the largest remaining ``score[i, pi(i)]``.

    Pairs that are each other's best are taken at once, which gives the same pairs in far fewer rounds than b.

    Args:
        score: finite, [b, b].
    """
    partner = torch.empty(len(score), dtype=torch.long, device=score.device)
    rows, columns = torch.arange(len(score), device=score.device).expand(2, -1)
    while len(rows):
        best = score.argmax(1)
        mutual = score.argmax(0)[best] == torch.arange(len(rows), device=score.device)
        taken = torch.zeros_like(mutual).index_fill(0, best[mutual], True)
        partner[rows[mutual]] = columns[best[mutual]]
        rows, columns, score = rows[~mutual], columns[~taken], score[~mutual][:, ~taken]
    return partner


class Sinkhorn(MinibatchCoupling):
    """The assignment that takes the largest entries of the entropic plan.

    Drawing each image's noise from its row of the plan, as others do, gives some noises to several images and
    others to none, and needs random numbers. Taking the largest entries needs none and uses every noise once.
    The assignment is optimal as epsilon goes to 0; for a large epsilon it is the greedy assignment on the
    centred cost, not the independent coupling as with draws.
    """

    def __init__(self, config: SinkhornConfig, setting: Setting) -> None:
        super().__init__(config, setting)
        self.epsilon, self.iterations = config.epsilon, config.iterations

    def assign(self, images: Tensor, noise: Tensor) -> Tensor:
        return greedy(transport_plan(images, noise, self.epsilon, self.iterations))
