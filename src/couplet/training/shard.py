"""Optimiser state and average divided among the processes of a run (ZeRO, stage 1; `train.shard`).

The optimiser works on one flat list of all weights. Each process updates an equal part of it, with the
moments and the average of that part alone, and sends its new weights to the others. Every update rule is
elementwise, so no number changes. What a run saves is complete, for any number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.optim.swa_utils import get_ema_multi_avg_fn

from couplet.config.cells import Training
from couplet.config.variants import build
from couplet.model import ConsistencyModel
from couplet.ranks import Ranks
from couplet.tensors import CPU
from couplet.training.ema import Average
from couplet.training.state import State


class Parts:
    """The flat list of the numbers in ``tensors``, in equal consecutive parts, one for each rank."""

    def __init__(self, tensors: Sequence[Tensor], ranks: Ranks) -> None:
        self.ranks, self.count = ranks, sum(tensor.numel() for tensor in tensors)
        size = -(-self.count // ranks.size)
        self.bounds = [
            (min(r * size, self.count), min((r + 1) * size, self.count)) for r in range(ranks.size)
        ]

    def pieces(self, tensors: Sequence[Tensor], rank: int) -> Iterator[Tensor]:
        """Views of the numbers of ``tensors`` that a rank's part has, in order."""
        start, stop = self.bounds[rank]
        for tensor in tensors:
            yield tensor.detach().view(-1)[max(start, 0) : max(stop, 0)]
            start, stop = start - tensor.numel(), stop - tensor.numel()

    def own(self, tensors: Sequence[Tensor]) -> Tensor:
        """A copy of this rank's part."""
        return torch.cat([*self.pieces(tensors, self.ranks.rank)])

    def exchange(self, own: Tensor) -> Iterator[tuple[int, Tensor]]:
        """The part of each rank in turn, on every rank; it holds until the next."""
        for rank, (start, stop) in enumerate(self.bounds):
            part = own if rank == self.ranks.rank else own.new_empty(stop - start)
            dist.broadcast(part, rank)
            yield rank, part

    def spread(self, own: Tensor, tensors: Sequence[Tensor]) -> None:
        """Write the parts of all ranks to ``tensors``, which may be on another device."""
        for rank, part in self.exchange(own):
            begin = 0
            for piece in self.pieces(tensors, rank):
                piece.copy_(part[begin : begin + piece.numel()])
                begin += piece.numel()


class PartialAverage(Average):
    """This rank's part of a running average; its ``module`` has shapes and no values."""

    def __init__(self, average: Average, parts: Parts) -> None:
        self.decay, self.updates, self.parts = average.decay, average.updates, parts
        self.own = parts.own([*average.module.parameters()])
        self.module = average.module.to("meta")

    def update(self, model: ConsistencyModel) -> None:
        decay = self.decay(self.updates)
        if decay < 1:
            current = self.parts.own([*model.parameters()])
            get_ema_multi_avg_fn(decay)([self.own], [current], self.updates)
        self.updates += 1


class Sharded:
    """A run's state in one of the processes that divide it.

    ``state`` is what the training loop works on: it takes the place of the complete one, of which only model
    and predictors stay whole. All ranks call :meth:`collected` together.
    """

    def __init__(self, training: Training, state: State, ranks: Ranks) -> None:
        weights = [*state.model.parameters()]
        self.ranks, self.parts = ranks, Parts(weights, ranks)
        saved = state.optimizer.state_dict()["state"]
        # Only the first process writes files, from the memory of the host.
        self.average = deepcopy(state.ema.module).to(CPU) if ranks.first else None
        whole = training.recipe.teacher == "ema" or training.coupling.wants_average
        self.state = replace(
            state,
            ema=state.ema if whole else PartialAverage(state.ema, self.parts),
            optimizer=self._optimizer(training, weights, saved),
        )

    def _optimizer(
        self, training: Training, weights: Sequence[Tensor], saved: dict[int, dict[str, Tensor]]
    ) -> torch.optim.Optimizer:
        """The configured optimiser over this rank's part, with its part of the moments."""
        parts, own = self.parts, nn.Parameter(self.parts.own(weights))
        optimizer: torch.optim.Optimizer = build(training.recipe.optimizer, own)
        moments = {
            index: {
                name: parts.own([value]) if value.numel() == parts.count else value
                for name, value in values.items()
            }
            for index, values in saved.items()
        }
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": moments, "param_groups": groups})

        def gather(*context: Any) -> None:
            grads = [torch.zeros_like(each) if each.grad is None else each.grad for each in weights]
            own.detach().copy_(parts.own(weights))
            own.grad = parts.own([grad.contiguous() for grad in grads])

        @torch.no_grad()
        def scatter(*context: Any) -> None:
            own.grad = None
            parts.spread(own.detach(), weights)

        optimizer.register_step_pre_hook(gather)
        optimizer.register_step_post_hook(scatter)
        return optimizer

    def collected(self) -> State:
        """The complete state, to be saved, in the first process; the others send their parts."""
        state, parts = self.state, self.parts
        average = state.ema
        if isinstance(average, PartialAverage):
            target = [*self.average.parameters()] if self.average is not None else []
            self._to_first(average.own, target)
            average = replace_module(average, self.average)
        moments: dict[int, dict[str, Tensor]] = {}
        size = parts.bounds[self.ranks.rank][1] - parts.bounds[self.ranks.rank][0]
        for index, values in state.optimizer.state_dict()["state"].items():
            moments[index] = {}
            for name, value in values.items():
                if value.ndim and value.numel() == size:
                    complete = torch.empty(parts.count if self.ranks.first else 0, dtype=value.dtype)
                    self._to_first(value, [complete] if self.ranks.first else [])
                    value = complete
                moments[index][name] = value
        complete_optimizer: Any = SimpleNamespace(state_dict=lambda: {"state": moments})
        return replace(state, ema=average, optimizer=complete_optimizer)

    def _to_first(self, own: Tensor, tensors: Sequence[Tensor]) -> None:
        """Write the parts of all ranks to the first one's ``tensors``; those of others are empty."""
        if tensors:
            self.parts.spread(own, tensors)
        else:
            for _ in self.parts.exchange(own):
                pass


def replace_module(average: Average, module: ConsistencyModel | None) -> Average:
    """``average`` with another module."""
    other = Average.__new__(Average)
    other.decay, other.updates = average.decay, average.updates
    other.module = average.module if module is None else module
    return other
