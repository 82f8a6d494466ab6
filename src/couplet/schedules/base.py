"""Interface of schedules: how a training step draws its two noise levels."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from couplet.config.recipes import ScheduleConfig


def lognormal_levels(normal: Tensor, config: ScheduleConfig, max_level: float) -> Tensor:
    """``t = exp(p_std n + p_mean)`` of standard normal draws n [n], at most ``max_level`` (ECT)."""
    t = (config.p_std * normal + config.p_mean).exp()
    return t.clamp(max=max_level) if math.isfinite(max_level) else t


class Schedule(ABC):
    """Draws the noise levels t > r of a step: t of the student, r of the teacher.

    Attributes:
        config: the settings.
        sigma_min: lowest noise level of the recipe.
        sigma_max: highest noise level of the recipe.
        max_level: largest t for which the kernel is defined; may be infinite.
        total_steps: number of training steps K.
        reaches_zero: whether r can be 0, where the target is the data endpoint.
    """

    reaches_zero: bool = True

    def __init__(
        self, config: Any, *, sigma_min: float, sigma_max: float, max_level: float, total_steps: int
    ) -> None:
        self.config, self.total_steps = config, total_steps
        self.sigma_min, self.sigma_max, self.max_level = sigma_min, sigma_max, max_level

    @abstractmethod
    def draw_pair(self, step: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``n`` independent pairs (t, r), float32 [n] on the generator's device, t > r >= 0.

        ``step`` is the 0-based training step k.
        """

    @abstractmethod
    def last_pair(self, step: int) -> tuple[float, float]:
        """The pair (sigma_max, r) at the top of the range, whose weight scales a coupling's penalty."""

    def coupling_level(self, t: Tensor, r: Tensor) -> Tensor:
        """The noise level [n] at which a coupling makes a pair for the levels t and r; r by default."""
        return r

    @abstractmethod
    def curriculum(self, step: int) -> int:
        """State of the curriculum for the log: number of noise levels N(k), or the stage."""
