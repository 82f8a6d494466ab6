"""Running averages of the weights: each paper's decay, in torch's own container."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim.swa_utils import AveragedModel

from couplet.config.recipes import GCEMA, ConstantEMA, EMAConfig, PowerEMA, WarmupEMA

Decay = Callable[[int], float]
"""Weight of the old average at the 0-based update n: ``ema = decay ema + (1 - decay) net``."""


def warmup_decay(n: int, beta: float) -> float:
    """``min(beta, (1 + n)/(10 + n))``: short trainings forget their first steps."""
    return min(beta, (1 + n) / (10 + n))


def power_exponent(std: float) -> float:
    """gamma of the power-function average with relative width ``std`` (EDM2, Eq. 126 and Alg. 2).

    The largest real root of ``g³ + 7 g² + (16 - std⁻²) g + (12 - std⁻²)``.
    """
    roots = np.roots([1, 7, 16 - std**-2, 12 - std**-2])
    return float(roots.real.max())


def power_std(gamma: float) -> float:
    """The inverse of :func:`power_exponent`: ``sqrt((g + 1)/((g + 2)² (g + 3)))`` (EDM2, Eq. 123)."""
    return math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))


def power_decay(n: int, gamma: float) -> float:
    """``(1 - 1/(n + 1))^(gamma + 1)``, 0 at the first update (EDM2, Eq. 127, a step as unit)."""
    return (1 - 1 / (n + 1)) ** (gamma + 1)


def posthoc_weights(
    stored_at: NDArray[np.float64],
    stored_gamma: NDArray[np.float64],
    wanted_at: NDArray[np.float64],
    wanted_gamma: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Weights that turn stored power-function averages into ones of other widths (EDM2, Alg. 3).

    Args:
        stored_at: when each of n averages was stored, in steps > 0, [n].
        stored_gamma: the exponent of each, [n].
        wanted_at: when the wanted averages end, [m].
        wanted_gamma: the exponent of each, [m].

    Returns:
        Least-squares weights [n, m], each column summing to 1.
    """
    at, gamma = stored_at[:, None], stored_gamma[:, None]

    def products(other_at: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
        """Inner products of the stored averages' profiles, down, with others, across."""
        power = np.where(at < other_at, other, -gamma)
        scale = (gamma + other + 1) * np.maximum(at, other_at)
        return (gamma + 1) * (other + 1) * (at / other_at) ** power / scale

    weights = np.linalg.solve(products(stored_at, stored_gamma), products(wanted_at, wanted_gamma))
    return weights / weights.sum(axis=0)


def ema_pytorch_ramp(n: int, beta: float) -> float:
    """``min(beta, 1 - (1 + n)^(-2/3))``, 0 for n <= 0: decay n updates after the last copy."""
    return min(beta, 1 - (1 + n) ** (-2 / 3)) if n > 0 else 0.0


def ema_pytorch_decay(n: int, beta: float, *, every: int, start: int) -> float:
    """ema-pytorch 0.2.3 with its defaults, as GC uses it: beta is never reached in practice.

    1 (nothing happens) unless n is a multiple of ``every``; 0 (a copy) up to ``start`` and at the
    first update after it; then :func:`ema_pytorch_ramp` of ``n - start``.
    """
    if n % every:
        return 1.0
    first = (start // every + 1) * every
    return 0.0 if n <= first else ema_pytorch_ramp(n - start, beta)


def decay_of(config: EMAConfig) -> Decay:
    """The configured decay.

    Raises:
        TypeError: no decay is known for the configuration's class.
    """
    if isinstance(config, ConstantEMA):
        return lambda n: config.beta
    if isinstance(config, WarmupEMA):
        return lambda n: warmup_decay(n, config.beta)
    if isinstance(config, PowerEMA):
        gamma = power_exponent(config.std)
        if config.inverted:
            return lambda n: 1 - power_decay(n, gamma)
        return lambda n: power_decay(n, gamma)
    if isinstance(config, GCEMA):
        return lambda n: ema_pytorch_decay(n, config.beta, every=config.every, start=config.start)
    raise TypeError(f"no EMA for {type(config).__name__}")


class Average(AveragedModel):
    """torch's container with an update that makes one call and never waits for the device.

    Parameters are averaged; buffers stay as they were copied, as no network here changes one.
    """

    def __init__(self, model: nn.Module, decay: Decay) -> None:
        super().__init__(model)
        self.decay = decay
        # AveragedModel copies at update 0; our decays decide that themselves, so its count starts at 1.
        self.n_averaged.fill_(1)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Moves the average towards the parameters of ``model``."""
        beta = self.decay(int(self.n_averaged) - 1)
        if beta < 1:
            torch._foreach_lerp_(list(self.module.parameters()), list(model.parameters()), 1 - beta)
        self.n_averaged += 1


def averaged(model: nn.Module, config: EMAConfig) -> Average:
    """A running average of ``model``: at first its copy, in evaluation mode, without gradients."""
    average = Average(model, decay_of(config))
    average.requires_grad_(False).eval()
    return average
