"""The loss of a pair: a distance per image, and the weight of its noise levels."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from couplet.config.recipes import (
    DistanceConfig,
    ElementwisePseudoHuberConfig,
    PseudoHuberConfig,
    WeightingConfig,
)


def ict_c(dimensions: int) -> float:
    """``c = 0.00054 sqrt(D)`` for images of D dimensions (iCT)."""
    return 0.00054 * math.sqrt(dimensions)


def squared_l2(a: Tensor, b: Tensor) -> Tensor:
    """``||a - b||²`` per image, [b]."""
    return (a - b).flatten(1).square().sum(1)


def pseudo_huber(a: Tensor, b: Tensor, c: float) -> Tensor:
    """``sqrt(||a - b||² + c²) - c`` per image, [b] (iCT; ECT's distance with explicit c).

    c = 0 is the norm, with subgradient 0 where a = b.
    """
    if c == 0:
        return torch.linalg.vector_norm((a - b).flatten(1), dim=1)
    return torch.sqrt(squared_l2(a, b) + c**2) - c


def elementwise_pseudo_huber(a: Tensor, b: Tensor, c: float) -> Tensor:
    """``sum_j sqrt((a_j - b_j)² + c²) - c`` per image, [b], as in VCT's iCT code.

    Not the paper's distance: up to sqrt(D) times larger, and L1-like instead of L2-like. c = 0 is L1.
    """
    if c == 0:
        return (a - b).abs().flatten(1).sum(1)
    return (torch.sqrt((a - b).flatten(1).square() + c**2) - c).sum(1)


Distance = Callable[[Tensor, Tensor], Tensor]
"""Maps two batches [b, ...] of the same shape to distances >= 0 of shape [b]."""


def squared_l2_of(config: DistanceConfig, *, dimensions: int) -> Distance:
    """:func:`squared_l2`."""
    return squared_l2


def pseudo_huber_of(config: PseudoHuberConfig, *, dimensions: int) -> Distance:
    """:func:`pseudo_huber` with c from the settings, or iCT's for D = ``dimensions``."""
    return partial(pseudo_huber, c=ict_c(dimensions) if config.c is None else config.c)


def elementwise_pseudo_huber_of(config: ElementwisePseudoHuberConfig, *, dimensions: int) -> Distance:
    """:func:`elementwise_pseudo_huber` with the same c."""
    return partial(elementwise_pseudo_huber, c=ict_c(dimensions) if config.c is None else config.c)


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
