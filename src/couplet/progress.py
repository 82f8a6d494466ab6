"""How long work shows itself: a bar on a terminal, a line every few seconds in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

if TYPE_CHECKING:
    from couplet.training import Progress

LOG_SECONDS = 5.0
"""Time between lines where there is no terminal."""


@contextmanager
def training_progress(title: str, steps: int) -> Iterator[Callable[[Progress, float], None]]:
    """A function to call after every training step with what it did and the images per second."""
    with _shown(title, steps) as show:
        yield lambda progress, rate: show(progress.step, f"loss {progress.loss:.4g}, {rate:.0f} images/s")


@contextmanager
def counting(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of images that were made since the last call."""
    with _counted(title, total, "images/s") as advance:
        yield advance


SHOWN_BYTES = 1 << 28
"""Reading less than this shows nothing."""


@contextmanager
def reading(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of bytes that were read since the last call; shows MiB."""
    if total < SHOWN_BYTES:
        yield lambda count: None
        return
    with _counted(title, total, "MiB/s", size=1 << 20) as advance:
        yield advance


@contextmanager
def _counted(title: str, total: int, unit: str, *, size: int = 1) -> Iterator[Callable[[int], None]]:
    """A function to call with how many there were since the last call; shows them by the ``size``."""
    began, done = time.monotonic(), 0
    with _shown(title, total // size) as show:

        def advance(count: int) -> None:
            nonlocal done
            done += count
            show(done // size, f"{done // size / max(time.monotonic() - began, 1e-9):.0f} {unit}")

        yield advance


@contextmanager
def _shown(title: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """A function to call with how much is done and a few words on it."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _log_lines(title, total)
        return
    text, words = TextColumn("{task.description}"), TextColumn("{task.fields[words]}")
    with Bar(text, BarColumn(), MofNCompleteColumn(), words, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(title, total=total, words="")
        yield lambda done, words: bar.update(task, completed=done, words=words)


def _log_lines(title: str, total: int) -> Callable[[int, str], None]:
    last = float("-inf")

    def show(done: int, words: str) -> None:
        nonlocal last
        if (now := time.monotonic()) - last < LOG_SECONDS and done < total:
            return
        last = now
        print(f"{title}: {done}/{total}, {words}", file=sys.stderr, flush=True)

    return show
