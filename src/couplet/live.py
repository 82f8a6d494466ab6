"""Live view of a running training, in trackers.

A view follows from files that the run writes anyway, its settings, its curve and its snapshots. So it is
complete at any time and however often the run was resumed, and the run does not depend on it.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from couplet import model
from couplet.config.cells import Training
from couplet.config.datasets import panel_size
from couplet.config.track import Track
from couplet.cost import cost, peak_tflops
from couplet.data.archive import Archive
from couplet.errors import Stopped, UserError
from couplet.plan.layout import checkpoint_name
from couplet.plan.stages import Settings, digest, ingredients, training_in
from couplet.process import Context
from couplet.sampling import first_images
from couplet.stages.train import Observer
from couplet.tensors import default_stream
from couplet.trackers import Seen, Sink, lines_of, opened, ready, reason, ways_to_look
from couplet.training.loop import Progress, shape_of

Meter = Callable[[float], dict[str, float]]
"""From images per second to what is shown of the machine, by the names in `couplet.trackers.MEASURES`."""


def meter(training: Training, data: Path, context: Context, peak: float | None = None) -> Meter:
    """Measure throughput, memory and, where the ``peak`` of a device is known, its utilisation.

    Memory is the most that this process has allocated so far, on its GPU or else altogether, in MiB. The
    utilisation is that of the model's operations: FLOPs per image (:func:`couplet.cost.cost`) times images
    per second, over the peak of all processes.

    Args:
        training: the run's settings.
        data: the archive that the run reads; it need not exist yet.
        context: device and processes.
        peak: TFLOP/s of one device; None for what is known of it.
    """
    device, precision = context.device, training.train.precision
    if peak is None and device.type == "cuda":
        peak = peak_tflops(torch.cuda.get_device_name(device), precision)

    @cache
    def flops() -> int:
        return cost(training, shape_of(Archive(data))).flops

    def measure(rate: float) -> dict[str, float]:
        values = {"images_per_second": rate, "peak_memory_mib": peak_memory(device) / 2**20}
        if peak is not None:
            values["flops_utilisation"] = rate * flops() / (peak * 1e12 * context.ranks.size)
        return values

    return measure


def peak_memory(device: torch.device) -> int:
    """The most memory that this process has had so far, in bytes: on a GPU, torch's; else the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def sample_grid(checkpoint: Path, device: torch.device) -> NDArray[np.uint8]:
    """Draw samples of a snapshot, NFE 1, side by side, uint8 [h, w, c]; every snapshot has the same noise.

    Points of the plane become a scatter plot. The state of torch's own generators does not change.

    Raises:
        UserError: the file cannot be read.
    """
    from couplet.reporting.pictures import tile

    with default_stream(torch.device("cpu"), 0):
        network, saved = model.load(checkpoint, device)
    side = saved.shape.resolution
    return tile(first_images(network, saved, panel_size((side, side, saved.shape.channels))))


