"""ECT/ECM: t is lognormal and determines r; the gap shrinks stage by stage."""

from __future__ import annotations

import torch
from torch import Tensor

from couplet.config.recipes import ContinuousConfig
from couplet.schedules.base import Schedule, lognormal_levels


def stage_of(step: int, total_steps: int, stages: int) -> int:
    """The 0-based stage of 0-based step k: ``floor(k / (K/stages))``."""
    return int(step // (total_steps / stages))


def sigmoid_mapping(t: Tensor, stage: int, *, q: float, k: float, b: float) -> Tensor:
    """``r = max(0, t (1 - a(t)/q^(stage + 1)))``, ``a(t) = 1 + k sigmoid(-b t)`` (ECT)."""
    return (t * (1 - (1 + k * torch.sigmoid(-b * t)) / q ** (stage + 1))).clamp(min=0)


def const_mapping(t: Tensor, stage: int, *, q: float) -> Tensor:
    """``r = t (1 - 1/q^(stage + 1))`` (ECT)."""
    return (t * (1 - 1 / q ** (stage + 1))).clamp(min=0)


class Continuous(Schedule):
    """``t = exp(p_std n + p_mean)`` with n ~ N(0, 1), at most ``max_level``, and r = mapping(t)."""

    config: ContinuousConfig

    def curriculum(self, step: int) -> int:
        return stage_of(step, self.total_steps, self.config.stages)

    def r_of(self, t: Tensor, step: int) -> Tensor:
        """The teacher's level for each t, same shape, 0 <= r < t."""
        config, stage = self.config, self.curriculum(step)
        if config.mapping == "const":
            return const_mapping(t, stage, q=config.q)
        return sigmoid_mapping(t, stage, q=config.q, k=config.k, b=config.b)

    def pair_at(self, step: int, normal: Tensor) -> tuple[Tensor, Tensor]:
        """(t, r) of the given standard normal draws [n]."""
        t = lognormal_levels(normal, self.config, self.max_level)
        return t, self.r_of(t, step)

    def draw_pair(self, step: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return self.pair_at(step, torch.randn(n, generator=generator, device=generator.device))

    def last_pair(self, step: int) -> tuple[float, float]:
        top = torch.tensor(self.sigma_max, dtype=torch.float64)
        return self.sigma_max, float(self.r_of(top, step))
