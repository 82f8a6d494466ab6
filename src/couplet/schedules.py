"""Schedules: how a training step draws its two noise levels t > r."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from couplet.config.recipes import ContinuousConfig, DiscretisedConfig


class Schedule(ABC):
    """Draws the noise levels t > r of a step: t of the student, r of the teacher.

    Args:
        max_level: largest t for which the kernel is defined; may be infinite.
        total_steps: number of training steps K.
    """

    reaches_zero: bool = True
    """Whether r can be 0, where the target is the data endpoint."""

    always_zero: bool = False
    """Whether r is 0 in every pair."""

    def __init__(
        self, config: Any, *, sigma_min: float, sigma_max: float, max_level: float, total_steps: int
    ) -> None:
        self.config, self.total_steps = config, total_steps
        self.sigma_min, self.sigma_max, self.max_level = sigma_min, sigma_max, max_level

    @abstractmethod
    def draw_pair(self, step: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``n`` independent pairs t > r >= 0, float32 [n] on the generator's device, at 0-based step k."""

    @abstractmethod
    def last_pair(self, step: int) -> tuple[float, float]:
        """The pair (sigma_max, r) at the top of the range, whose weight scales a coupling's penalty."""

    def coupling_level(self, t: Tensor, r: Tensor) -> Tensor:
        """The noise level [n] at which a coupling makes a pair for the levels t and r; r by default."""
        return r

    @abstractmethod
    def curriculum(self, step: int) -> int:
        """State of the curriculum for the log: number of noise levels N(k), or the stage."""


