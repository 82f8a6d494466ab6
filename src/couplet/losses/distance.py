"""Distances between the student's and the teacher's answer, one number per image."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from couplet.config.recipes import DistanceConfig, ElementwisePseudoHuber, PseudoHuber, SquaredL2

Distance = Callable[[Tensor, Tensor], Tensor]
"""Maps two batches [b, ...] of the same shape to distances >= 0 of shape [b]."""


def ict_c(values: int) -> float:
    """``c = 0.00054 sqrt(D)`` for D values per image (iCT, on pseudo-Huber)."""
    return 0.00054 * math.sqrt(values)


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
    """``sum_j sqrt((a_j - b_j)² + c²) - c`` per image, [b]: what VCT's iCT code computes.

    Not the paper's distance: up to sqrt(D) times larger, and L1-like instead of L2-like. c = 0 is L1.
    """
    if c == 0:
        return (a - b).abs().flatten(1).sum(1)
    return (torch.sqrt((a - b).flatten(1).square() + c**2) - c).sum(1)


def build(config: DistanceConfig, values: int) -> Distance:
    """The configured distance for images of ``values`` = c h w values.

    Raises:
        TypeError: no distance is known for the configuration's class.
    """
    if isinstance(config, SquaredL2):
        return squared_l2
    if isinstance(config, PseudoHuber | ElementwisePseudoHuber):
        c = ict_c(values) if config.c is None else config.c
        norm = isinstance(config, PseudoHuber)
        return lambda a, b: (pseudo_huber if norm else elementwise_pseudo_huber)(a, b, c)
    raise TypeError(f"no distance for {type(config).__name__}")
