"""Live view of a running training: files for DVC, events for TensorBoard.

A view follows from files that the run writes anyway, its curve and its snapshots. So it is complete at any
time and however often the run was resumed, and the run does not depend on it.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from couplet import model
from couplet.config.datasets import is_plane
from couplet.errors import Stopped, UserError, installed
from couplet.files import remove_temporary, replacing, write_json
from couplet.plan.layout import checkpoint_name
from couplet.process import Context
from couplet.sampling import generate
from couplet.stages.train import Observer
from couplet.tensors import default_stream
from couplet.training.loop import Progress

LEAST_SIDE = 32
"""Smaller images of a grid are enlarged to at least this side, in pixels."""


class Seen(NamedTuple):
    """The files of a run so far, with one line of its curve at least."""

    head: str
    """Column names of curve.csv; the first is `step`."""
    lines: dict[int, str]
    """Lines of curve.csv by step."""
    rate: float | None
    """Images per second up to the last line, where known."""
    snapshots: list[int]
    """Steps of the snapshots."""
    grid: Callable[[int], NDArray[np.uint8]]
    """The grid of a snapshot's step, see :func:`sample_grid`."""

    def values(self, step: int) -> dict[str, float]:
        """The scalars of a step."""
        return dict(zip(self.head.split(",")[1:], map(float, self.lines[step].split(",")[1:]), strict=True))


Sink = Callable[[Seen], None]
"""Shows a run. It is called again and again, and determines by itself what is new."""


def sinks(live: Path | None, tensorboard: Path | None) -> list[Sink]:
    """A sink for every folder that is given.

    Raises:
        UserError: a package is missing, or ``live`` holds something else.
    """
    chosen: list[Sink] = []
    for option, folder, sink in (("live", live, dvc_files), ("tensorboard", tensorboard, TensorBoard)):
        if folder is not None:
            with installed(f"--{option} {folder}"):
                import_module("couplet.reporting.pictures")
                chosen.append(sink(folder))
    return chosen


def ways_to_look(live: Path | None, tensorboard: Path | None) -> Iterator[str]:
    """A line for each folder on how to look at it."""
    if live is not None:
        yield f"live view in {live}: curve.csv, metrics.json and samples/STEP.png grow with the run"
    if tensorboard is not None:
        yield f"live view in {tensorboard}: look with `tensorboard --logdir {shlex.quote(str(tensorboard))}`"


def dvc_files(folder: Path) -> Sink:
    """Make a sink that updates files for `dvc plots` and `dvc exp show`.

    curve.csv is that of the run; speed.csv has the images per second at the steps where they are known;
    metrics.json has step and loss; samples/STEP.png is the grid of a snapshot.

    DVCLive writes the same formats, but reads all its files again after every line and initialises DVC in a
    Git repository that has none.
    """
    own = {"curve.csv", "speed.csv", "metrics.json", "samples"}
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if any(not name.startswith(".") for name in names - own):
        raise UserError(f"--live {folder}: holds something else than a live view; choose another folder")
    remove_temporary(folder)
    return partial(_update, folder)


def _update(folder: Path, seen: Seen) -> None:
    from PIL import Image

    unchanged = dict(_lines(folder / "curve.csv")[1].items() & seen.lines.items())
    rates = {step: line for step, line in _lines(folder / "speed.csv")[1].items() if step in unchanged}
    first, last = min(seen.lines), max(seen.lines)
    metrics = {"step": last, "loss": seen.values(last)["loss"]}
    if seen.rate is not None:
        rates.setdefault(last, f"{last},{seen.rate:.1f}")
    files = {"curve.csv": (seen.head, seen.lines), "speed.csv": ("step,images_per_second", rates)}
    for name, (head, lines) in files.items():
        with replacing(folder / name) as temporary:
            temporary.write_text("\n".join([head, *lines.values()]) + "\n")
    write_json(folder / "metrics.json", metrics)
    drawn = {int(path.stem): path for path in folder.glob("samples/*.png") if path.stem.isdigit()}
    # The first line tells whether the old pictures are of this run.
    for step in drawn.keys() - (seen.snapshots if first in unchanged else []):
        drawn.pop(step).unlink()
    for step in seen.snapshots:
        if step not in drawn:
            with replacing(folder / f"samples/{step}.png") as temporary:
                Image.fromarray(seen.grid(step).squeeze()).save(temporary, format="png")


def _lines(path: Path) -> tuple[str, dict[int, str]]:
    """The head of a CSV file and its complete lines by their first cell, a step; nothing without a file."""
    text = path.read_text() if path.exists() else ""
    head, *lines = text[: text.rfind("\n") + 1].splitlines() or [""]
    return head, {int(line.partition(",")[0]): line for line in lines}


