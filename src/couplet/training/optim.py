"""Optimisers, from torch and lion-pytorch, and the learning rate."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from couplet.config.recipes import (
    AdamConfig,
    ConstantRateConfig,
    CosineConfig,
    InverseSqrtConfig,
    LearningRateConfig,
    LionConfig,
    OptimizerConfig,
    RAdamConfig,
)
from couplet.config.variants import build


def build_optimizer(config: OptimizerConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Build the configured optimiser over one flat tensor of all parameters.

    Every update rule here is elementwise, so the result is the same as tensor by tensor, in a few calls
    instead of a few for each of hundreds of tensors. A parameter without gradient counts as one whose
    gradient is zero. The model sets gradients to zero.

    Raises:
        UserError: a package that it needs is not installed.
    """
    parts: list[Tensor] = list(parameters)
    whole = nn.Parameter(torch.cat([part.detach().flatten() for part in parts]))
    optimizer: torch.optim.Optimizer = build(config, whole)
    pieces = whole.detach().split([part.numel() for part in parts])
    views = [piece.view_as(part) for piece, part in zip(pieces, parts, strict=True)]

    def gather(*context: Any) -> None:
        torch.cat([part.detach().flatten() for part in parts], out=whole.detach())
        grads = [torch.zeros_like(part) if part.grad is None else part.grad for part in parts]
        whole.grad = torch.cat([grad.flatten() for grad in grads])

    @torch.no_grad()
    def scatter(*context: Any) -> None:
        for part, view in zip(parts, views, strict=True):
            part.copy_(view)
        whole.grad = None

    optimizer.register_step_pre_hook(gather)
    optimizer.register_step_post_hook(scatter)
    return optimizer


def radam(config: RAdamConfig, weights: nn.Parameter) -> torch.optim.Optimizer:
    """Rectified Adam."""
    return _uncompiled(torch.optim.RAdam)([weights], **_settings(config), foreach=True)


def adam(config: AdamConfig, weights: nn.Parameter) -> torch.optim.Optimizer:
    """Adam."""
    return _uncompiled(torch.optim.Adam)([weights], **_settings(config), foreach=True)


def lion(config: LionConfig, weights: nn.Parameter) -> torch.optim.Optimizer:
    """Lion, from lion-pytorch."""
    from lion_pytorch import Lion

    return _uncompiled(Lion)([weights], **_settings(config))


def _uncompiled(kind: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """A class of optimisers without what keeps it out of a graph of torch.compile, in which it never is here.

    That would import torch._dynamo, which takes a second.
    """
    names = ("add_param_group", "load_state_dict", "state_dict", "step")
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    return type(kind.__name__, (kind,), {**methods, "step": torch.no_grad()(methods["step"])})


def _settings(config: RAdamConfig | AdamConfig | LionConfig) -> dict[str, Any]:
    return {"lr": config.lr, "betas": config.betas, "weight_decay": config.weight_decay}


Factor = Callable[[int], float]
"""Factor on the learning rate at 0-based step k."""


def constant(config: ConstantRateConfig, *, total_steps: int) -> Factor:
    """1 at every step."""
    return lambda step: 1.0


def inverse_sqrt(config: InverseSqrtConfig, *, total_steps: int) -> Factor:
    """``1/sqrt(max(k/reference, 1))`` (EDM2)."""
    return lambda step: 1 / math.sqrt(max(step / config.reference, 1))


def cosine(config: CosineConfig, *, total_steps: int) -> Factor:
    """1 up to ``flat`` K, then ``floor + (1 - floor)(1 + cos(pi u))/2`` with u from 0 to 1."""

    def factor(step: int) -> float:
        progress = max(0.0, (step / total_steps - config.flat) / (1 - config.flat))
        return config.floor + (1 - config.floor) * (1 + math.cos(math.pi * progress)) / 2

    return factor


def learning_rate_factor(config: LearningRateConfig, total_steps: int) -> Factor:
    """The configured factor times the linear warm-up, in [0, 1], of ``total_steps`` steps."""
    decay: Factor = build(config, total_steps=total_steps)
    return lambda step: decay(step) * min(1.0, (step + 1) / config.warmup) if config.warmup else decay(step)
