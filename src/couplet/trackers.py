"""Trackers: a function each that shows a run in DVC, TensorBoard, Weights & Biases or MLflow.

Each is given the whole run so far, again and again, and finds out by itself what is new. So a view is
complete at any time, however often the run was resumed and whoever shows it. Another tracker is a function
here, and an entry in :data:`SINKS`, in :data:`LOOKS` and in ``couplet.config.track.FORMS``.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from queue import Empty, Queue
from threading import Event, Thread
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from couplet.config.cells import Training
from couplet.config.layers import leaves
from couplet.config.track import Track, without_password
from couplet.errors import UserError, installed
from couplet.files import remove_temporary, replacing, write_json

MEASURES = ("images_per_second", "peak_memory_mib", "flops_utilisation")
"""What is measured of the machine besides the scalars of the curve."""

PATIENCE = 30.0
"""Seconds that a finished run waits for a tracker on another machine."""

PROJECT = "couplet"
"""Project or experiment where none is named."""


ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_SILENT": "true",
}
"""Variables that keep packages from reporting to their makers and from printing, unless they are set."""


class Seen(NamedTuple):
    """A run so far, with one line of its curve at least."""

    id: str
    """The cell, and digits that differ between folders, settings and code; the same when a run resumes."""
    training: Training
    """The run's settings."""
    head: str
    """Column names of curve.csv; the first is `step`."""
    lines: dict[int, str]
    """Lines of curve.csv by step."""
    measured: dict[int, dict[str, float]]
    """Values of :data:`MEASURES` by step, as far as this process measured them."""
    snapshots: list[int]
    """Steps of the snapshots."""
    grid: Callable[[int], NDArray[np.uint8]]
    """The grid of a snapshot's step, see :func:`couplet.live.sample_grid`."""

    @property
    def finished(self) -> bool:
        """Whether the last step has been taken."""
        return max(self.lines) >= self.training.recipe.steps

    def values(self, step: int) -> dict[str, float]:
        """The scalars of a line's step."""
        curve = zip(self.head.split(",")[1:], map(float, self.lines[step].split(",")[1:]), strict=True)
        return {**dict(curve), **self.measured.get(step, {})}


Sink = Generator[None, Seen, None]
"""Shows a run: when it is started, what it was called with; then whatever it is sent, until it is closed."""


def ready(tracks: Iterable[Track]) -> None:
    """Check that trackers can be used, before any work.

    Raises:
        UserError: a package is missing, a folder holds something else, or nobody is logged in.
    """
    for track in tracks:
        with installed(f"--track {track}"):
            import_module("couplet.reporting.pictures")
            for name, value in ENVIRONMENT.items():
                os.environ.setdefault(name, value)
            package = import_module({"dvc": "PIL"}.get(track.kind, track.kind))
        if track.kind == "dvc":
            _refuse_other(track)
        if track.kind == "wandb":
            _check_login(track, package)


def _refuse_other(track: Track) -> None:
    folder, own = Path(track.place), {"curve.csv", "speed.csv", "metrics.json", "samples"}
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if any(not name.startswith(".") for name in names - own):
        raise UserError(f"--track {track}: holds something else than a live view; choose another folder")


def _check_login(track: Track, wandb: Any) -> None:
    try:
        known = wandb.setup().settings.mode != "online" or wandb.login(prompt=False, verify=False)
    except (wandb.Error, ValueError) as error:  # of a key, or of a variable of W&B's
        raise UserError(f"--track {track}: {reason(error)}") from None
    if not known:
        raise UserError(f"--track {track}: not logged in; run `wandb login`, or set WANDB_MODE=offline")


def opened(track: Track, seen: Seen) -> Sink:
    """The sink of a tracker, which shows ``seen`` when it is started."""
    return SINKS[track.kind](track.place, seen)


def ways_to_look(tracks: Iterable[Track]) -> Iterator[str]:
    """A line for each tracker on how to look at it."""
    for track in tracks:
        yield f"live view: {LOOKS[track.kind](without_password(track.place))}"


def dvc_files(folder: str, seen: Seen) -> Sink:
    """Update files for `dvc plots` and `dvc exp show`.

    curve.csv is that of the run; speed.csv has what was measured, where it was; metrics.json has step and
    loss; samples/STEP.png is the grid of a snapshot.

    DVCLive writes the same formats, but reads all its files again after every line and initialises DVC in a
    Git repository that has none.
    """
    remove_temporary(Path(folder))
    while True:
        _update(Path(folder), seen)
        seen = yield


