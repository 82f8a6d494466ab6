"""Progress of long work: a bar on a terminal, a line every few seconds in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

Show = Callable[[str, int], AbstractContextManager[Callable[[int, str], None]]]
"""Called with a title and a total; gives a function to call with the amount done and a few words."""

LOG_SECONDS = 5.0
"""Time between lines where there is no terminal."""


@contextmanager
def silent(title: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """Show no progress."""
    yield lambda done, words: None


@contextmanager
def shown(title: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """Show progress on standard error."""
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
