"""Weights of pairs of noise levels, and the scale that they imply for a coupling's penalty."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from couplet.config.recipes import WeightingConfig


class Weighting(ABC):
    """Positive weights [b] of noise levels t > r >= 0 [b]."""

    def __init__(self, config: WeightingConfig, *, sigma_data: float) -> None:
        self.config, self.sigma_data = config, sigma_data

    @abstractmethod
    def __call__(self, t: Tensor, r: Tensor) -> Tensor:
        """The weight of each pair."""

    def penalty_scale(self, t: float, r: float) -> float:
        """Factor on a coupling's penalty when (t, r) is the schedule's last pair; 1 by default."""
        return 1.0


class InverseGap(Weighting):
    """``1/(t - r)`` (iCT, ECT)."""

    def __call__(self, t: Tensor, r: Tensor) -> Tensor:
        return 1 / (t - r)

    def penalty_scale(self, t: float, r: float) -> float:
        """The weight of the last pair: VCT scales its KL term by it, so that it grows with the curriculum."""
        return 1 / (t - r)


class Karras(Weighting):
    """``1/t² + 1/sigma_data²``, EDM's weight (ECT and VCT on ImageNet)."""

    def __call__(self, t: Tensor, r: Tensor) -> Tensor:
        return 1 / t**2 + 1 / self.sigma_data**2


class Uniform(Weighting):
    """1 (CM; iCT's ablation)."""

    def __call__(self, t: Tensor, r: Tensor) -> Tensor:
        return torch.ones_like(t)
