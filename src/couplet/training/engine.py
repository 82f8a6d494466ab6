"""How networks are computed: precision and compilation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from couplet.config.cells import TrainConfig
from couplet.errors import UserError
from couplet.networks.base import Network


@contextmanager
def computed(models: Iterable[nn.Module], config: TrainConfig, device: torch.device) -> Iterator[None]:
    """Compute the networks of ``models`` inside the block in the precision and mode of ``config``.

    A network takes and returns float32, and so does everything around it: preconditioning, loss,
    gradients, optimiser and average.

    Raises:
        UserError: the device does not support it.
    """
    if config.precision == "tf32" and device.type != "cuda":
        raise UserError(f"train.precision = tf32: {device.type} has no TF32; allowed here: float32, bf16")
    networks = {part for model in models for part in model.modules() if isinstance(part, Network)}
    for network in networks:
        forward: Callable[..., Tensor] = network.forward
        if config.compile:
            forward = _compiled(forward, device)
        if config.precision == "bf16":
            forward = _in_bfloat16(forward, device)
        # Set on the object, so that hooks and names of weights do not change.
        network.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        for network in networks:
            del network.forward


def _compiled(forward: Callable[..., Tensor], device: torch.device) -> Callable[..., Tensor]:
    """``forward`` through torch.compile, with eager's random numbers: teacher and student share their masks.

    They are two programs, without and with gradient. A mask is drawn in the order in which activations lie in
    memory, which torch would choose for each program of a GPU by itself; here it is that of the weights.

    Raises:
        UserError: on the first call, where torch cannot compile the network as a whole.
    """
    options: dict[str, Any] = {"fallback_random": True}
    if device.type == "cuda":
        options["layout_optimization"] = False
    compiled = torch.compile(forward, fullgraph=True, options=options)
    works = False

    def call(*arguments: Any) -> Tensor:
        nonlocal works
        try:
            output: Tensor = compiled(*arguments)
        except RuntimeError as error:
            if works or isinstance(error, torch.OutOfMemoryError):
                raise
            cause = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
            raise UserError(f"train.compile = true: torch.compile fails here ({cause.strip()})") from error
        works = True
        return output

    return call


def _in_bfloat16(forward: Callable[..., Tensor], device: torch.device) -> Callable[..., Tensor]:
    def call(*arguments: Any) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return forward(*arguments).float()

    return call
