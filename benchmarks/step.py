"""Time of a training step and of its parts, and how it compares with the plain way.

    python benchmarks/step.py --recipe ict --dataset digits --coupling independent ot vae generator \\
        --compare plain --json FILE
    python benchmarks/step.py --params workflow/papers/ict.yaml --recipe ict --dataset cifar10 \\
        --device cuda --precision bf16 --compile --compare plain float32 --peak-tflops 989

A way of taking the step is `plain` (tests/unit/training/plain.py), or a precision with `+compile` where the
networks are compiled and `+channels_last` where the weights of convolutions, and so activations, lie in that
order of memory. `plain` is float32 without TF32, which torch by itself would use for convolutions. All ways
take turns in one process, each with a run of its own, on images of noise; a ratio is the median over rounds
of the first way's time divided by that of the way, so that the load of the machine weighs on both. Parts are
those that `torch.profiler` sees, in rounds of their own, since recording takes time: on a GPU the time of the
kernels launched in each part. `student` and `teacher` are forward passes; `other` is the rest: the loss, the
check of the gradients, the profiler itself.

Memory is what a step needs beyond what is there before it: on a GPU what torch allocates, on the CPU the
growth of the resident set. FLOP utilisation is what `couplet.cost` counts, over the step's time and what the
device can do in the way's precision: `--peak-tflops`, or what couplet knows of the GPU.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import report
import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from couplet.config.cells import Cell, Training
from couplet.config.layers import merge
from couplet.config.params import Params
from couplet.config.resolve import resolve
from couplet.cost import cost, native_shape, peak_tflops
from couplet.data.archive import Split
from couplet.data.loader import Loader
from couplet.errors import UserError
from couplet.model import ConsistencyModel, ImageShape, build
from couplet.tensors import products
from couplet.training.loop import initial_state, run

sys.path.append(str(Path(__file__).parents[1] / "tests/unit/training"))
import plain

PARTS = ("data", "arrange", "coupling", "student", "teacher", "backward", "optimiser", "ema")
LENGTH = 10_000
"""Steps of the runs, of which only some are taken."""
FEWEST = 3
"""Rounds that are taken however long they last."""


class Result(NamedTuple):
    """One coupling, one way."""

    coupling: str
    way: str
    milliseconds: float
    """Per step, median."""
    speedup: float
    """Over the first way of the run."""
    images_per_second: float
    rounds: int
    """Steps that were timed."""
    parts: dict[str, float]
    """Milliseconds of each, medians; empty if they were not measured."""
    utilisation: float | None
    """Share of the device's peak; None without one."""
    memory: int | None
    """Bytes; None where the system does not tell."""


class Runner:
    """A run that is taken step by step in one way."""

    def __init__(
        self,
        settings: Training,
        shape: ImageShape,
        way: str,
        device: torch.device,
        now: Callable[[], float],
        frozen: ConsistencyModel | None,
    ) -> None:
        self.way, self.device, self.now = way, device, now
        self.seconds: list[float] = []
        self.parts: list[dict[str, float]] = []
        loader = noise_loader(settings, shape)
        state = initial_state(settings, shape, device, frozen=frozen)
        if way == "plain":
            self.precision = "float32"
            self.steps: Iterator[object] = plain.run(settings, state, loader)
            return
        self.precision, *more = way.split("+")
        if "channels_last" in more:
            for model in (state.model, *(average.module for average in state.averages.values())):
                model.to(memory_format=torch.channels_last)
        changes = {"precision": self.precision, "compile": "compile" in more}
        self.steps = run(changed(settings, "train", changes), state, loader)

    def step(self) -> float:
        """Take one step; return its seconds."""
        wait = torch.cuda.synchronize if self.device.type == "cuda" else lambda: None
        wait()
        began = self.now()
        with products():
            next(self.steps)
        wait()
        return self.now() - began

    def timed(self) -> None:
        """Take one step that counts."""
        self.seconds.append(self.step())

    def profiled(self) -> None:
        """Take one step whose parts count."""
        on_gpu = self.device.type == "cuda"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
        with profile(activities=activities) as recorded:
            passed = self.step()
        events = recorded.events()
        parts = dict.fromkeys(PARTS, 0.0)
        for part in (event for event in events if event.name in PARTS):
            span = part.time_range
            if on_gpu:
                inside = (event for event in events if span.start <= event.time_range.start < span.end)
                parts[part.name] += 1e-6 * sum(
                    kernel.duration for event in inside for kernel in event.kernels
                )
            else:
                parts[part.name] += 1e-6 * span.elapsed_us()
        self.parts.append({**parts, "other": passed - sum(parts.values())})

    def memory(self) -> int | None:
        """Bytes that one step needs at most beyond those before it."""
        growth = memory_growth(self.device)
        self.step()
        return growth()


