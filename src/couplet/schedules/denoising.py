"""Noise levels of a denoiser: t is lognormal and the target is the data endpoint."""

from __future__ import annotations

import torch
from torch import Tensor

from couplet.config.recipes import DenoisingConfig
from couplet.schedules.base import Schedule, lognormal_levels


class Denoising(Schedule):
    """``t = exp(p_std n + p_mean)`` with n ~ N(0, 1), at most ``max_level``, and r = 0 (EDM).

    The consistency loss is then ``w(t, 0) d(f(x_t, t), x)``; for squared d its minimiser is E[x | x_t].
    """

    config: DenoisingConfig

    def curriculum(self, step: int) -> int:
        return 0

    def pair_at(self, step: int, normal: Tensor) -> tuple[Tensor, Tensor]:
        """(t, 0) of the given standard normal draws [n]."""
        t = lognormal_levels(normal, self.config, self.max_level)
        return t, torch.zeros_like(t)

    def draw_pair(self, step: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return self.pair_at(step, torch.randn(n, generator=generator, device=generator.device))

    def coupling_level(self, t: Tensor, r: Tensor) -> Tensor:
        """t, because at r = 0 a generator-induced data endpoint would be the image itself."""
        return t

    def last_pair(self, step: int) -> tuple[float, float]:
        return self.sigma_max, 0.0