class View:
    """Passes the files of the run in the folder ``train`` to trackers, finished or not.

    A tracker that fails ends with a line to a person; the others go on.
    """

    def __init__(
        self, train: Path, tracks: Sequence[Track], device: torch.device, say: Callable[[str], None]
    ) -> None:
        self.train, self.tracks, self.device, self.say = train, [*tracks], device, say
        self.partial = train.with_name(f"{train.name}.partial")
        self.stamp: tuple[Path, int, int] | None = None
        self.id = ""
        self.training: Training | None = None
        self.sinks: dict[Track, Sink] = {}
        self.measured: dict[int, dict[str, float]] = {}
        self.grid = cache(self._grid)

    @property
    def folder(self) -> Path:
        """The folder that the run has at present."""
        return self.partial if self.partial.exists() else self.train

    def update(self, measure: Callable[[], dict[str, float]] = dict) -> None:
        """Show new lines and snapshots, with what is measured of the machine at the last line."""
        folder = self.folder
        try:
            status = (folder / "curve.csv").stat()
            stamp = (folder, status.st_mtime_ns, status.st_size)
            if self.tracks and stamp != self.stamp:
                self._show(folder, measure)
                self.stamp = stamp
        except (OSError, UserError):
            # The finished run may just have been renamed; the next update reads it.
            if self.folder == folder:
                raise

    def _show(self, folder: Path, measure: Callable[[], dict[str, float]]) -> None:
        head, lines = lines_of(folder / "curve.csv")
        if not lines:
            return
        if (training := training_in(folder)) != self.training:
            self.training = training
            if (id := self._id(training)) != self.id:  # another run in this folder
                self.close()
                self.id, self.measured, self.grid = id, {}, cache(self._grid)
        if values := measure():
            self.measured[max(lines)] = values
        # Later snapshots are of a process that was killed; the resumed run writes them again.
        checkpoints = (folder / "checkpoints").glob("step-*.safetensors")
        steps = (int(path.stem.removeprefix("step-")) for path in checkpoints)
        seen = Seen(
            id=self.id,
            training=training,
            head=head,
            lines=lines,
            measured={step: values for step, values in self.measured.items() if step in lines},
            snapshots=sorted(step for step in steps if step <= max(lines)),
            grid=self.grid,
        )
        for track in [*self.tracks]:
            try:
                if track in self.sinks:
                    self.sinks[track].send(seen)
                else:
                    self.sinks[track] = sink = opened(track, seen)
                    next(sink)
            except Exception as error:
                del self.sinks[track]
                self.tracks.remove(track)
                self._complain(track, error)

    def _id(self, training: Training) -> str:
        """The run's id, made of nothing that may change when it resumes."""
        made_of = ingredients("train", Settings.of(training))
        return f"{training.cell}-{digest([str(self.train.absolute()), made_of])}"

    def _grid(self, step: int) -> NDArray[np.uint8]:
        folder = self.folder
        try:
            return sample_grid(folder / "checkpoints" / checkpoint_name(step), self.device)
        except (OSError, UserError):
            if self.folder == folder:  # not renamed meanwhile
                raise
            return sample_grid(self.folder / "checkpoints" / checkpoint_name(step), self.device)

    def _complain(self, track: Track, error: Exception) -> None:
        self.say(f"--track {track}: ends, the run continues: {reason(error)}")

    def close(self) -> None:
        """End every tracker's view; wait for those that are slow, but not for ever."""
        while self.sinks:
            track, sink = self.sinks.popitem()
            try:
                sink.close()
            except Exception as error:
                self._complain(track, error)


@contextmanager
def observed(
    train: Path, context: Context, tracks: Sequence[Track] = (), measure: Meter = lambda rate: {}
) -> Iterator[Observer]:
    """Give a function to call after every step, which shows the run in ``train`` in trackers.

    A view that fails ends with a line to a person, and the run continues.

    Raises:
        UserError: a tracker cannot be used, see :func:`couplet.trackers.ready`.
    """
    ready(tracks)
    view = View(train, tracks, context.device, context.say)
    for line in ways_to_look(tracks):
        context.say(line)
    latest: float | None = None

    def update() -> None:
        try:
            view.update(lambda: {} if latest is None else measure(latest))
        except Exception as error:
            context.say(f"the live view ends, the run continues: {reason(error)}")
            view.tracks = []

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
    else:
        update()
    finally:
        view.close()


def follow(train: Path, tracks: Sequence[Track], context: Context, seconds: float) -> None:
    """Show the run of another process until it is finished, with an update every so many ``seconds``.

    Raises:
        UserError: there is no such run, a tracker cannot be used, or none is left.
    """
    ready(tracks)
    view = View(train, tracks, context.device, context.say)
    if not (view.folder / "curve.csv").exists():
        raise UserError(f"{train}: no run here, nor in {view.partial}")
    for line in ways_to_look(tracks):
        context.say(line)
    try:
        while True:
            going = view.partial.exists()
            view.update()
            if not view.tracks:
                raise UserError(f"{train}: no tracker is left")
            if not going:
                return
            time.sleep(seconds)
    finally:
        view.close()