class TensorBoard:
    """A sink that writes events for TensorBoard."""

    def __init__(self, folder: Path) -> None:
        import_module("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self.open = partial(SummaryWriter, str(folder), purge_step=0)
        self.lines: dict[int, str] = {}
        self.snapshots: set[int] = set()
        self.writer: Any = None

    def __call__(self, seen: Seen) -> None:
        if self.writer is None or not self.lines.items() <= seen.lines.items():
            # All earlier events are hidden and written again.
            if self.writer is not None:
                self.writer.close()
            self.writer, self.lines, self.snapshots = self.open(), {}, set()
        for step in sorted(seen.lines.keys() - self.lines):
            for name, value in seen.values(step).items():
                self.writer.add_scalar(name, value, step)
        if seen.rate is not None:
            self.writer.add_scalar("images_per_second", seen.rate, max(seen.lines))
        for step in sorted({*seen.snapshots} - self.snapshots):
            self.writer.add_image("samples", seen.grid(step), step, dataformats="HWC")
            self.snapshots.add(step)
        self.lines = seen.lines
        self.writer.flush()


def sample_grid(checkpoint: Path, device: torch.device) -> NDArray[np.uint8]:
    """Draw samples of a snapshot, NFE 1, side by side, uint8 [h, w, c]; every snapshot has the same noise.

    Points of the plane become a scatter plot. The state of torch's own generators does not change.

    Raises:
        UserError: the file cannot be read.
    """
    from couplet.reporting.pictures import panel_size, tile

    with default_stream(torch.device("cpu"), 0):
        network, saved = model.load(checkpoint, device)
    side = saved.shape.resolution
    image = (side, side, saved.shape.channels)
    count = panel_size(image)
    batches = generate(
        network,
        saved.shape,
        saved.sampler,
        seed=0 if saved.training is None else saved.training.cell.seed,
        purpose="live",
        count=count,
        batch=count,
        nfe=[1],
        conditional=saved.conditional,
    )
    scale = 1 if is_plane(image) else -(-LEAST_SIDE // side)
    images = np.concatenate([batch[1] for batch in batches])
    return tile(images.repeat(scale, axis=1).repeat(scale, axis=2))


class View:
    """Passes the files of the run in the folder ``train`` to ``sinks``, finished or not."""

    def __init__(self, train: Path, sinks: Sequence[Sink], device: torch.device) -> None:
        self.train, self.sinks, self.device = train, sinks, device
        self.partial = train.with_name(f"{train.name}.partial")
        self.stamp: tuple[Path, int, int] | None = None

    @property
    def folder(self) -> Path:
        """The folder that the run has at present."""
        return self.partial if self.partial.exists() else self.train

    def update(self, rate: float | None = None) -> None:
        """Show new lines and snapshots, with the images per second up to the last line."""
        folder = self.folder
        try:
            status = (folder / "curve.csv").stat()
            stamp = (folder, status.st_mtime_ns, status.st_size)
            if stamp != self.stamp:
                self._show(folder, rate)
                self.stamp = stamp
        except (OSError, UserError):
            # The finished run may just have been renamed; the next update reads it.
            if self.folder == folder:
                raise

    def _show(self, folder: Path, rate: float | None) -> None:
        head, lines = _lines(folder / "curve.csv")
        # Later snapshots are of a process that was killed; the resumed run writes them again.
        checkpoints = folder / "checkpoints"
        steps = (int(path.stem.removeprefix("step-")) for path in checkpoints.glob("step-*.safetensors"))
        snapshots = sorted(step for step in steps if step <= max(lines, default=0))
        grid = cache(lambda step: sample_grid(checkpoints / checkpoint_name(step), self.device))
        for sink in self.sinks if lines else ():
            sink(Seen(head=head, lines=lines, rate=rate, snapshots=snapshots, grid=grid))


@contextmanager
def observed(
    train: Path, context: Context, live: Path | None = None, tensorboard: Path | None = None
) -> Iterator[Observer]:
    """Give a function to call after every step, which shows the run in ``train`` in the given folders.

    A view that fails ends with a line to a person, and the run continues.

    Raises:
        UserError: a package is missing, or ``live`` holds something else.
    """
    view = View(train, sinks(live, tensorboard), context.device)
    for line in ways_to_look(live, tensorboard):
        context.say(line)
    latest: float | None = None

    def update() -> None:
        try:
            if view.sinks:
                view.update(latest)
        except (OSError, UserError, MemoryError, torch.OutOfMemoryError) as error:
            context.say(f"the live view ends, the run continues: {' '.join(str(error).split())}")
            view.sinks = []

    def observe(progress: Progress, rate: float) -> None:
        nonlocal latest
        # The files hold the steps before this one; so must the rate, except at the first step.
        latest = latest or rate
        update()
        latest = rate

    try:
        yield observe
    except (Stopped, UserError):
        if latest is not None:
            update()
        raise
    update()


def follow(
    train: Path,
    sinks: Sequence[Sink],
    device: torch.device,
    seconds: float,
    begin: Callable[[], None] = lambda: None,
) -> None:
    """Show the run of another process until it is finished, with an update every so many ``seconds``.

    ``begin`` is called before the first.

    Raises:
        UserError: there is no such run.
    """
    view = View(train, sinks, device)
    if not (view.folder / "curve.csv").exists():
        raise UserError(f"{train}: no run here, nor in {view.partial}")
    begin()
    while view.partial.exists():
        view.update()
        time.sleep(seconds)
    view.update()
