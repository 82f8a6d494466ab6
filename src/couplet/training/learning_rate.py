"""Factors on the learning rate, one class per kind."""

from __future__ import annotations

import math
from collections.abc import Callable

from couplet.config.recipes import ConstantRateConfig, CosineConfig, InverseSqrtConfig, LearningRateConfig
from couplet.config.variants import build


class Constant:
    """1 at every step."""

    def __init__(self, config: ConstantRateConfig, *, total_steps: int) -> None:
        pass

    def __call__(self, step: int) -> float:
        return 1.0


class InverseSqrt:
    """``1/sqrt(max(k/reference, 1))`` at 0-based step k (EDM2)."""

    def __init__(self, config: InverseSqrtConfig, *, total_steps: int) -> None:
        self.reference = config.reference

    def __call__(self, step: int) -> float:
        return 1 / math.sqrt(max(step / self.reference, 1))


class Cosine:
    """1 up to ``flat`` K, then ``floor + (1 - floor)(1 + cos(pi u))/2`` with u from 0 to 1."""

    def __init__(self, config: CosineConfig, *, total_steps: int) -> None:
        self.config, self.total_steps = config, total_steps

    def __call__(self, step: int) -> float:
        flat, floor = self.config.flat, self.config.floor
        progress = max(0.0, (step / self.total_steps - flat) / (1 - flat))
        return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2


def learning_rate_factor(config: LearningRateConfig, total_steps: int) -> Callable[[int], float]:
    """The configured factor times the linear warm-up, in [0, 1], at 0-based step k of ``total_steps``."""
    decay = build(config, total_steps=total_steps)

    def factor(step: int) -> float:
        rate: float = decay(step)
        return rate * min(1.0, (step + 1) / config.warmup) if config.warmup else rate

    return factor
