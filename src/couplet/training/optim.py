"""Optimisers and learning rates, from torch and lion-pytorch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from couplet.config.recipes import (
    Adam,
    Cosine,
    InverseSqrt,
    LearningRateConfig,
    Lion,
    OptimizerConfig,
    RAdam,
)
from couplet.errors import UserError


def build_optimizer(config: OptimizerConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The configured optimiser.

    Raises:
        UserError: the recipe wants Lion and lion-pytorch is not installed.
        TypeError: no optimiser is known for the configuration's class.
    """
    settings: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if isinstance(config, RAdam | Adam):
        kind = torch.optim.RAdam if isinstance(config, RAdam) else torch.optim.Adam
        # One call for all tensors instead of one each.
        return kind(parameters, betas=(config.betas[0], config.betas[1]), foreach=True, **settings)
    if isinstance(config, Lion):
        try:
            from lion_pytorch import Lion as LionOptimizer
        except ModuleNotFoundError:
            raise UserError(
                "optimizer.kind = lion: lion-pytorch is not installed; pip install 'couplet[lion]'"
            ) from None
        return LionOptimizer(parameters, betas=(config.betas[0], config.betas[1]), **settings)
    raise TypeError(f"no optimiser for {type(config).__name__}")


def learning_rate_factor(config: LearningRateConfig, step: int, total_steps: int) -> float:
    """Factor on the learning rate at 0-based step k of K, in [0, 1].

    inverse_sqrt (EDM2): ``1/sqrt(max(k/reference, 1))``. cosine: 1 up to ``flat`` K, then
    ``floor + (1 - floor)(1 + cos(pi u))/2`` with u from 0 to 1. Warm-up multiplies by
    (k + 1)/warmup.
    """
    factor = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    if isinstance(config, InverseSqrt):
        factor /= math.sqrt(max(step / config.reference, 1))
    if isinstance(config, Cosine):
        done = max(0.0, (step / total_steps - config.flat) / (1 - config.flat))
        factor *= config.floor + (1 - config.floor) * (1 + math.cos(math.pi * done)) / 2
    return factor
