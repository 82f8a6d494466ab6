"""Transport by swaps: pairs of images exchange their noise where that lowers the transport cost."""

from __future__ import annotations

import torch
from torch import Tensor

from couplet.config.couplings import SwapsConfig
from couplet.couplings.base import Setting
from couplet.couplings.minibatch import MinibatchCoupling
from couplet.tensors import generator


def swapped(images: Tensor, noise: Tensor, meetings: Tensor) -> Tensor:
    """Swap noise where that lowers the transport cost; returns the permutation pi [b].

    Images i and j exchange their noise if ``(x_i - x_j)·(z_pi(j) - z_pi(i)) > 0``: then
    ``sum_i ||x_i - sigma z_pi(i)||²`` falls, for every sigma > 0.

    Args:
        images: finite, [b, c, h, w].
        noise: finite, [b, c, h, w].
        meetings: candidate pairs, each image at most once per round, [rounds, 2, b // 2].
    """
    gain = images.flatten(1).float() @ noise.flatten(1).float().T
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

    def __init__(self, config: SwapsConfig, setting: Setting) -> None:
        super().__init__(config, setting)
        self.rounds, self.seed = config.rounds, config.seed

    def assign(self, images: Tensor, noise: Tensor) -> Tensor:
        draws = generator(torch.device("cpu"), self.seed, "meetings")
        half = len(images) // 2
        orders = torch.rand(self.rounds, len(images), generator=draws).argsort(1)
        meetings = orders[:, : 2 * half].view(self.rounds, 2, half)
        return swapped(images, noise, meetings.to(images.device))