def grid_points(step: int, total_steps: int, *, s0: int, s1: int, curriculum: str) -> int:
    """N(k), the number of noise levels on the grid at 0-based step k of K.

    exponential (iCT, the discretisation curriculum): ``min(s0 2^floor(k/K'), s1) + 1`` with
    ``K' = floor(K / (log2(floor(s1/s0)) + 1))``, at least 1 so that very short runs work too.
    square_root (CM, App. C): ``ceil(sqrt(k/K ((s1 + 1)² - s0²) + s0²) - 1) + 1``. constant: ``s1 + 1``.
    Never fewer than 2, the ends of one interval.
    """
    if curriculum == "constant":
        return s1 + 1
    if curriculum == "square_root":
        return max(2, math.ceil(math.sqrt(step * ((s1 + 1) ** 2 - s0**2) / total_steps + s0**2) - 1) + 1)
    phase = max(1, math.floor(total_steps / (math.log2(s1 // s0) + 1)))
    return min(s0 * 2 ** (step // phase), s1) + 1


def sigma_grid(n: int, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    """The grid of ``n`` noise levels from sigma_min up to sigma_max, float64 [n] (EDM, Eq. 5).

    ``sigma_i = (sigma_min^(1/rho) + i/(n - 1) (sigma_max^(1/rho) - sigma_min^(1/rho)))^rho``.
    """
    ramp = torch.arange(n, dtype=torch.float64) / max(n - 1, 1)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return (low + ramp * (high - low)) ** rho


def karras_level(index: int, count: int, sigma_min: float = 0.002, sigma_max: float = 80.0) -> float:
    """Level ``index`` of ``count`` from sigma_max down to sigma_min, with rho = 7 (EDM, Eq. 5)."""
    high, low = sigma_max ** (1 / 7), sigma_min ** (1 / 7)
    return float((high + index / (count - 1) * (low - high)) ** 7)


def lognormal_probabilities(grid: Tensor, p_mean: float, p_std: float) -> Tensor:
    """The probability of each interval of ``grid`` [n], float64 [n - 1], summing to 1 (iCT).

    ``p(i) ∝ erf((ln sigma_{i+1} - p_mean)/(sqrt2 p_std)) - erf((ln sigma_i - p_mean)/(sqrt2 p_std))``.
    """
    mass = torch.erf((grid.log() - p_mean) / (math.sqrt(2) * p_std)).diff()
    return mass / mass.sum()


class Discretised(Schedule):
    """r = sigma_i and t = sigma_{i+1} of the current grid, with i drawn from the interval's probability."""

    config: DiscretisedConfig
    reaches_zero = False

    def __init__(self, config: DiscretisedConfig, **context: Any) -> None:
        super().__init__(config, **context)
        # A run has a handful of grids. A step copies nothing to a GPU, because it would wait for the copy.
        self.grid = lru_cache(lambda n: sigma_grid(n, self.sigma_min, self.sigma_max, config.rho))
        self.levels = lru_cache(lambda n, device: self.grid(n).to(device, torch.float32))
        self.probabilities = lru_cache(lambda n, device: self._probabilities(n).to(device))

    def _probabilities(self, n: int) -> Tensor:
        if self.config.levels == "uniform":
            return torch.full((n - 1,), 1 / (n - 1), dtype=torch.float64)
        return lognormal_probabilities(self.grid(n), self.config.p_mean, self.config.p_std)

    def curriculum(self, step: int) -> int:
        config = self.config
        return grid_points(step, self.total_steps, s0=config.s0, s1=config.s1, curriculum=config.curriculum)

    def pair_at(self, step: int, interval: Tensor) -> tuple[Tensor, Tensor]:
        """(t, r) of the given intervals i [n] in [0, N(k) - 2], float32 [n]."""
        levels = self.levels(self.curriculum(step), interval.device)
        return levels[interval + 1], levels[interval]

    def draw_pair(self, step: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        probabilities = self.probabilities(self.curriculum(step), generator.device)
        interval = torch.multinomial(probabilities, n, replacement=True, generator=generator)
        return self.pair_at(step, interval)

    def last_pair(self, step: int) -> tuple[float, float]:
        grid = self.grid(self.curriculum(step))
        return float(grid[-1]), float(grid[-2])


def stage_of(step: int, total_steps: int, stages: int) -> int:
    """The 0-based stage of 0-based step k: ``floor(k / (K/stages))``."""
    return int(step // (total_steps / stages))


def sigmoid_mapping(t: Tensor, stage: int, *, q: float, k: float, b: float) -> Tensor:
    """``r = max(0, t (1 - a(t)/q^(stage + 1)))``, ``a(t) = 1 + k sigmoid(-b t)`` (ECT)."""
    return (t * (1 - (1 + k * torch.sigmoid(-b * t)) / q ** (stage + 1))).clamp(min=0)


def const_mapping(t: Tensor, stage: int, *, q: float) -> Tensor:
    """``r = t (1 - 1/q^(stage + 1))`` (ECT)."""
    return (t * (1 - 1 / q ** (stage + 1))).clamp(min=0)


class Lognormal(Schedule):
    """``t = exp(p_std n + p_mean)`` with n ~ N(0, 1), at most ``max_level``; subclasses define r."""

    @abstractmethod
    def r_of(self, t: Tensor, step: int) -> Tensor:
        """The teacher's level for each t, same shape, 0 <= r < t."""

    def pair_at(self, step: int, normal: Tensor) -> tuple[Tensor, Tensor]:
        """(t, r) of the given standard normal draws [n]."""
        t = (self.config.p_std * normal + self.config.p_mean).exp()
        if math.isfinite(self.max_level):
            t = t.clamp(max=self.max_level)
        return t, self.r_of(t, step)

    def draw_pair(self, step: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return self.pair_at(step, torch.randn(n, generator=generator, device=generator.device))

    def last_pair(self, step: int) -> tuple[float, float]:
        top = torch.tensor(self.sigma_max, dtype=torch.float64)
        return self.sigma_max, float(self.r_of(top, step))


class Continuous(Lognormal):
    """r = mapping(t), whose gap shrinks stage by stage (ECT/ECM)."""

    config: ContinuousConfig

    def curriculum(self, step: int) -> int:
        return stage_of(step, self.total_steps, self.config.stages)

    def r_of(self, t: Tensor, step: int) -> Tensor:
        config, stage = self.config, self.curriculum(step)
        if config.mapping == "const":
            return const_mapping(t, stage, q=config.q)
        return sigmoid_mapping(t, stage, q=config.q, k=config.k, b=config.b)


class Denoising(Lognormal):
    """r = 0: the target is the data endpoint (EDM).

    The consistency loss is then ``w(t, 0) d(f(x_t, t), x)``; for squared d its minimiser is E[x | x_t].
    """

    always_zero = True

    def curriculum(self, step: int) -> int:
        return 0

    def r_of(self, t: Tensor, step: int) -> Tensor:
        return torch.zeros_like(t)

    def coupling_level(self, t: Tensor, r: Tensor) -> Tensor:
        """t, because at r = 0 a generator-induced data endpoint would be the image itself."""
        return t
