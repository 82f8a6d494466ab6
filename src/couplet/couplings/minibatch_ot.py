"""Minibatch optimal transport: the permutation of noise with the least transport cost."""

from __future__ import annotations

import torch
from torch import Tensor

from couplet.couplings.minibatch import MinibatchCoupling


def cheapest(cost: Tensor) -> Tensor:
    """The permutation pi [b] that minimises ``sum_i cost[i, pi(i)]``, exactly; cost [b, b].

    Raises:
        ValueError: a cost is not finite.
    """
    # Imported here because it takes a second and most processes never solve an assignment.
    from scipy.optimize import linear_sum_assignment

    if not torch.isfinite(cost).all():
        raise ValueError("transport cost is not finite: images or noise hold NaN or infinity")
    _, columns = linear_sum_assignment(cost.detach().cpu().numpy())
    return torch.as_tensor(columns, device=cost.device)


def assignment(images: Tensor, noise: Tensor) -> Tensor:
    """The permutation pi [b] that minimises ``sum_i ||x_i - sigma z_pi(i)||²``, exactly.

    The same for every sigma > 0: norms do not depend on the permutation, so ``-x_i·z_j`` is an equivalent
    cost. Float64 keeps near-ties in order.

    Raises:
        ValueError: images or noise are not finite.
    """
    return cheapest(-(images.flatten(1).double() @ noise.flatten(1).double().T))


class MinibatchOT(MinibatchCoupling):
    """Exact optimal transport within the batch."""

    def assign(self, images: Tensor, noise: Tensor) -> Tensor:
        return assignment(images, noise)