def memory_growth(device: torch.device) -> Callable[[], int | None]:
    """What returns the most memory in use since this call beyond that in use now, in bytes."""
    if device.type == "cuda":
        allocated = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return lambda: torch.cuda.max_memory_allocated(device) - allocated
    if sys.platform != "linux":
        return lambda: None
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # from here on the peak counts
    resident = _status("VmRSS")
    return lambda: _status("VmHWM") - resident


def _status(name: str) -> int:
    """A size that the system keeps of this process, in bytes."""
    content = Path("/proc/self/status").read_text()
    return 1024 * int(re.findall(rf"{name}:\s+(\d+) kB", content)[0])


def changed(settings: Training, section: str, changes: dict[str, Any]) -> Training:
    """The settings with some of a section replaced."""
    return Training.model_validate(merge(settings.model_dump(mode="json"), {section: changes}))


def noise_loader(settings: Training, shape: ImageShape) -> Loader:
    """Batches of noise of the right size."""
    rng = np.random.default_rng(0)
    count = 2 * settings.recipe.batch
    size = (count, shape.resolution, shape.resolution, shape.channels)
    split = Split(
        rng.integers(0, 256, size, dtype=np.uint8), rng.integers(0, max(1, shape.num_classes), count)
    )
    return Loader(
        split,
        batch=settings.recipe.batch,
        seed=settings.cell.seed,
        flip=settings.recipe.flip,
        num_classes=shape.num_classes if settings.recipe.conditional else 0,
    )


def settings_of(params: Params, coupling: str, options: argparse.Namespace) -> tuple[Training, ImageShape]:
    """The settings of the options' cell with this coupling, and its images' shape."""
    names = {
        "dataset": options.dataset,
        "recipe": options.recipe,
        "kernel": options.kernel,
        "coupling": coupling,
    }
    given = {name: value for name, value in names.items() if value is not None}
    cell = params.experiment.model_copy(update=given)
    settings = params.training(cell)
    changes: dict[str, Any] = {"steps": LENGTH, "init_from": None}
    if options.batch is not None:
        changes["batch"] = options.batch
    if options.dropout is not None:
        changes["network"] = {"dropout": options.dropout}
    settings = changed(settings, "recipe", changes)
    settings = changed(settings, "train", {"microbatch": options.microbatch})
    return settings, shape_of(params, cell)


def shape_of(params: Params, cell: Cell) -> ImageShape:
    """What the images of a cell's data set look like, without preparing it.

    Raises:
        UserError: only its files tell.
    """
    shape = native_shape(params.datasets[cell.dataset])
    if shape is None:
        raise UserError(f"datasets.{cell.dataset}: the size of its images is known once it is prepared")
    return shape


def measure(
    settings: Training,
    shape: ImageShape,
    ways: list[str],
    device: torch.device,
    *,
    warmup: int,
    steps: int,
    profiled: int,
    now: Callable[[], float] = time.perf_counter,
    peak: float | None = None,
    until: float = math.inf,
) -> list[Result]:
    """All ways by turns.

    Args:
        steps: rounds, of which the first ``profiled`` have a step whose parts are measured.
        peak: TFLOP/s of the device, where couplet does not know them or is not to be asked.
        until: time of `time.monotonic` after which no round begins, except for the first three.
    """
    # Programs of another coupling's networks count towards torch's limit of programs for one function.
    torch.compiler.reset()
    frozen = build(settings.design, shape).to(device).eval() if settings.coupling.wants_frozen else None
    runners = [Runner(settings, shape, way, device, now, frozen) for way in ways]
    for runner in runners:
        for _ in range(warmup):
            runner.step()
    for number in range(steps):
        if number >= FEWEST and time.monotonic() > until:
            break
        in_turn = runners[:: 1 if number % 2 else -1]
        for runner in in_turn:
            runner.timed()
        for runner in in_turn if number < profiled else ():
            runner.profiled()
    flops = cost(settings, shape).flops * settings.recipe.batch
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    results = []
    for runner in runners:
        seconds = statistics.median(runner.seconds)
        ratios = [first / own for first, own in zip(runners[0].seconds, runner.seconds, strict=True)]
        possible = peak or peak_tflops(name, runner.precision)
        results.append(
            Result(
                coupling=settings.cell.coupling,
                way=runner.way,
                milliseconds=1e3 * seconds,
                speedup=statistics.median(ratios),
                images_per_second=settings.recipe.batch / seconds,
                rounds=len(runner.seconds),
                parts={
                    part: 1e3 * statistics.median(parts[part] for parts in runner.parts)
                    for part in (*PARTS, "other") * bool(runner.parts)
                },
                utilisation=None if possible is None else flops / seconds / possible / 1e12,
                memory=runner.memory(),
            )
        )
    return results


