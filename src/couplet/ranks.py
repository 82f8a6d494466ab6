"""The processes that share work: a single one, or those that `--processes` or torchrun started."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from tempfile import TemporaryDirectory
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from couplet.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process's number and the number of processes, all of which call every method in the same order."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def part(self, count: int) -> slice:
        """This rank's rows out of ``count``, in equal consecutive parts.

        Raises:
            UserError: ``count`` is no multiple of the number of processes.
        """
        share, left = divmod(count, self.size)
        if left:
            raise UserError(f"batch = {count}: must be a multiple of {self.size}, the number of processes")
        return slice(self.rank * share, (self.rank + 1) * share)

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, in order, on every rank."""
        if self.size == 1:
            return [value]
        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def in_turn(self, own: Iterator[T]) -> Iterator[T]:
        """The items of all ranks on every rank: the first of each, then the second of each, and so on.

        Work divided as ``work[rank::size]`` comes back in its original order.
        """
        while items := list(chain(*self.gather(list(islice(own, 1))))):
            yield from items

    def mean(self, values: Tensor) -> Tensor:
        """Mean over ranks, in place."""
        if self.size > 1:
            dist.all_reduce(values)
            values /= self.size
        return values

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is set on some rank."""
        if self.size == 1:
            return flag
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags)
        return bool(flags)

    def wait(self) -> None:
        """Wait until all ranks have called it."""
        self.any(False)


ALONE = Ranks()


STORE = "COUPLET_STORE"
"""Environment variable with the file through which the processes of :func:`launch` find each other."""

GRACE = 30.0
"""Seconds that processes have to end after another one failed."""


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run Python with ``arguments`` in several processes of this machine, which need no name and no network.

    Signals to stop are passed on as SIGTERM. Returns the exit code of the first process that failed, or 0.
    """
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
    workers: list[subprocess.Popen[bytes]] = []
    signalled = False

    def stop(number: int, frame: object) -> None:
        nonlocal signalled
        signalled = True
        _end(workers)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, stop)
    with TemporaryDirectory() as folder:
        sizes = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
        shared = {"GLOO_SOCKET_IFNAME": loopback, **os.environ, **sizes, STORE: f"{folder}/store"}
        for rank in map(str, range(processes)):
            own = {**shared, "RANK": rank, "LOCAL_RANK": rank}
            workers.append(subprocess.Popen([sys.executable, *arguments], env=own))
        failed, deadline = 0, math.inf
        while None in (codes := [worker.poll() for worker in workers]):
            if not failed and (failed := next(filter(None, codes), 0)):
                deadline = time.monotonic() + GRACE
                _end(workers)
            for worker in workers if time.monotonic() > deadline else ():
                worker.kill()
            time.sleep(0.05)
    failed = failed or next(filter(None, codes), 0)
    if signalled and failed:
        return os.EX_TEMPFAIL
    return failed if failed >= 0 else 1  # negative: ended by a signal


def _end(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        worker.terminate()


@contextmanager
def joined() -> Iterator[Ranks]:
    """Connect the processes that share the work, inside the block; without others, this process alone.

    NCCL exchanges tensors on GPUs, Gloo everything else.
    """
    if STORE in os.environ:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        store: dist.Store = dist.FileStore(os.environ[STORE], size)
    elif dist.is_torchelastic_launched():
        store, rank, size = next(dist.rendezvous("env://"))
        # torchrun keeps its store when it restarts processes; a prefix hides the addresses of dead ones.
        store = dist.PrefixStore(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    else:
        yield ALONE
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    try:
        with warnings.catch_warnings():
            # Raised for gradients with a side of length 1, whose strides are arbitrary; they are copied.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            yield Ranks(rank, size)
    finally:
        dist.destroy_process_group()
