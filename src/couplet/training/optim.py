"""Optimisers, from torch and lion-pytorch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from couplet.config.recipes import AdamConfig, LionConfig, OptimizerConfig, RAdamConfig
from couplet.config.variants import build


def build_optimizer(config: OptimizerConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Build the configured optimiser over one flat tensor of all parameters.

    Every update rule here is elementwise, so the result is the same as tensor by tensor, in a few calls
    instead of a few for each of hundreds of tensors. A parameter without gradient counts as one whose
    gradient is zero. The model sets gradients to zero.

    Raises:
        UserError: the optimiser cannot be imported, or a package that it needs is not installed.
    """
    parts: list[Tensor] = list(parameters)
    whole = nn.Parameter(torch.cat([part.detach().flatten() for part in parts]))
    optimizer: torch.optim.Optimizer = build(config, whole)
    views = [view.view_as(part) for view, part in zip(_split(whole, parts), parts, strict=True)]

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


def _split(whole: Tensor, parts: list[Tensor]) -> tuple[Tensor, ...]:
    """Split a flat tensor of all parts into the parts, each flat."""
    return whole.detach().split([part.numel() for part in parts])


def radam(config: RAdamConfig, weights: nn.Parameter) -> torch.optim.Optimizer:
    """Rectified Adam."""
    return torch.optim.RAdam(
        [weights], config.lr, _pair(config.betas), weight_decay=config.weight_decay, foreach=True
    )


def adam(config: AdamConfig, weights: nn.Parameter) -> torch.optim.Optimizer:
    """Adam."""
    return torch.optim.Adam(
        [weights], config.lr, _pair(config.betas), weight_decay=config.weight_decay, foreach=True
    )


def lion(config: LionConfig, weights: nn.Parameter) -> torch.optim.Optimizer:
    """Lion, from lion-pytorch."""
    from lion_pytorch import Lion

    return Lion([weights], config.lr, config.betas, weight_decay=config.weight_decay)


def _pair(betas: Sequence[float]) -> tuple[float, float]:
    first, second = betas
    return first, second
