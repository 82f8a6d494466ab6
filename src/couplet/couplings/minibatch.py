"""Couplings that permute the noise of a batch among its images."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from couplet.config.couplings import MinibatchCouplingConfig, ProjectedConfig, SinkhornConfig, SwapsConfig
from couplet.couplings.base import Coupling, Setting
from couplet.tensors import CPU, generator


class MinibatchCoupling(Coupling, ABC):
    """Permutes noise within each part of the batch; images stay in place with their labels.

    A permutation uses each noise once, so the batch's noise stays the standard normal sample that was drawn.
    Subclasses define the permutation: :meth:`assign`.
    """

    joint_images = True

    def __init__(self, config: MinibatchCouplingConfig, setting: Setting) -> None:
        super().__init__()
        self.config = config
        self.joint_samples = config.sampling_group if config.recouple_when_sampling else None

    @abstractmethod
    def assign(self, images: Tensor, noise: Tensor) -> Tensor:
        """The permutation pi [b]: image i gets noise pi(i). It must depend on its arguments alone.

        Images and noise are [b, c, h, w], of any floating type, here and in the functions below. All raise
        ValueError where images or noise hold NaN or infinity (:func:`finite`).
        """

    @torch.no_grad()
    def deal(self, images: Tensor, noise: Tensor) -> Tensor:
        """Permute the noise into the order of the images that get it."""
        return noise[self.assign(images, noise)]

    def arrange(self, images: Tensor, noise: Tensor, rows: slice = slice(None)) -> Tensor:
        """Permute the noise within each part of the batch; solve only the parts that contain ``rows``."""
        start, stop, _ = rows.indices(len(images))
        size = len(images) // self.config.parts
        first = start - start % size
        parts = [slice(begin, begin + size) for begin in range(first, stop, size)]
        dealt = [self.deal(images[part], noise[part]) for part in parts]
        return torch.cat(dealt)[start - first : stop - first]

    def renoise(self, images: Tensor, noise: Tensor, labels: Tensor | None) -> Tensor:
        """Noise re-assigned within the group of samples, or as drawn where samples are independent."""
        return self.deal(images, noise) if self.joint_samples else noise


def finite(costs: Tensor) -> Tensor:
    """The costs or gains of pairs, of any shape, if their sum is finite; else ValueError.

    NaN or infinity in an image or a noise shows in all its products, of which there are fewer than pixels.
    """
    if not costs.sum().isfinite():
        raise ValueError("transport cost is not finite: images or noise hold NaN or infinity")
    return costs


def _values(images: Tensor) -> Tensor:
    """The values of each image [b, d] for products: float32, on a GPU float64.

    Whether a GPU takes float32 products in TF32 is a setting of the process, which the step in training
    changes while a thread arranges the noise of another.
    """
    return images.flatten(1).to(torch.float64 if images.is_cuda else torch.float32)


def gains(images: Tensor, noise: Tensor) -> Tensor:
    """What a pair saves, ``x_i·z_j``, [b, b], float32 or more.

    ``-x_i·z_j`` is equivalent to the cost ``||x_i - sigma z_j||²`` for every sigma > 0: norms do not depend
    on the permutation.
    """
    return finite(_values(images) @ _values(noise).T)


def cheapest(cost: Tensor) -> Tensor:
    """The permutation pi [b] that minimises ``sum_i cost[i, pi(i)]``, exactly; cost [b, b], finite."""
    # Imported here because it takes a second and most processes never solve an assignment.
    from scipy.optimize import linear_sum_assignment

    _, columns = linear_sum_assignment(cost.detach().cpu().numpy())
    return torch.as_tensor(columns, device=cost.device)


def assignment(images: Tensor, noise: Tensor) -> Tensor:
    """The permutation pi [b] that minimises ``sum_i ||x_i - sigma z_pi(i)||²``, exactly but for rounding."""
    return cheapest(-gains(images, noise))


class MinibatchOT(MinibatchCoupling):
    """Exact optimal transport within the batch."""

    def assign(self, images: Tensor, noise: Tensor) -> Tensor:
        return assignment(images, noise)


def transport_plan(images: Tensor, noise: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Logarithm of b times the plan P that minimises ``<P, C> + epsilon s sum P ln P``, [b, b], float64.

    ``C_ij = ||x_i - sigma z_j||²`` and P has uniform marginals. Terms of one row or one column do not change
    the plan, so ``-(x_i - mean x)·(z_j - mean z)`` is an equivalent cost; s is its root mean square, which
    makes the plan the same for every sigma and every scale of the images.

    After each of the ``iterations`` of Sinkhorn's algorithm (Cuturi 2013, with logarithms) columns sum to 1/b
    exactly, rows in the limit.
    """
    x, z = (values.flatten(1).double() for values in (images, noise))
    gain = finite((x - x.mean(0)) @ (z - z.mean(0)).T)
    scale = gain.square().mean().sqrt().clamp_min(torch.finfo(gain.dtype).tiny)  # 0 for equal images
    plan = gain / scale / epsilon
    for _ in range(iterations):
        plan = plan.log_softmax(1).log_softmax(0)
    return plan


