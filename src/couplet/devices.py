"""Which device a process computes on."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path
from typing import IO

import torch

from couplet.errors import UserError


def find(name: str) -> torch.device:
    """The device called ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    ``auto`` is a GPU that no other process chose that way, so that jobs side by side spread over those
    there are; the CPU where there is none.

    Raises:
        UserError: it is unknown or not there, or torchrun started more processes than there are GPUs.
    """
    if name == "auto":
        return _free_gpu() if torch.cuda.is_available() else torch.device("cpu")
    try:
        chosen = torch.device(name)
        if chosen.type not in ("cpu", "cuda"):
            raise RuntimeError(f"couplet does not run on {chosen.type}")
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError):
        raise UserError(f"--device {name}: not on this machine; use auto, cpu or cuda") from None
    return chosen


_HELD: list[IO[str]] = []
"""Locks that this process holds until it ends."""


def _free_gpu() -> torch.device:
    """A GPU whose lock this process now has; where all are taken, one alone shares the first."""
    count, local = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", 0))
    if local >= count:
        raise UserError(f"torchrun --nproc-per-node: process {local + 1}, but this machine has {count} GPUs")
    for index in range(count):
        name = f"couplet-gpu-{torch.cuda.get_device_properties(index).uuid}.lock"
        if _take(Path(tempfile.gettempdir()) / name):
            return torch.device("cuda", index)
    if int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > 1:
        # Two processes of one group cannot share.
        raise UserError(f"--device auto: no GPU is left for process {local + 1}, other jobs have all {count}")
    return torch.device("cuda", 0)


def _take(path: Path) -> bool:
    """Whether this process has got the lock."""
    try:
        file = path.open("a")
    except OSError:  # of another user
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return False
    _HELD.append(file)
    return True
