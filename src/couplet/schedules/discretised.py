"""iCT: noise levels are neighbours on a grid that becomes finer during training."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from couplet.config.recipes import DiscretisedConfig
from couplet.schedules.base import Schedule

Curriculum = Literal["exponential", "square_root", "constant"]


def grid_points(step: int, total_steps: int, *, s0: int, s1: int, curriculum: Curriculum) -> int:
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
        # A run has a handful of grids.
        self.grid = lru_cache(lambda n: sigma_grid(n, self.sigma_min, self.sigma_max, config.rho))
        self.probabilities = lru_cache(self._probabilities)

    def _probabilities(self, n: int) -> Tensor:
        if self.config.levels == "uniform":
            return torch.full((n - 1,), 1 / (n - 1), dtype=torch.float64)
        return lognormal_probabilities(self.grid(n), self.config.p_mean, self.config.p_std)

    def curriculum(self, step: int) -> int:
        config = self.config
        return grid_points(step, self.total_steps, s0=config.s0, s1=config.s1, curriculum=config.curriculum)

    def pair_at(self, step: int, interval: Tensor) -> tuple[Tensor, Tensor]:
        """(t, r) of the given intervals i [n] in [0, N(k) - 2], float32 [n]."""
        grid = self.grid(self.curriculum(step)).to(interval.device, torch.float32)
        return grid[interval + 1], grid[interval]

    def draw_pair(self, step: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        probabilities = self.probabilities(self.curriculum(step)).to(generator.device)
        interval = torch.multinomial(probabilities, n, replacement=True, generator=generator)
        return self.pair_at(step, interval)

    def last_pair(self, step: int) -> tuple[float, float]:
        grid = self.grid(self.curriculum(step))
        return float(grid[-1]), float(grid[-2])
