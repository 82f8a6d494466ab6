"""The surroundings of a stage as one object: device, processes, messages, progress and signals."""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from filelock import FileLock

from couplet.errors import UserError

if TYPE_CHECKING:
    import torch

    from couplet.ranks import Ranks

Progress = Callable[[str, int], AbstractContextManager[Callable[[int, str], None]]]
"""Called with a title and a total; gives a function to call with the amount done and a short text."""

NUMBERS_WIDTH = 70
"""Columns that a bar and its numbers take in a terminal."""

LOG_SECONDS = 5.0
"""Time between lines of progress without a terminal."""


def silent(title: str, total: int) -> AbstractContextManager[Callable[[int, str], None]]:
    """Show no progress."""
    return nullcontext(lambda done, text: None)


@dataclass(frozen=True, kw_only=True)
class Console:
    """What a stage says to a person. By default: nothing."""

    say: Callable[[str], None] = lambda text: None
    """Prints a line for a person."""
    show: Progress = silent
    """Shows progress."""
    signals: Callable[[], AbstractContextManager[Callable[[], str | None]]] = lambda: nullcontext(
        lambda: None
    )
    """A context in which signals to stop do not end the process; its function names the one that came."""

    def counting(self, title: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """A function to call with the number of images just processed, of ``total``."""
        return counted(self.show, title, total)


@dataclass(frozen=True)
class Context(Console):
    """Surroundings of a stage that computes with torch. By default: the CPU, one process, silence."""

    # Looked up late, because torch takes a second to import.
    device: torch.device = field(default_factory=lambda: resolve_name("torch:device")("cpu"))
    ranks: Ranks = field(default_factory=lambda: resolve_name("couplet.ranks:ALONE"))
    """The processes that share the work."""


@contextmanager
def shown(title: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """Show progress on standard error: a bar on a terminal, a line every few seconds in a log."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console, last = Console(stderr=True), float("-inf")

    def log(done: int, text: str) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= LOG_SECONDS or done >= total:
            last = now
            print(f"{title}: {done}/{total}, {text}", file=sys.stderr, flush=True)

    if not console.is_terminal:
        yield log
        return
    columns: list[ProgressColumn] = [BarColumn(bar_width=None), MofNCompleteColumn()]
    if console.width < len(title) + NUMBERS_WIDTH:
        console.print(title, markup=False, highlight=False)  # so that no number is cut
    else:
        columns.insert(0, TextColumn("{task.description}"))
    with Bar(*columns, TextColumn("{task.fields[text]}"), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(title, total=total, text="")
        yield lambda done, text: bar.update(task, completed=done, text=text)


@contextmanager
def counted(
    show: Progress, title: str, total: int, *, unit: str = "images/s", size: int = 1
) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of items since the last call; shown in units of ``size`` items."""
    began, done = time.monotonic(), 0
    with show(title, total // size) as update:

        def advance(count: int) -> None:
            nonlocal done
            done += count
            update(done // size, f"{done // size / max(time.monotonic() - began, 1e-9):.0f} {unit}")

        yield advance


def start(threads: int | None, device: str = "cpu") -> torch.device:
    """Import torch with a process's share of ``threads``, and :func:`find` the device of that name."""
    # Before torch is imported: a second OpenMP thread on a busy core slows every step many times.
    processes = _variable("LOCAL_WORLD_SIZE", 1)
    count = max(1, threads // processes) if threads else _variable("OMP_NUM_THREADS", 1)
    os.environ["OMP_NUM_THREADS"] = str(count)
    import torch

    torch.set_num_threads(count)
    return find(device)


MOST_THREADS = 1024


def _variable(name: str, default: int, least: int = 1) -> int:
    """A whole number in the environment; of a list such as OpenMP's, the first; UserError for another text.

    An empty variable counts as none.
    """
    if not (text := os.environ.get(name, "").partition(",")[0].strip()):
        return default
    if not (text.isascii() and text.isdecimal() and least <= int(text[:9]) <= MOST_THREADS):
        raise UserError(f"{name} = {os.environ[name]}: must be a whole number from {least} to {MOST_THREADS}")
    return int(text)


def find(name: str) -> torch.device:
    """The device named ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; UserError if it is not on this machine.

    ``auto`` is a GPU that no other process chose in this way, so that concurrent jobs spread over the GPUs of
    the machine; without a GPU, the CPU.
    """
    import torch

    if name == "auto":
        return torch.device("cuda", _free_gpu()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        if not re.fullmatch("cpu|cuda(:[0-9]{1,3})?", name):
            raise RuntimeError("couplet runs on nothing else")
        chosen = torch.device(name)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError):
        count = torch.cuda.device_count()
        gpus = f"and cuda:0 to cuda:{count - 1}" if count else "but torch finds no GPU"
        raise UserError(f"--device {name}: not on this machine; allowed: auto, cpu, {gpus}") from None
    return chosen


_HELD: list[FileLock] = []
"""Locks that this process holds until it ends."""


def _free_gpu() -> int:
    """Lock a GPU; if all are taken, a single process shares the first."""
    from torch import cuda

    count, local = cuda.device_count(), _variable("LOCAL_RANK", 0, least=0)
    if local >= count:
        raise UserError(f"--processes: process {local + 1}, but this machine has {count} GPUs")
    for index in range(count):
        name = f"couplet-gpu-{cuda.get_device_properties(index).uuid}.lock"
        if _take(Path(tempfile.gettempdir()) / name):
            return index
    if _variable("LOCAL_WORLD_SIZE", 1) > 1:
        # Two processes of one group cannot share.
        raise UserError(f"--device auto: no GPU is left for process {local + 1}, other jobs have all {count}")
    return 0


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


def console() -> Console:
    """What a command says that computes nothing with torch, which it does not import either."""
    return Console(say=_say, show=shown, signals=signals)


@contextmanager
def process(threads: int | None, device: str = "cpu", processes: int = 1) -> Iterator[Context]:
    """The context of a command: device, processes, progress and signals.

    All processes but the first are silent. ``processes`` is 0 for one process on the CPU, and then ``device``
    is `auto` or `cpu`.

    Raises:
        UserError: there is no such device.
        SystemExit: several ``processes`` are wanted and this is none of them; they ran with its
            command line and have ended.
    """
    if processes == 0 and device not in ("auto", "cpu"):
        raise UserError(
            f"--processes 0: is one process on the CPU, --device {device} is not; give one of them"
        )
    if processes == 0:
        device = "cpu"
    if processes > 1 and not _is_one_of_many():
        from couplet.ranks import launch

        raise SystemExit(launch(processes, ["-m", "couplet", *sys.argv[1:]]))
    chosen = start(threads, device)
    import torch

    from couplet.ranks import joined

    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    with joined() as ranks, _memory_errors():
        if ranks.first:
            yield Context(chosen, ranks, say=_say, show=shown, signals=signals)
            return
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield Context(chosen, ranks, signals=signals)


def _say(text: str) -> None:
    """Print a line; above a bar, which replaces standard error while it is shown."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Turn torch's errors of allocation, which are RuntimeErrors, into MemoryErrors."""
    import torch

    try:
        yield
    except RuntimeError as error:
        text = " ".join(str(error).split())
        named = re.search("can't allocate memory.*|Storage size calculation overflowed.*", text)
        if not isinstance(error, torch.OutOfMemoryError) and named is None:
            raise
        raise MemoryError(named[0] if named else text) from None


def _is_one_of_many() -> bool:
    """Whether `couplet.ranks.launch` or torchrun started this process."""
    return "COUPLET_STORE" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ


def rank() -> int:
    """The number of this process among those that share the work, before they are connected; else 0."""
    return _variable("RANK", 0, least=0) if _is_one_of_many() else 0


@contextmanager
def signals() -> Iterator[Callable[[], str | None]]:
    """A function that names the first signal to stop, which does not end the process, or returns None.

    A second Ctrl-C ends the process at once. Signals that were ignored before stay ignored.
    """
    received: list[str] = []

    def note(number: int, frame: object) -> None:
        received.append(signal.Signals(number).name)
        signal.signal(signal.SIGINT, before.get(signal.SIGINT, signal.SIG_IGN))

    wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = {s: handler for s in wanted if (handler := signal.getsignal(s)) not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