def _update(folder: Path, seen: Seen) -> None:
    from PIL import Image

    unchanged = dict(lines_of(folder / "curve.csv")[1].items() & seen.lines.items())
    speed, former = ",".join(["step", *MEASURES]), lines_of(folder / "speed.csv")
    rates = {step: line for step, line in former[1].items() if step in unchanged and former[0] == speed}
    for step, values in seen.measured.items():
        rates[step] = ",".join(
            [str(step), *(f"{values[name]:.6g}" if name in values else "" for name in MEASURES)]
        )
    first, last = min(seen.lines), max(seen.lines)
    for name, head, lines in (("curve.csv", seen.head, seen.lines), ("speed.csv", speed, rates)):
        with replacing(folder / name) as temporary:
            temporary.write_text("\n".join([head, *(lines[step] for step in sorted(lines))]) + "\n")
    write_json(folder / "metrics.json", {"step": last, "loss": seen.values(last)["loss"]})
    drawn = {int(path.stem): path for path in folder.glob("samples/*.png") if path.stem.isdigit()}
    # The first line tells whether the old pictures are of this run.
    for step in drawn.keys() - (seen.snapshots if first in unchanged else []):
        drawn.pop(step).unlink()
    for step in seen.snapshots:
        if step not in drawn:
            with replacing(folder / f"samples/{step}.png") as temporary:
                Image.fromarray(seen.grid(step).squeeze()).save(temporary, format="png")


def lines_of(path: Path) -> tuple[str, dict[int, str]]:
    """The head of a CSV file and its complete lines by their first cell, a step; nothing without a file."""
    text = path.read_text() if path.exists() else ""
    head, *lines = text[: text.rfind("\n") + 1].splitlines() or [""]
    return head, {int(line.partition(",")[0]): line for line in lines}


def tensorboard_events(folder: str, seen: Seen) -> Sink:
    """Write events for TensorBoard, each run to its own folder in ``folder``."""
    from torch.utils.tensorboard import SummaryWriter

    while True:
        # All events of earlier processes are hidden and written again.
        with closing(SummaryWriter(str(Path(folder, seen.id)), purge_step=0)) as writer:
            settings = json.dumps(seen.training.model_dump(mode="json"), indent=2)
            writer.add_text("settings", f"```json\n{settings}\n```", 0)
            lines: dict[int, str] = {}
            drawn: set[int] = set()
            while lines.items() <= seen.lines.items():
                for step in sorted(seen.lines.keys() - lines):
                    for name, value in seen.values(step).items():
                        writer.add_scalar(name, value, step)
                for step in sorted({*seen.snapshots} - drawn):
                    writer.add_image("samples", seen.grid(step), step, dataformats="HWC")
                lines, drawn = seen.lines, {*seen.snapshots}
                writer.flush()
                seen = yield


def wandb_run(project: str, seen: Seen) -> Sink:
    """Log to Weights & Biases, in a project of the user or, as ``ENTITY/PROJECT``, of a team.

    A resumed run continues where the server knows it. Offline, every process writes the whole run.
    """
    import wandb

    entity, _, name = (project or os.environ.get("WANDB_PROJECT", PROJECT)).rpartition("/")
    run = wandb.init(
        entity=entity or None,
        project=name,
        id=seen.id[-128:],
        name=str(seen.training.cell),
        group=seen.training.cell.name,
        config=seen.training.model_dump(mode="json"),
        resume="allow",
        reinit="create_new",
        settings=wandb.Settings(
            console="off",
            init_timeout=PATIENCE,
            finish_timeout=PATIENCE * 2 / 3,
            finish_timeout_raises=True,
        ),
    )
    try:
        run.define_metric("*", step_metric="step")
        shown = drawn = run.summary.get("step", 0)
        while True:
            new = {step: seen.values(step) for step in seen.lines if step > shown}
            pictures: dict[int, Any] = {step: {} for step in seen.snapshots if step > drawn}
            for step in sorted({*new, *pictures}):
                picture = {"samples": wandb.Image(seen.grid(step).squeeze())} if step in pictures else {}
                run.log({"step": step, **new.get(step, {}), **picture})
            shown, drawn = max(shown, *seen.lines), max(drawn, 0, *seen.snapshots)
            seen = yield
    finally:
        run.finish(exit_code=0 if seen.finished else 1)


