"""Live view of a running training: files for DVC, events for TensorBoard.

A view is made from files that the run writes anyway, its curve and its snapshots. So it is complete whenever
one begins to look and however often the run was resumed, and the run does not depend on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
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
from couplet.process import Context
from couplet.sampling import generate
from couplet.stages.train import Observer
from couplet.tensors import default_stream
from couplet.training.loop import Progress

COLUMNS, LEAST_SIDE = 6, 32
"""Samples in a row of a grid; smaller images are enlarged to at least this side, in pixels."""


class Seen(NamedTuple):
    """The files of a run so far, with one line of its curve at least."""

    columns: list[str]
    """Columns of curve.csv; the first is `step`."""
    lines: list[str]
    """Lines of curve.csv, without its head."""
    rate: float | None
    """Images per second up to the last line, where known."""
    snapshots: list[int]
    """Steps of the snapshots."""
    grid: Callable[[int], NDArray[np.uint8]]
    """The grid of a snapshot's step, see :func:`sample_grid`."""


Sink = Callable[[Seen], None]
"""Shows a run. It is called again and again, and determines what is new."""


def sinks(live: Path | None, tensorboard: Path | None) -> list[Sink]:
    """A sink for every folder that is given.

    Raises:
        UserError: a package is missing, or ``live`` holds something else.
    """
    chosen: list[Sink] = []
    if live is not None:
        with installed(f"--live {live}"):
            import_module("couplet.reporting.figures")
        chosen.append(DVCFiles(live))
    if tensorboard is not None:
        with installed(f"--tensorboard {tensorboard}"):
            import_module("tensorboard")
            import_module("couplet.reporting.figures")
        chosen.append(TensorBoard(tensorboard))
    return chosen


class DVCFiles:
    """Updates files that `dvc plots` and `dvc exp show` read.

    curve.csv is that of the run; speed.csv has the images per second at the steps of which they are known;
    metrics.json has the last line of both; samples/STEP.png is the grid of a snapshot.

    DVCLive writes the same formats, but reads all its files again after every line and initialises DVC in a
    Git repository that has none.
    """

    def __init__(self, folder: Path) -> None:
        own = {"curve.csv", "speed.csv", "metrics.json", "samples"}
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        if any(not name.startswith(".") for name in names - own):
            raise UserError(f"--live {folder}: holds something else than a live view; choose another folder")
        remove_temporary(folder)
        self.folder = folder

    def __call__(self, seen: Seen) -> None:
        before = self._lines("curve.csv")
        rates = self._rates(seen, before)
        self._write("curve.csv", ",".join(seen.columns), seen.lines)
        self._write("speed.csv", "step,images_per_second", rates)
        last = dict(zip(seen.columns, seen.lines[-1].split(","), strict=True))
        metrics = {"step": int(last["step"]), "loss": float(last["loss"])}
        if seen.rate is not None:
            metrics["images_per_second"] = round(seen.rate, 1)
        write_json(self.folder / "metrics.json", metrics)
        # The first line tells whether the old pictures are of this run.
        self._draw(seen, keep=seen.snapshots if seen.lines[0] in before else [])

    def _lines(self, name: str) -> list[str]:
        """The present lines of a file, without its head."""
        path = self.folder / name
        return path.read_text().splitlines()[1:] if path.exists() else []

    def _write(self, name: str, head: str, lines: Sequence[str]) -> None:
        with replacing(self.folder / name) as temporary:
            temporary.write_text("\n".join([head, *lines]) + "\n")

    def _rates(self, seen: Seen, before: Sequence[str]) -> list[str]:
        """Lines of speed.csv: those of steps whose line of the curve has not changed, and the last."""
        same = {_step(line) for line in set(before) & set(seen.lines)}
        rates = {_step(line): line for line in self._lines("speed.csv") if _step(line) in same}
        if seen.rate is not None:
            last = _step(seen.lines[-1])
            rates.setdefault(last, f"{last},{seen.rate:.1f}")
        return list(rates.values())

    def _draw(self, seen: Seen, keep: Sequence[int]) -> None:
        from PIL import Image

        folder = self.folder / "samples"
        here = {int(path.stem): path for path in folder.glob("*.png") if path.stem.isdigit()}
        for step in here.keys() - keep:
            here.pop(step).unlink()
        for step in seen.snapshots:
            if step not in here:
                with replacing(folder / f"{step}.png") as temporary:
                    Image.fromarray(seen.grid(step).squeeze()).save(temporary, format="png")


def _step(line: str) -> int:
    """The first cell of a line."""
    return int(line.partition(",")[0])


