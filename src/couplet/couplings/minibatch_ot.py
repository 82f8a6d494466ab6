"""Minibatch optimal transport: noise is dealt out so that the batch's transport cost is least."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from couplet.config.couplings import MinibatchOT as MinibatchOTConfig
from couplet.couplings.base import Coupling, Pair, Setting, implements


def cheapest(cost: Tensor) -> Tensor:
    """The permutation pi [b] that minimises ``sum_i cost[i, pi(i)]``, exactly; cost [b, b].

    Raises:
        ValueError: a cost is not finite.
    """
    # Imported where it is used: most processes never solve an assignment, and it takes a second.
    from scipy.optimize import linear_sum_assignment

    if not torch.isfinite(cost).all():
        raise ValueError("transport cost is not finite: images or noise hold NaN or infinity")
    _, columns = linear_sum_assignment(cost.detach().cpu().numpy())
    return torch.as_tensor(columns, device=cost.device)


def assignment(images: Tensor, noise: Tensor) -> Tensor:
    """The permutation pi [b] that minimises ``sum_i ||x_i - sigma z_pi(i)||²``, exactly.

    The same for every sigma > 0: norms do not depend on the permutation, so that ``-x_i·z_j`` is cost
    enough. Float64 keeps near-ties in order.

    Raises:
        ValueError: images or noise are not finite.
    """
    return cheapest(-(images.flatten(1).double() @ noise.flatten(1).double().T))


@implements(MinibatchOTConfig)
class MinibatchOT(Coupling):
    """Images stay in place with their labels; noise is permuted among them, in each part of the batch."""

    joint_images = True

    def __init__(self, config: MinibatchOTConfig, setting: Setting) -> None:
        super().__init__()
        self.parts = config.parts
        self.joint_samples = config.sampling_group if config.recouple_when_sampling else None

    def arrange(self, images: Tensor, noise: Tensor, rows: slice = slice(None)) -> Tensor:
        """The noise of each part of the batch, dealt out to its images; solves only the parts of ``rows``."""
        start, stop, _ = rows.indices(len(images))
        size = len(images) // self.parts
        first = start - start % size
        dealt = []
        for begin in range(first, stop, size):
            part = slice(begin, begin + size)
            dealt.append(noise[part][assignment(images[part], noise[part])])
        return torch.cat(dealt)[start - first : stop - first]

    def forward(self, images: Tensor, noise: Tensor, labels: Tensor | None, **context: Any) -> Pair:
        return Pair(images, noise, labels, images.new_zeros(len(images)))

    def renoise(self, images: Tensor, noise: Tensor, labels: Tensor | None) -> Tensor:
        """Noise re-assigned within the group of samples, or as drawn where samples stand alone."""
        return noise[assignment(images, noise)] if self.joint_samples else noise
