"""What a schedule is: how a training step draws its two noise levels."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


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

    @abstractmethod
    def fineness(self, step: int) -> int:
        """What the log shows of the schedule's progress: grid points N(k), or the stage."""
