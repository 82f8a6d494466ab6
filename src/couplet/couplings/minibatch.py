"""Couplings that permute the noise of a batch among its images."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from couplet.config.couplings import MinibatchCouplingConfig
from couplet.couplings.base import Coupling, Pair, Setting


class MinibatchCoupling(Coupling):
    """Permutes noise within each part of the batch; images stay in place with their labels.

    A permutation uses each noise once, so the batch's noise stays the standard normal sample that was drawn.
    Subclasses define the permutation: :meth:`assign`.
    """

    joint_images = True

    def __init__(self, config: MinibatchCouplingConfig, setting: Setting) -> None:
        super().__init__()
        self.parts = config.parts
        self.joint_samples = config.sampling_group if config.recouple_when_sampling else None

    @abstractmethod
    def assign(self, images: Tensor, noise: Tensor) -> Tensor:
        """The permutation pi [b]: image i gets noise pi(i). It must depend on its arguments alone.

        Args:
            images: finite, any floating type, [b, c, h, w].
            noise: finite, any floating type, [b, c, h, w].
        """

    @torch.no_grad()
    def deal(self, images: Tensor, noise: Tensor) -> Tensor:
        """Permute the noise into the order of the images that get it, [b, c, h, w].

        Raises:
            ValueError: images or noise are not finite.
        """
        if not (images.isfinite().all() and noise.isfinite().all()):
            raise ValueError("transport cost is not finite: images or noise hold NaN or infinity")
        return noise[self.assign(images, noise)]

    def arrange(self, images: Tensor, noise: Tensor, rows: slice = slice(None)) -> Tensor:
        """Permute the noise within each part of the batch; solve only the parts that contain ``rows``."""
        start, stop, _ = rows.indices(len(images))
        size = len(images) // self.parts
        first = start - start % size
        dealt = []
        for begin in range(first, stop, size):
            part = slice(begin, begin + size)
            dealt.append(self.deal(images[part], noise[part]))
        return torch.cat(dealt)[start - first : stop - first]

    def forward(self, images: Tensor, noise: Tensor, labels: Tensor | None, **context: Any) -> Pair:
        return Pair(images, noise, labels, images.new_zeros(len(images)))

    def renoise(self, images: Tensor, noise: Tensor, labels: Tensor | None) -> Tensor:
        """Noise re-assigned within the group of samples, or as drawn where samples are independent."""
        return self.deal(images, noise) if self.joint_samples else noise
