"""Helpers shared by all rooms.

Shapes in docstrings: ``b`` images in a batch, ``c`` channels, ``h`` height, ``w`` width, ``k`` classes,
``n`` samples, ``d`` features. Images are float32 in [-1, 1], noise levels are positive float32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


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
