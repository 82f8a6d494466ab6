"""Variance exploding: noise is added to an untouched image (EDM, iCT, ECT, GC)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from couplet.kernels.base import Kernel


class VarianceExploding(Kernel):
    """``x_t = x + t z``."""

    @property
    def max_level(self) -> float:
        return math.inf

    def signal(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def shifted_signal(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)
