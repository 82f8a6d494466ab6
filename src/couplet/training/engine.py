"""How networks are computed: the precision of their products, and compiled or not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from couplet.config.stages import TrainConfig
from couplet.errors import UserError
from couplet.networks import Network
from couplet.tensors import default_stream

Forward = Callable[..., Tensor]


@contextmanager
def products(config: TrainConfig, device: torch.device) -> Iterator[None]:
    """Has the GPU's float32 products done in float32 or in TF32 inside the block.

    torch's own default is TF32 for convolutions, float32 for matrices. The settings are the process's, so
    they are put back.
    """
    if device.type != "cuda":
        yield
        return
    places: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [place.allow_tf32 for place in places]
    for place in places:
        place.allow_tf32 = config.precision == "tf32"
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.allow_tf32 = value


@contextmanager
def computed(models: Iterable[nn.Module], config: TrainConfig, device: torch.device) -> Iterator[None]:
    """Inside the block the networks of ``models`` are computed as ``config`` says.

    A network takes and returns float32, and so does everything around it: preconditioning, loss,
    gradients, optimiser and average.

    Raises:
        UserError: the device cannot do that.
    """
    if config.precision == "tf32" and device.type != "cuda":
        raise UserError(f"train.precision = tf32: {device.type} has no TF32; allowed here: float32, bf16")
    found = {part: None for model in models for part in model.modules() if isinstance(part, Network)}
    for network in found:
        forward: Forward = network.forward
        if config.compile:
            # Whole or not at all: a network that torch can compile in part only is an error, and so is
            # one that it gives up compiling anew for ever other shapes.
            forward = torch.compile(forward, fullgraph=True)
        if config.precision == "bf16":
            forward = _in_bfloat16(forward, device)
        # On the object, so that hooks and names of weights stay as they are.
        network.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        for network in found:
            del network.forward


def _in_bfloat16(forward: Forward, device: torch.device) -> Forward:
    def call(*arguments: Any) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return forward(*arguments).float()

    return call


def check_compiled(student: nn.Module, teacher: nn.Module, x: Tensor, labels: Tensor | None) -> None:
    """Evaluates compiled networks as a step does, and makes sure that they share their dropout masks.

    With gradients and without, torch compiles two programs, whose random numbers need not agree for one
    seed. They do if the same seed brings teacher and student much closer than two seeds do, with weights
    large enough for dropout to matter everywhere. The networks keep their weights.

    Args:
        student: compiled, in training mode.
        teacher: compiled; may be the student.
        x: a batch of the size that training uses, [b, c, h, w].
        labels: one-hot classes, [b, k], or None.

    Raises:
        UserError: compilation fails, or the masks differ.
    """
    device, level = x.device, torch.zeros(len(x), device=x.device)

    def answer(network: nn.Module, seed: int) -> Tensor:
        with default_stream(device, seed):
            return network(x, level, labels).detach()

    try:
        with _large_weights(student, teacher), _training(teacher):
            wanted = answer(student, 1)
            with torch.no_grad():
                same, other = answer(teacher, 1), answer(teacher, 2)
    except RuntimeError as error:
        cause = next(line for line in [*str(error).splitlines(), "no reason given"] if line.strip())
        raise UserError(f"train.compile = true: torch.compile fails here ({cause.strip()})") from error
    if torch.equal(same, other):
        return  # no dropout
    if not (same - wanted).norm() < 0.5 * (other - wanted).norm():
        raise UserError(
            "train.compile = true: compiled student and teacher have different dropout masks "
            f"with torch {torch.__version__}; set train.compile to false, or the network's dropout to 0"
        )


@contextmanager
def _training(network: nn.Module) -> Iterator[None]:
    """Training mode inside the block."""
    before = network.training
    network.train()
    try:
        yield
    finally:
        network.train(before)


@contextmanager
def _large_weights(*networks: nn.Module) -> Iterator[None]:
    """The same weights of unit gain in all networks inside the block."""
    kept = [[p.detach().clone() for p in network.parameters()] for network in networks]
    for network in networks:
        rng = torch.Generator().manual_seed(0)
        for p in network.parameters():
            drawn = torch.randn(p.shape, generator=rng) / max(1, p[0].numel() if p.ndim else 1) ** 0.5
            p.detach().copy_(drawn)
    try:
        yield
    finally:
        for network, values in zip(networks, kept, strict=True):
            for p, value in zip(network.parameters(), values, strict=True):
                p.detach().copy_(value)
