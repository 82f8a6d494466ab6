"""Running averages of the weights, with each paper's decay."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from functools import partial

import numpy as np
from torch.optim.swa_utils import get_ema_multi_avg_fn

from couplet.config.recipes import (
    ConstantEMAConfig,
    EMAPyTorchConfig,
    PowerEMAConfig,
    WarmupEMAConfig,
)
from couplet.model import ConsistencyModel
from couplet.schedules import Discretised

Decay = Callable[[int], float]
"""Weight of the old average at the 0-based update n: ``ema = decay ema + (1 - decay) net``."""


def constant(config: ConstantEMAConfig) -> Decay:
    """``beta`` at every update (iCT, ECT, VCT)."""
    return lambda n: config.beta


def warmup(config: WarmupEMAConfig) -> Decay:
    """``min(beta, (1 + n)/(10 + n))``: short runs forget their first steps."""
    return lambda n: min(config.beta, (1 + n) / (10 + n))


def power_exponent(std: float) -> float:
    """gamma of the power-function average with relative width ``std`` (EDM2, Eq. 126 and Alg. 2).

    The largest real root of ``g³ + 7 g² + (16 - std⁻²) g + (12 - std⁻²)``.
    """
    roots = np.roots([1, 7, 16 - std**-2, 12 - std**-2])
    return float(roots.real.max())


def power_decay(n: int, gamma: float) -> float:
    """``(1 - 1/(n + 1))^(gamma + 1)``, 0 at the first update (EDM2, Eq. 127, a step as unit)."""
    return (1 - 1 / (n + 1)) ** (gamma + 1)


def power(config: PowerEMAConfig) -> Decay:
    """:func:`power_decay` of a relative width; with ``inverted`` its complement, as in VCT's code."""
    decay = partial(power_decay, gamma=power_exponent(config.std))
    return (lambda n: 1 - decay(n)) if config.inverted else decay


def ema_pytorch_ramp(n: int, beta: float) -> float:
    """``min(beta, 1 - (1 + n)^(-2/3))``, 0 for n <= 0: decay n updates after the last copy."""
    return min(beta, 1 - (1 + n) ** (-2 / 3)) if n > 0 else 0.0


def ema_pytorch(config: EMAPyTorchConfig) -> Decay:
    """ema-pytorch 0.2.3 with its defaults, as GC uses it: beta is never reached in practice.

    1 (no update) unless n is a multiple of ``every``; 0 (a copy) up to ``start`` and at the
    first update after it; then :func:`ema_pytorch_ramp` of ``n - start``.
    """
    first = (config.start // config.every + 1) * config.every

    def decay(n: int) -> float:
        if n % config.every:
            return 1.0
        return 0.0 if n <= first else ema_pytorch_ramp(n - config.start, config.beta)

    return decay


def target(mu0: float, schedule: Discretised) -> Decay:
    """``mu(k) = exp(s0 ln mu0 / N(k))`` at step k, the decay of CM's target average (CM, Appendix C)."""
    return lambda k: math.exp(schedule.config.s0 * math.log(mu0) / schedule.curriculum(k))


class Average:
    """Running average of a model's parameters after a number of ``updates``, in evaluation mode.

    Buffers stay as copied, since no network changes them.
    """

    def __init__(self, model: ConsistencyModel, decay: Decay) -> None:
        self.module = deepcopy(model).requires_grad_(False).eval()
        self.decay = decay
        self.updates = 0

    def update(self, model: ConsistencyModel) -> None:
        """Move the average towards the parameters of ``model``; does not synchronise with the device."""
        decay = self.decay(self.updates)
        if decay < 1:
            average, current = list(self.module.parameters()), list(model.parameters())
            get_ema_multi_avg_fn(decay)(average, current, self.updates)
        self.updates += 1
