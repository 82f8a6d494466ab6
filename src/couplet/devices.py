"""The device of a process."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from filelock import FileLock

from couplet.errors import UserError


def find(name: str) -> torch.device:
    """The device named ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    ``auto`` is a GPU that no other process chose in this way, so that concurrent jobs spread over the GPUs of
    the machine; without a GPU, the CPU.

    Raises:
        UserError: the name is unknown, the machine has no such device, or torchrun started more processes
            than there are GPUs.
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


_HELD: list[FileLock] = []
"""Locks that this process holds until it ends."""


def _free_gpu() -> torch.device:
    """Lock a GPU; if all are taken, a single process shares the first."""
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
    """Hold the lock until this process ends; return whether no other process holds it."""
    lock = FileLock(path, mode=0o666, blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except TimeoutError:
        return False
    except OSError:  # another user's file, or a disk without locks: unknown, so taken as free
        return True
    _HELD.append(lock)
    return True
