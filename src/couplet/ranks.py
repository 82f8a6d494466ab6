"""The processes that share work: a single one, or those that `--processes` or torchrun started."""

from __future__ import annotations

import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain, islice
from tempfile import TemporaryDirectory
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from couplet.environment import whole_number
from couplet.errors import Lost, Stopped, UserError

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
"""Environment variable of a process of :func:`launch`: the file or HOST:PORT by which it finds the others."""

MEETING = "COUPLET_MEETING"
"""Environment variable of a command that `srun` starts on each node: the HOST:PORT of their store."""

GRACE = timedelta(seconds=30)
"""Time that processes have to end after another one failed, and to begin before that is worth a line."""

PATIENCE = timedelta(minutes=10)
"""How long processes wait for each other to begin."""


def launch(arguments: Sequence[str], processes: int, nodes: int = 1) -> int:
    """Run Python with ``arguments`` in so many ``processes`` on each of ``nodes`` machines.

    On one machine they need no name and no network. With several ``nodes``, a job of Slurm starts this
    command on all of them; elsewhere it is started on each, with `MASTER_ADDR` and `MASTER_PORT` of the first
    and with `NODE_RANK`, and starts its own processes there. Signals to stop are passed on. Returns the exit
    code of the first process that failed, or 0.

    Raises:
        UserError: there are several ``nodes``, and this is the command of none and of no job of Slurm.
    """
    given, own = os.environ, {"WORLD_SIZE": str(processes * nodes), "LOCAL_WORLD_SIZE": str(processes)}
    if nodes == 1:
        loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
        with TemporaryDirectory() as folder:
            own |= {STORE: f"{folder}/store"}
            return _run_here(arguments, range(processes), {"GLOO_SOCKET_IFNAME": loopback, **given, **own})
    if MEETING in given:
        number, place = whole_number("SLURM_NODEID", 0, least=0), given[MEETING]
    elif {"MASTER_ADDR", "MASTER_PORT", "NODE_RANK"} <= given.keys():
        number = whole_number("NODE_RANK", 0, least=0, most=nodes - 1)
        port = whole_number("MASTER_PORT", 0, most=2**16 - 1)
        place = f"{given['MASTER_ADDR']}:{port}"
    elif "SLURM_JOB_ID" in given and given.get("SLURM_STEP_NUM_NODES", "1") == "1":
        return _run_by_srun(arguments, nodes)
    else:
        raise UserError(
            f"nodes = {nodes}: a job of Slurm starts this command on all of its nodes; elsewhere start it on "
            f"each, with MASTER_ADDR=HOST MASTER_PORT=PORT NODE_RANK=0 to {nodes - 1}, or with torchrun "
            f"--nnodes {nodes} --nproc-per-node {processes}"
        )
    # The first node's launcher outlives its processes, so that others can read what they said.
    store = None if MEETING in given or number else _store(place, host=True)
    ranks = range(number * processes, (number + 1) * processes)
    code = _run_here(arguments, ranks, {**given, **own, STORE: place})
    del store
    return code


def _run_here(arguments: Sequence[str], ranks: range, environment: dict[str, str]) -> int:
    """Run the processes of this machine, which have these numbers."""
    workers: list[subprocess.Popen[bytes]] = []
    signalled = False

    def stop(number: int, frame: object) -> None:
        nonlocal signalled
        signalled = True
        _end(workers)

    for number in STOPPING:
        signal.signal(number, stop)
    for local, rank in enumerate(ranks):
        own = {**environment, "RANK": str(rank), "LOCAL_RANK": str(local)}
        workers.append(subprocess.Popen([sys.executable, *arguments], env=own))
    first: Sequence[int | None] = ()
    deadline = math.inf
    while None in (codes := [worker.poll() for worker in workers]):
        if not first and any(codes):
            first, deadline = codes, time.monotonic() + GRACE.total_seconds()
            _end(workers)
        for worker in workers if time.monotonic() > deadline else ():
            worker.kill()
        time.sleep(0.05)
    failures = {rank: code for rank, code in zip(ranks, first or codes, strict=True) if code}
    if not failures:
        return 0
    if signalled:
        return os.EX_TEMPFAIL
    for rank, code in failures.items():
        if code < 0:
            ended = signal.Signals(-code).name
            print(f"couplet: process {rank}: ended by {ended}", file=sys.stderr, flush=True)
    return max(*failures.values(), 1)


STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Signals that end processes after a complete step."""


def _end(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        worker.terminate()


EXITED = re.compile("srun: error: .*: tasks? .*: Exited with exit code [0-9]+\n")
"""What srun says of a command that has said more itself."""


def _run_by_srun(arguments: Sequence[str], nodes: int) -> int:
    """Run the command on each node of this job of Slurm, where it starts the processes of that node."""
    store = dist.TCPStore(socket.gethostname(), 0, is_master=True, wait_for_workers=False)
    # The step that this command may be part of shares its resources with it, and has one CPU per task bound.
    options = ["--quiet", "--overlap", "--cpu-bind=none", "--kill-on-bad-exit"]
    size = [f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"]
    own = {**os.environ, MEETING: f"{socket.gethostname()}:{store.port}"}
    signalled = False
    try:
        srun = subprocess.Popen(
            ["srun", *options, *size, sys.executable, *arguments],
            env=own,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
    except OSError as error:
        raise UserError(f"nodes = {nodes}: srun does not start ({error.strerror})") from None
    with srun:

        def stop(number: int, frame: object) -> None:
            nonlocal signalled
            signalled = True
            srun.send_signal(signal.SIGUSR1)  # Others than this one srun keeps, and kills its tasks.

        for number in STOPPING:
            signal.signal(number, stop)
        assert srun.stderr is not None
        for line in srun.stderr:
            if not EXITED.fullmatch(line):
                print(line, end="", file=sys.stderr, flush=True)
    code = srun.wait()
    if signalled and code:
        return os.EX_TEMPFAIL
    if code not in (0, 2, os.EX_TEMPFAIL):
        print(f"couplet: srun ended with exit code {code}; what happened is above", file=sys.stderr)
    return code if 0 <= code < 128 else 1


@contextmanager
def joined() -> Iterator[Ranks]:
    """Connect the processes that share the work, inside the block; without others, this process alone.

    NCCL exchanges tensors on GPUs, Gloo everything else.

    Raises:
        UserError: some did not come, or another one met an error, which this one then reports.
        Lost: another one is gone without a word.
    """
    if STORE in os.environ:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        store = _store(os.environ[STORE], size)
    elif dist.is_torchelastic_launched():
        store, rank, size = next(dist.rendezvous("env://"))
        # torchrun keeps its store when it restarts processes; a prefix hides the addresses of dead ones.
        store = dist.PrefixStore(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    else:
        yield ALONE
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        _meet(store, rank, size)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size)
        with warnings.catch_warnings():
            # Raised for gradients with a side of length 1, whose strides are arbitrary; they are copied.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            yield Ranks(rank, size)
    except Exception as error:
        if _of_connection(error):
            raise _cause(store, error) from None
        if not isinstance(error, Stopped):
            _tell(store, rank, error)
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _store(place: str, size: int | None = None, *, host: bool = False) -> dist.Store:
    """The store of the processes in a file, or at HOST:PORT, where ``host`` opens it."""
    name, _, port = place.rpartition(":")
    if not (name and port.isdecimal()):
        return dist.FileStore(place, size or -1)
    try:
        socket.getaddrinfo(name, int(port))  # which TCPStore would try for all its time
        return dist.TCPStore(name, int(port), size, is_master=host, timeout=PATIENCE, wait_for_workers=False)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{place}, where the nodes meet: {_first_sentence(error)}") from None


def _meet(store: dist.Store, rank: int, size: int) -> None:
    """Wait until all processes are there; UserError if some do not come."""
    keys = [f"here {number}" for number in range(size)]
    store.set(keys[rank], "")
    absent = ""
    for patience in (GRACE, PATIENCE):
        try:
            store.wait(keys, patience)
            return
        except dist.DistStoreError:
            absent = ", ".join(str(number) for number, key in enumerate(keys) if not store.check([key]))
            if rank == 0:
                print(f"couplet: waiting for processes {absent} of {size}", file=sys.stderr, flush=True)
    raise UserError(f"processes {absent} of {size}: did not come within {PATIENCE}")


TOLD = "told"
"""Key of the error that ended a process, for the others."""


def _tell(store: dist.Store, rank: int, error: Exception) -> None:
    """Leave an error to the other processes, which lose their connection to this one."""
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    with suppress(RuntimeError):
        store.set(TOLD, f"process {rank}: {text}")


def _cause(store: dist.Store, error: Exception) -> Exception:
    """Why a connection is gone: what another process told, if it did."""
    with suppress(RuntimeError):
        if store.check([TOLD]):
            return UserError(store.get(TOLD).decode())
    return Lost(
        f"another process has ended or its node is gone ({_first_sentence(error)}); the same command goes on "
        "from what is saved"
    )


def _of_connection(error: Exception) -> bool:
    """Whether the other processes cannot be reached; Gloo has no class of errors of its own."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "/gloo/" in str(error))


def _first_sentence(error: Exception) -> str:
    """The first sentence of an error of torch's, without the place in its source."""
    return re.sub(r"^\[\S+\] ", "", str(error).partition("\n")[0]).partition(". ")[0]
