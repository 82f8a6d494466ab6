"""The processes that share work: a single one, or those that torchrun started."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
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


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run Python with ``arguments`` in several processes of this machine, as torchrun does.

    Signals to stop are passed on to them. Returns the exit code of the first that failed, or 0.
    """
    # Imported here because they take a second and most processes do not need them.
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Not every version of torch passes on SIGUSR1, which schedulers send as a warning.
    signal.signal(signal.SIGUSR1, lambda number, frame: os.kill(os.getpid(), signal.SIGTERM))
    # The processes print their own errors.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)(*arguments)
    except ChildFailedError as error:
        return max(1, error.get_first_failure()[1].exitcode)
    except SignalException:
        return os.EX_TEMPFAIL
    return 0


@contextmanager
def joined() -> Iterator[Ranks]:
    """Connect the processes that torchrun started, inside the block; without torchrun, this process alone.

    NCCL exchanges tensors on GPUs, Gloo everything else.
    """
    if not dist.is_torchelastic_launched():
        yield ALONE
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    store, rank, size = next(dist.rendezvous("env://"))
    # torchrun keeps its store when it restarts processes; a prefix hides the addresses of dead ones.
    store = dist.PrefixStore(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    try:
        with warnings.catch_warnings():
            # Raised for gradients with a side of length 1, whose strides are arbitrary; they are copied.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            yield Ranks(rank, size)
    finally:
        dist.destroy_process_group()