def mlflow_run(place: str, seen: Seen) -> Sink:
    """Log to MLflow, at a URI or else in an experiment; the environment's or MLflow's own where not given."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    is_uri = "://" in place
    client = MlflowClient(place if is_uri else None)
    run = _run_of(client, _experiment("" if is_uri else place), seen)
    shown = {metric.step for metric in client.get_metric_history(run, "loss")}
    names = (Path(file.path).name for file in client.list_artifacts(run, "images"))
    drawn = {int(found[1]) for found in map(re.compile(r"samples\Wstep\W(\d+)").match, names) if found}
    settings = {".".join(keys): str(value) for keys, value in leaves(seen.training.model_dump(mode="json"))}
    # MLflow refuses another value; those that may differ when a run resumes decide no number.
    new = settings.keys() - client.get_run(run).data.params
    for part in _parts([Param(key, settings[key][:6000]) for key in sorted(new)], 100):
        client.log_batch(run, params=part)
    try:
        while True:
            now = int(time.time() * 1000)
            metrics = [
                Metric(name, value, now, step)
                for step in sorted(seen.lines.keys() - shown)
                for name, value in seen.values(step).items()
            ]
            for part in _parts(metrics, 1000):
                client.log_batch(run, metrics=part)
            for step in sorted({*seen.snapshots} - drawn):
                client.log_image(run, seen.grid(step), key="samples", step=step)
            shown, drawn = shown.union(seen.lines), drawn.union(seen.snapshots)
            seen = yield
    except GeneratorExit:
        client.set_terminated(run, "FINISHED" if seen.finished else "KILLED")


def _experiment(name: str) -> str:
    return name or os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)


def _run_of(client: Any, name: str, seen: Seen) -> str:
    """MLflow's id of a run in an experiment: one that exists, or a new one."""
    experiment = client.get_experiment_by_name(name)
    at = experiment.experiment_id if experiment else client.create_experiment(name)
    found = client.search_runs([at], f"tags.couplet = '{seen.id}'", max_results=1)
    if not found:
        return client.create_run(at, run_name=str(seen.training.cell), tags={"couplet": seen.id}).info.run_id
    client.update_run(found[0].info.run_id, status="RUNNING")
    return found[0].info.run_id


def _parts(items: Sequence[Any], most: int) -> Iterator[Sequence[Any]]:
    return (items[begin : begin + most] for begin in range(0, len(items), most))


def in_background(sink: Callable[[str, Seen], Sink], place: str, seen: Seen) -> Sink:
    """Run a sink in a thread of its own, so that a slow or silent machine delays no step.

    A sink that is slower than the run skips to the newest. The grids that it asks for are drawn by the
    caller, because another thread would disturb the training's generators.
    """
    box: Queue[Seen] = Queue(1)
    asked: Queue[tuple[int, Future[NDArray[np.uint8]]]] = Queue()
    ended = Event()
    failed: list[str] = []

    def ask(step: int) -> NDArray[np.uint8]:
        grid: Future[NDArray[np.uint8]] = Future()
        asked.put((step, grid))
        return grid.result()

    def draw() -> None:
        while not asked.empty():
            step, grid = asked.get()
            try:
                grid.set_result(seen.grid(step))
            except Exception as error:
                grid.set_exception(error)

    def work() -> None:
        try:
            with closing(sink(place, box.get())) as showing:
                next(showing)
                while not (ended.is_set() and box.empty()):
                    with suppress(Empty):
                        showing.send(box.get(timeout=0.1))
        except BaseException as error:  # also a package that ends the process
            failed.append(reason(error))

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        while not failed:
            draw()
            with suppress(Empty):
                box.get_nowait()
            box.put(seen._replace(grid=ask))
            seen = yield
    finally:
        ended.set()
        deadline = time.monotonic() + PATIENCE
        while thread.is_alive() and time.monotonic() < deadline:
            draw()
            thread.join(0.05)
        if thread.is_alive():
            failed.append(f"no answer within {PATIENCE:g} seconds")
        if failed:
            raise RuntimeError(failed[0])


def reason(error: BaseException) -> str:
    """What an error says, in one line."""
    text = without_password(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) < 300 else text[:297] + "..."


SINKS: Mapping[str, Callable[[str, Seen], Sink]] = {
    "dvc": dvc_files,
    "tensorboard": tensorboard_events,
    "wandb": partial(in_background, wandb_run),
    "mlflow": partial(in_background, mlflow_run),
}
"""The sink of each kind of tracker, called with its place and the run so far."""

LOOKS: Mapping[str, Callable[[str], str]] = {
    "dvc": lambda place: f"{place}: curve.csv, metrics.json and samples/STEP.png grow with the run",
    "tensorboard": lambda place: f"{place}: look with `tensorboard --logdir {shlex.quote(place)}`",
    "wandb": lambda place: f"Weights & Biases, project {place or PROJECT}",
    "mlflow": lambda place: f"MLflow, {place or PROJECT}",
}
"""How to look at the place of each kind of tracker."""
