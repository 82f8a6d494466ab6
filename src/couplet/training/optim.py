"""Optimisers and learning rates, from torch and lion-pytorch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

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
    """The configured optimiser, of one tensor that holds all parameters end to end while it steps.

    Every rule here acts on each value by itself, so that the outcome is the same as tensor by tensor, in a
    few calls instead of a few for each of hundreds. A parameter without gradient counts as one whose
    gradient is zero. Gradients are the model's to put to zero.

    Raises:
        UserError: the recipe wants Lion and lion-pytorch is not installed.
        TypeError: no optimiser is known for the configuration's class.
    """
    parts: list[Tensor] = list(parameters)
    whole = nn.Parameter(torch.cat([part.detach().flatten() for part in parts]))
    optimizer = _optimizer(config, whole)
    views = [view.view_as(part) for view, part in zip(_split(whole, parts), parts, strict=True)]

    def gather(*context: Any) -> None:
        torch.cat([part.detach().flatten() for part in parts], out=whole.detach())
        grads = [torch.zeros_like(part) if part.grad is None else part.grad for part in parts]
        whole.grad = torch.cat([grad.flatten() for grad in grads])

    @torch.no_grad()
    def scatter(*context: Any) -> None:
        torch._foreach_copy_(parts, views)
        whole.grad = None

    optimizer.register_step_pre_hook(gather)
    optimizer.register_step_post_hook(scatter)
    return optimizer


def _split(whole: Tensor, parts: list[Tensor]) -> tuple[Tensor, ...]:
    """The pieces of a tensor that holds all parts end to end."""
    return whole.detach().split([part.numel() for part in parts])


def _optimizer(config: OptimizerConfig, whole: nn.Parameter) -> torch.optim.Optimizer:
    settings: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if isinstance(config, RAdam | Adam):
        kind = torch.optim.RAdam if isinstance(config, RAdam) else torch.optim.Adam
        return kind([whole], betas=(config.betas[0], config.betas[1]), foreach=True, **settings)
    if isinstance(config, Lion):
        try:
            from lion_pytorch import Lion as LionOptimizer
        except ModuleNotFoundError:
            raise UserError(
                "optimizer.kind = lion: lion-pytorch is not installed; pip install 'couplet[lion]'"
            ) from None
        return LionOptimizer([whole], betas=(config.betas[0], config.betas[1]), **settings)
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
