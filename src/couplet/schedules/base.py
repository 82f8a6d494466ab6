"""What a schedule is: how a training step draws its two noise levels."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from couplet.config.recipes import ScheduleConfig


def lognormal_levels(normal: Tensor, config: ScheduleConfig, max_level: float) -> Tensor:
    """``t = exp(p_std n + p_mean)`` of standard normal draws n [n], at most ``max_level`` (ECT)."""
    t = (config.p_std * normal + config.p_mean).exp()
    return t.clamp(max=max_level) if math.isfinite(max_level) else t


class Schedule(ABC):
    """Draws the noise levels t > r of a step: t of the student, r of the teacher."""

    @abstractmethod
    def draw_pair(self, step: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``n`` independent pairs (t, r), float32 [n] on the generator's device, t > r >= 0.

        ``step`` is the 0-based training step k.
        """

    @abstractmethod
    def last_pair(self, step: int) -> tuple[float, float]:
        """The pair (sigma_max, r) at the top of the range, whose weight scales a coupling's penalty."""

    def coupling_level(self, t: Tensor, r: Tensor) -> Tensor:
        """The level [n] at which a coupling makes the pair of the levels t and r: r."""
        return r

    @abstractmethod
    def fineness(self, step: int) -> int:
        """What the log shows of the schedule's progress: grid points N(k), or the stage."""
