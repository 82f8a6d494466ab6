"""Helpers shared by all rooms.

Shapes in docstrings: ``b`` images in a batch, ``c`` channels, ``h`` height, ``w`` width, ``k`` classes,
``n`` samples, ``d`` features. Images are float32 in [-1, 1], noise levels are positive float32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from couplet.files import replacing

CPU = torch.device("cpu")


def save_tensors(path: Path, tensors: Mapping[str, Tensor], **texts: str) -> None:
    """Write tensors, with texts by key beside them, as one safetensors file."""
    content = serialise({name: value.contiguous() for name, value in tensors.items()}, texts)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def load_tensors(path: Path, device: torch.device = CPU) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read texts and tensors of a safetensors file.

    Raises:
        OSError, SafetensorError: the file cannot be read, or is damaged.
    """
    with safe_open(path, framework="pt", device=str(device)) as file:
        return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """``values`` of shape [b] or [1], shaped to broadcast over ``like`` of shape [b, ...]."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def seed_of(*purpose: int | str) -> int:
    """A seed in [0, 2^63) that depends on every part of ``purpose`` and on nothing else.

    All random numbers are seeded this way, ``seed_of(seed, "noise", step)``, so a step or a sample has the
    same draws wherever a process starts.
    """
    return int.from_bytes(hashlib.sha256(repr(purpose).encode()).digest()[:8], "little") >> 1


def generator(device: torch.device, *purpose: int | str) -> torch.Generator:
    """A generator on ``device`` seeded by :func:`seed_of`."""
    return torch.Generator(device).manual_seed(seed_of(*purpose))


@contextmanager
def default_stream(device: torch.device, seed: int) -> Iterator[None]:
    """Seed torch's default generators inside the block and restore their states after it.

    Dropout can only draw from the default generator of its device; two blocks with one seed have the same
    masks, on CPU and GPU alike.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if device.type == "cuda":
            torch.manual_seed(seed)
        else:
            # torch.manual_seed records its caller for every absent accelerator, which takes a millisecond.
            torch.default_generator.manual_seed(seed)
        yield


class SideStream:
    """A stream of a GPU for a thread whose kernels, and waits for them, pass those that are queued already.

    Args:
        device: the GPU, whose current stream here and now is the one that is passed.
    """

    def __init__(self, device: torch.device) -> None:
        self.main = torch.cuda.current_stream(device)
        self.own = torch.cuda.Stream(device, priority=-1)

    def now(self) -> torch.cuda.Event:
        """The present end of the main stream's queue."""
        return self.main.record_event()

    def run(self, work: Callable[[], Tensor], after: torch.cuda.Event) -> Tensor:
        """The result of ``work``, finished, for use in the main stream.

        Args:
            after: the place in the main stream where all that ``work`` reads is there.
        """
        self.own.wait_event(after)
        with torch.cuda.stream(self.own):
            result = work()
        self.own.synchronize()
        # Its memory is not used again before the kernels that read it in the main stream.
        result.record_stream(self.main)
        return result


@contextmanager
def products(*, tf32: bool = False, deterministic: bool = False) -> Iterator[None]:
    """Compute float32 products and convolutions in float32 or TF32 inside the block.

    torch's default is TF32 for convolutions and float32 for matrices. The settings belong to the process and
    are restored afterwards.

    Args:
        deterministic: whether a GPU's convolutions sum in a fixed order.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, deterministic=deterministic, allow_tf32=tf32):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
