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
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _log_lines(title, steps)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4g}  {task.fields[rate]:.0f} images/s"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console) as bar:
        task = bar.add_task(title, total=steps, loss=float("nan"), rate=0.0)

        def update(progress: Progress, rate: float) -> None:
            bar.update(task, completed=progress.step, loss=progress.loss, rate=rate)

        yield update


def _log_lines(title: str, steps: int) -> Callable[[Progress, float], None]:
    last = float("-inf")

    def report(progress: Progress, rate: float) -> None:
        nonlocal last
        if (now := time.monotonic()) - last < LOG_SECONDS and progress.step < steps:
            return
        last = now
        print(
            f"{title}: step {progress.step}/{steps}, loss {progress.loss:.4g}, {rate:.0f} images/s",
            file=sys.stderr,
            flush=True,
        )

    return report