def greedy(score: Tensor) -> Tensor:
    """The permutation pi [b] that repeatedly takes the largest remaining ``score[i, pi(i)]``.

    Pairs that are each other's best are taken at once, which gives the same pairs in far fewer rounds than b.
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

    config: SinkhornConfig

    def assign(self, images: Tensor, noise: Tensor) -> Tensor:
        return greedy(transport_plan(images, noise, self.config.epsilon, self.config.iterations))


def sorted_along(images: Tensor, noise: Tensor, directions: Tensor) -> Tensor:
    """The permutation pi [b] of least ``sum_i ||x_i - sigma z_pi(i)||²`` that sorts along a direction.

    The image with the n-th smallest ``x·theta`` gets the noise with the n-th smallest ``z·theta``: optimal
    for the components along theta, a column of ``directions`` [c h w, n], and overall where D = 1.
    """
    x, z = _values(images), _values(noise)
    order_x, order_z = ((values @ directions.to(values)).argsort(stable=True, dim=0) for values in (x, z))
    partners = torch.empty_like(order_x).scatter_(0, order_x, order_z)
    gained = torch.stack([(x * z[partner]).sum() for partner in partners.T])
    return partners[:, finite(gained).argmax()]


class Projected(MinibatchCoupling):
    """The best of a few one-dimensional assignments, along directions that are the same for every batch.

    Takes ``O(b ln b)`` for each direction, without a b x b matrix. Immiscible diffusion (Li et al. 2024,
    arXiv 2406.12303) lowers the cost in another way: an exact assignment on distances in half precision.
    """

    config: ProjectedConfig

    def assign(self, images: Tensor, noise: Tensor) -> Tensor:
        draws = generator(CPU, self.config.seed, "directions")
        directions = torch.randn(images[0].numel(), self.config.directions, generator=draws)
        return sorted_along(images, noise, directions)


def swapped(images: Tensor, noise: Tensor, meetings: Tensor) -> Tensor:
    """Swap noise where that lowers the transport cost; returns the permutation pi [b].

    Images i and j exchange their noise if ``(x_i - x_j)·(z_pi(j) - z_pi(i)) > 0``: then
    ``sum_i ||x_i - sigma z_pi(i)||²`` falls, for every sigma > 0. ``meetings`` [rounds, 2, b // 2] are the
    candidate pairs, each image at most once per round.
    """
    gain = gains(images, noise)
    partner = torch.arange(len(gain), device=gain.device)
    for i, j in meetings:
        mine, theirs = partner[i], partner[j]
        swap = gain[i, theirs] + gain[j, mine] > gain[i, mine] + gain[j, theirs]
        partner[i], partner[j] = torch.where(swap, theirs, mine), torch.where(swap, mine, theirs)
    return partner


class Swaps(MinibatchCoupling):
    """Rounds of swaps between random pairs of images (cf. Sadr and Gorji 2024, arXiv 2412.16385).

    Takes one float32 matrix product, then ``O(b)`` for each round, without a solver. The pairs are the same
    in every batch.
    """

    config: SwapsConfig

    def assign(self, images: Tensor, noise: Tensor) -> Tensor:
        draws = generator(CPU, self.config.seed, "meetings")
        rounds, half = self.config.rounds, len(images) // 2
        orders = torch.rand(rounds, len(images), generator=draws).argsort(1)
        meetings = orders[:, : 2 * half].view(rounds, 2, half)
        return swapped(images, noise, meetings.to(images.device))
