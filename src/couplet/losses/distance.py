"""Distances between the outputs of student and teacher, one number per image."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from couplet.config.recipes import ElementwisePseudoHuberConfig, PseudoHuberConfig, SquaredL2Config

Distance = Callable[[Tensor, Tensor], Tensor]
"""Maps two batches [b, ...] of the same shape to distances >= 0 of shape [b]."""


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


class SquaredL2:
    """``||a - b||²`` per image."""

    def __init__(self, config: SquaredL2Config, *, dimensions: int) -> None:
        pass

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return squared_l2(a, b)


class PseudoHuber:
    """:func:`pseudo_huber` with c from the settings, or iCT's for D = ``dimensions``."""

    def __init__(self, config: PseudoHuberConfig, *, dimensions: int) -> None:
        self.c = ict_c(dimensions) if config.c is None else config.c

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return pseudo_huber(a, b, self.c)


class ElementwisePseudoHuber:
    """:func:`elementwise_pseudo_huber` with c from the settings, or iCT's."""

    def __init__(self, config: ElementwisePseudoHuberConfig, *, dimensions: int) -> None:
        self.c = ict_c(dimensions) if config.c is None else config.c

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return elementwise_pseudo_huber(a, b, self.c)