def table(results: list[Result], title: str) -> Table:
    """One line per coupling and way."""
    shown = Table(title=title)
    columns = ("ms/step", "speed-up", "images/s", *PARTS, "other", "FLOP util.", "memory, MB")
    for name in ("coupling", "way"):
        shown.add_column(name)
    for name in columns:
        shown.add_column(name, justify="right")
    for result in results:
        shown.add_row(
            result.coupling,
            result.way,
            f"{result.milliseconds:.1f}",
            f"{result.speedup:.2f}",
            f"{result.images_per_second:,.0f}",
            *(f"{value:.1f}" for value in result.parts.values()),
            "" if result.utilisation is None else f"{result.utilisation:.1%}",
            "" if result.memory is None else f"{result.memory / 1e6:,.0f}",
        )
    return shown


def way(text: str) -> str:
    """A way's name, checked."""
    if text != "plain" and not re.fullmatch(r"(float32|tf32|bf16)(\+compile)?(\+channels_last)?", text):
        raise argparse.ArgumentTypeError(
            f"{text}: allowed: plain, float32, tf32, bf16, and these with +compile, +channels_last or both"
        )
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file")
    parser.add_argument("--scale", help="a name from the file's scales")
    parser.add_argument("--dataset", help="default: the file's; so are recipe, kernel and coupling")
    parser.add_argument("--recipe")
    parser.add_argument("--kernel")
    parser.add_argument("--coupling", nargs="+")
    parser.add_argument("--batch", type=int, help="instead of the recipe's")
    parser.add_argument("--dropout", type=float, help="instead of the recipe's")
    parser.add_argument("--microbatch", type=int, help="images that go through the networks at once")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--threads", type=int, default=1, help="torch's threads on the CPU")
    parser.add_argument("--precision", choices=("float32", "tf32", "bf16"), default="float32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument(
        "--compare", nargs="+", type=way, default=[], metavar="WAY", help="plain, bf16+compile ..."
    )
    parser.add_argument("--steps", type=int, default=15, help="steps that are timed, of each way")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them")
    parser.add_argument(
        "--cpu-time", action="store_true", help="count the process's CPU time, where others use the cores too"
    )
    parser.add_argument("--peak-tflops", type=float, help="what the device can do, for the utilisation")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to FILE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    own = options.precision + "+compile" * options.compile + "+channels_last" * options.channels_last
    ways = list(dict.fromkeys([*options.compare, own]))
    try:
        params = resolve(options.params, options.scale)
        results = []
        for coupling in options.coupling or [params.coupling]:
            settings, shape = settings_of(params, coupling, options)
            results += measure(
                settings,
                shape,
                ways,
                options.device,
                warmup=options.warmup,
                steps=options.steps,
                profiled=options.steps,
                now=time.process_time if options.cpu_time else time.perf_counter,
                peak=options.peak_tflops,
            )
    except UserError as error:
        sys.exit(f"error: {error}")
    recipe = settings.recipe
    title = (
        f"{settings.cell.dataset}, {settings.cell.recipe}: batch {recipe.batch}, "
        f"{shape.channels}x{shape.resolution}x{shape.resolution}, "
        f"{cost(settings, shape).parameters / 1e6:.2f} M parameters, dropout {recipe.network.dropout}, "
        f"{options.device}, {options.threads} threads{', CPU time' * options.cpu_time}"
    )
    Console(width=None if sys.stdout.isatty() else 200).print(table(results, title))
    if options.json:
        rows = [result._asdict() for result in results]
        report.write(options.json, options.device, title=title, results=rows)


if __name__ == "__main__":
    main()
