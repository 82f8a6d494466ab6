"""What a stage has around it: device, processes, messages, progress and signals, as one object."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from couplet.progress import Show, shown, silent

if TYPE_CHECKING:
    import torch

    from couplet.ranks import Ranks


def _quiet(text: str) -> None:
    """Print nothing."""


@contextmanager
def _no_signals() -> Iterator[Callable[[], str | None]]:
    """Signals do what they did before."""
    yield lambda: None


def _alone() -> Ranks:
    from couplet.ranks import ALONE

    return ALONE


def _cpu() -> torch.device:
    import torch

    return torch.device("cpu")


@dataclass(frozen=True)
class Context:
    """Surroundings of a stage. By default: the CPU, one process, silence."""

    device: torch.device = field(default_factory=_cpu)
    ranks: Ranks = field(default_factory=_alone)
    """The processes that share the work."""
    say: Callable[[str], None] = _quiet
    """Prints a line that a person should read."""
    show: Show = silent
    """Shows progress."""
    signals: Callable[[], AbstractContextManager[Callable[[], str | None]]] = _no_signals
    """A context in which signals to stop do not end the process; its function names the one that came."""

    def counting(self, title: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """A function to call with the number of images just processed, of ``total``."""
        return counted(self.show, title, total)


@contextmanager
def counted(
    show: Show, title: str, total: int, unit: str = "images/s", size: int = 1
) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of items since the last call; shown in units of ``size`` items."""
    from time import monotonic

    began, done = monotonic(), 0
    with show(title, total // size) as update:

        def advance(count: int) -> None:
            nonlocal done
            done += count
            update(done // size, f"{done // size / max(monotonic() - began, 1e-9):.0f} {unit}")

        yield advance


def start(threads: int | None, device: str = "cpu") -> torch.device:
    """Import torch with its number of threads, a rank's share of ``threads``, and find the device.

    Raises:
        UserError: the device is unknown or not there.
    """
    # Before torch is imported: a second OpenMP thread on a busy core slows every step many times.
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    count = max(1, threads // processes) if threads else int(os.environ.get("OMP_NUM_THREADS") or 1)
    os.environ["OMP_NUM_THREADS"] = str(count)
    import torch

    from couplet.devices import find

    torch.set_num_threads(count)
    return find(device)


@contextmanager
def process(
    threads: int | None = None,
    device: str = "cpu",
    processes: int = 1,
    say: Callable[[str], None] = _quiet,
) -> Iterator[Context]:
    """The context of a command: device, torchrun's processes, progress and signals.

    All processes but the first are silent.

    Raises:
        UserError: the device is unknown or not there.
        SystemExit: ``processes`` asks for several and torchrun did not start this one; they were started with
            its command line and have ended.
    """
    if processes > 1 and not torchrun():
        from couplet.ranks import launch

        raise SystemExit(launch(processes, ["-m", "couplet", *sys.argv[1:]]))
    chosen = start(threads, device)
    import torch

    from couplet.ranks import joined

    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    with joined() as ranks:
        if ranks.first:
            yield Context(chosen, ranks, say, shown, signals)
            return
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield Context(chosen, ranks, _quiet, silent, signals)


def torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def rank() -> int:
    """The number of this process among torchrun's, before they are connected."""
    return int(os.environ["RANK"]) if torchrun() else 0


@contextmanager
def signals() -> Iterator[Callable[[], str | None]]:
    """A function that names the signal to stop that has come, if any; it no longer ends the process.

    A second Ctrl-C ends the process at once. Signals that were ignored before stay ignored.
    """
    came: list[str] = []

    def note(number: int, frame: object) -> None:
        came.append(signal.Signals(number).name)
        signal.signal(signal.SIGINT, before.get(signal.SIGINT, signal.SIG_IGN))

    wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = {s: handler for s in wanted if (handler := signal.getsignal(s)) not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: came[0] if came else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
