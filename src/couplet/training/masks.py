"""Dropout masks that student and teacher share."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from couplet.tensors import default_stream


def shared_masks(
    device: torch.device, seed: int, *, once: bool
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Two contexts, for student and teacher in turn, in which dropout has the same masks.

    Either each draws them from the same seed; or, ``once``, the student draws and the teacher is given
    what the backward pass keeps anyway. The masks are the same either way, to the last bit; to draw them
    is a good part of a forward pass on the CPU, and nearly nothing on a GPU.
    """
    if not once:
        return default_stream(device, seed), default_stream(device, seed)
    drawn: deque[Tensor] = deque()

    def draw(input: Tensor, p: float) -> Tensor:
        # The two steps in which torch makes them on the CPU.
        drawn.append(torch.empty_like(input).bernoulli_(1 - p).div_(1 - p))
        return drawn[-1]

    @contextmanager
    def drawing() -> Iterator[None]:
        with default_stream(device, seed), _Dropout(draw):
            yield

    return drawing(), _Dropout(lambda input, p: drawn.popleft())


class _Dropout(TorchFunctionMode):
    """Inside, dropout multiplies by what ``factors`` returns for its input and probability."""

    def __init__(self, factors: Callable[[Tensor, float], Tensor]) -> None:
        super().__init__()
        self.factors = factors

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return (self._dropout if func is F.dropout else func)(*args, **(kwargs or {}))

    def _dropout(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p in (0, 1):
            return F.dropout(input, p, training, inplace)
        factors = self.factors(input, p)
        return input.mul_(factors) if inplace else input * factors