class TensorBoard:
    """Writes events for TensorBoard."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: list[str] = []
        self.snapshots: set[int] = set()
        self.writer: Any = None

    def __call__(self, seen: Seen) -> None:
        if self.writer is None or seen.lines[: len(self.lines)] != self.lines:
            self._start()
        for line in seen.lines[len(self.lines) :]:
            values = dict(zip(seen.columns, line.split(","), strict=True))
            at = int(values.pop("step"))
            for name, value in values.items():
                self.writer.add_scalar(name, float(value), at)
            self.lines.append(line)
        if seen.rate is not None:
            self.writer.add_scalar("images_per_second", seen.rate, _step(seen.lines[-1]))
        for step in seen.snapshots:
            if step not in self.snapshots:
                self.writer.add_image("samples", seen.grid(step), step, dataformats="HWC")
                self.snapshots.add(step)
        self.writer.flush()

    def _start(self) -> None:
        """Hide all earlier events; they are written again."""
        from torch.utils.tensorboard import SummaryWriter

        if self.writer is not None:
            self.writer.close()
        self.writer = SummaryWriter(str(self.folder), purge_step=0)
        self.lines, self.snapshots = [], set()


def sample_grid(checkpoint: Path, device: torch.device) -> NDArray[np.uint8]:
    """Draw samples of a snapshot, NFE 1, side by side, uint8 [h, w, c]; every snapshot has the same noise.

    Points of the plane become a scatter plot. The state of torch's own generators does not change.

    Raises:
        UserError: the file cannot be read.
    """
    from couplet.reporting.figures import panel_size, tile

    with default_stream(torch.device("cpu"), 0):
        network, saved = model.load(checkpoint, device)
    recipe, side = saved.training.recipe, saved.shape.resolution
    image = (side, side, saved.shape.channels)
    count = panel_size(image)
    batches = generate(
        network,
        saved.shape,
        seed=saved.training.cell.seed,
        purpose="live",
        count=count,
        batch=count,
        levels=[recipe.sigma_max],
        nfe=[1],
        boundary=recipe.boundary.sampling,
        conditional=recipe.conditional,
    )
    scale = 1 if is_plane(image) else -(-LEAST_SIDE // side)
    images = np.concatenate([batch[1] for batch in batches])
    return tile(images.repeat(scale, axis=1).repeat(scale, axis=2), COLUMNS)


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
        """Show new lines and snapshots, with the images per second up to the last line.

        Raises:
            UserError: a file cannot be read or written.
        """
        folder = self.folder
        try:
            about = (folder / "curve.csv").stat()
            stamp = (folder, about.st_mtime_ns, about.st_size)
            if stamp != self.stamp:
                self._show(folder, rate)
                self.stamp = stamp
        except (OSError, UserError):
            # The finished run has just moved: next time.
            if self.folder == folder:
                raise

    def _show(self, folder: Path, rate: float | None) -> None:
        text = (folder / "curve.csv").read_text()
        head, *lines = text[: text.rfind("\n") + 1].splitlines() or [""]
        if not lines:
            return
        last = _step(lines[-1])
        paths = {
            int(path.stem.removeprefix("step-")): path
            for path in sorted((folder / "checkpoints").glob("step-*.safetensors"))
        }

        @cache
        def grid(step: int) -> NDArray[np.uint8]:
            return sample_grid(paths[step], self.device)

        # Later ones are of a process that was killed; the resumed run writes them again.
        snapshots = [step for step in paths if step <= last]
        for sink in self.sinks:
            sink(Seen(head.split(","), lines, rate, snapshots, grid))


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
    latest: float | None = None

    def update() -> None:
        nonlocal view
        try:
            view.update(latest)
        except (OSError, UserError, MemoryError, torch.OutOfMemoryError) as error:
            context.say(f"the live view ends, the run continues: {' '.join(str(error).split())}")
            view = View(train, [], context.device)

    def observe(progress: Progress, rate: float) -> None:
        nonlocal latest
        # The files hold the steps before this one; so must the rate, except at the first step.
        latest = latest or rate
        update()
        latest = rate

    if not view.sinks:
        yield lambda progress, rate: None
        return
    try:
        yield observe
    except (Stopped, UserError):
        if latest is not None:
            update()
        raise
    update()


def follow(train: Path, sinks: Sequence[Sink], device: torch.device, seconds: float) -> None:
    """Show the run of another process, looking every so many seconds, until it is finished.

    Raises:
        UserError: there is no such run, or a file cannot be read or written.
    """
    view = View(train, sinks, device)
    if not (view.folder / "curve.csv").exists():
        raise UserError(f"{train}: no run here, nor in {view.partial}")
    while view.partial.exists():
        view.update()
        time.sleep(seconds)
    view.update()
