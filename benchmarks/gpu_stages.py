"""The stages of gpu.py: parts by name, each a function of the time at which it is to end."""

from __future__ import annotations

import gc
import hashlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import report
import torch
from loader import make_files
from loader import measure as measure_loader
from numpy.typing import NDArray
from PIL import Image
from sample import inception
from sample import measure as measure_samples
from step import LENGTH, changed
from step import measure as measure_step
from transport import make_images

from couplet import process
from couplet.config.cells import Training
from couplet.config.datasets import from_path
from couplet.config.designs import SamplerConfig
from couplet.config.resolve import resolve
from couplet.data.archive import CARD, Archive, Source, Split, write
from couplet.data.sources.base import read
from couplet.errors import UserError
from couplet.files import read_json, replacing
from couplet.files import sha256 as file_sha256
from couplet.model import ConsistencyModel, ImageShape
from couplet.provenance.record import source
from couplet.sampling import generate
from couplet.tensors import CPU, generator
from couplet.training.loop import initial_state, loader_of, shape_of
from couplet.training.loop import run as steps_of
from couplet.training.state import State

ROOT = Path(__file__).parents[1]
PARAMS = ROOT / "workflow/papers/gc.yaml"
COUPLINGS = ("independent", "ot", "vae", "generator")

WEIGHTS = {"tests": 110, "step": 150, "ot": 35, "loader": 15, "sample": 35, "resume": 20, "train": 170}
"""Of the time that is left, a stage has its share among the stages from it on."""

GRACE, END = 5.0, 10.0
"""Seconds: after its time until a part is interrupted; for the end of the command."""

SAMPLING = 3.0
"""Seconds of a run that are left for its samples."""

EAGER = [
    f"{precision}{order}" for precision in ("float32", "tf32", "bf16") for order in ("", "+channels_last")
]

TINY = {"network": {"model_channels": 8, "num_blocks": 1, "channel_mult": [1]}}

SIDE = 6
"""Images in a row and in a column of a panel of samples."""

Part = Callable[[float], Any]
"""A measurement, which is to end at a time of `time.monotonic`."""


class OutOfTime(BaseException):
    """A part's time is over; no error, so that nothing takes it for one."""


class Bench:
    """What all stages share: device, settings and images."""

    def __init__(self, options: Namespace, folder: Path) -> None:
        self.device = process.find(options.device)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        self.tiny: bool = options.tiny
        self.found: dict[str, Any] = {}
        """The results of the present stage's parts, so far."""
        self.out: Path = options.out
        self.data: Path | None = options.data
        self.folder = folder
        self.side = 8 if self.tiny else 32
        """Pixels per side of images that are made here."""
        self.batch = 8 if self.tiny else 128
        """Images of a step, for ways of taking it."""
        self.large = 32 if self.tiny else 1024
        """Images of a step with transport."""

    def training(self, coupling: str, scale: str | None = None, **recipe: Any) -> Training:
        """GC's CIFAR-10 row with another coupling and some settings of its recipe changed."""
        params = resolve(PARAMS, scale, ["couplings.vae={}"])
        training = params.training(params.experiment.model_copy(update={"coupling": coupling}))
        if self.tiny:
            training = changed(training, "recipe", TINY)
        return changed(training, "recipe", recipe)

    @cached_property
    def archive(self) -> Archive:
        """The images of `--data`, or synthetic ones."""
        if self.data and (self.data / CARD).exists():
            return Archive(self.data)
        folder = self.folder / "data"
        if self.data is None:
            write(folder, "cifar10", synthetic(256 if self.tiny else 10_000, self.side))
        else:
            with read(from_path("cifar10", self.data), self.folder) as images:
                write(folder, "cifar10", images, workers=torch.get_num_threads())
        return Archive(folder)

    @property
    def shape(self) -> ImageShape:
        """Of the images."""
        return shape_of(self.archive)

    def state(self, training: Training) -> State:
        """The run before its first step."""
        return initial_state(training, self.shape, self.device)

    def steps(self, training: Training, state: State, ahead: int | None = None) -> Any:
        """The run's further steps, to be closed."""
        joint = state.model.coupling.joint_images
        loader = loader_of(training, self.archive, joint_images=joint)
        return closing(steps_of(training, state, loader, ahead=ahead))  # type: ignore[type-var]

    def clock(self, work: Callable[[], object]) -> float:
        """Seconds that a function takes on the device."""
        wait = torch.cuda.synchronize if self.device.type == "cuda" else lambda: None
        wait()
        began = time.perf_counter()
        work()
        wait()
        return time.perf_counter() - began


def synthetic(count: int, side: int) -> Source:
    """Gaussian images with the spectrum of natural ones, as in transport.py."""
    images = make_images(count, (3, side, side), generator(CPU, "synthetic"))
    pixels = (images * 127.5 + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    split = Split(pixels.numpy(), np.zeros(count, np.int64))
    return Source("synthetic: Gaussian, spectrum 1/f", (), {"train": split})


def tests(bench: Bench) -> dict[str, Part]:
    """The tests that are marked `gpu`, in one process."""
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text()]

    def part(until: float) -> dict[str, Any]:
        options = ["-m", "gpu", "-v", "--tb=short", "-p", "no:cacheprovider", "-W", "default"]
        with (bench.folder / "tests.log").open("w+") as log:
            command = [sys.executable, "-m", "pytest", *options, *map(str, sorted(files))]
            running = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
            try:
                running.wait(max(1.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                pass
            finally:
                running.kill()
                code = running.wait()
            log.seek(0)
            return {"exit_code": code, **outcomes(log.read())}

    return {"gpu": part}


def outcomes(log: str) -> dict[str, Any]:
    """Numbers of tests by outcome, and the end of pytest's output where one failed."""
    each = re.findall(r"^(\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED)\b", log, re.MULTILINE)
    counted = {word.lower(): sum(found == word for _, found in each) for word in ("PASSED", "SKIPPED")}
    failed = [name for name, found in each if found in ("FAILED", "ERROR")]
    return {**counted, "failed": failed, "output": log[-8000:] if failed or not each else ""}


def step(bench: Bench) -> dict[str, Part]:
    """Ways of taking a step, in groups that take turns with the plain one: the most telling ones first."""

    def part(coupling: str, ways: list[str], until: float) -> list[dict[str, Any]]:
        training = bench.training(coupling, batch=bench.batch, steps=LENGTH)
        shape = ImageShape(3, bench.side, 0)
        compiled = any("compile" in way for way in ways)
        found = measure_step(
            training,
            shape,
            ["plain", *ways],
            bench.device,
            warmup=1 if bench.tiny else 3,
            steps=3 if bench.tiny else 12,
            profiled=0 if compiled or bench.tiny else 1,
            until=until,
        )
        return [row._asdict() for row in found]

    compiled = {
        f"compiled {name}": [f"{name}+compile", f"{name}+compile+channels_last"]
        for name in ("bf16", "tf32", "float32")
    }
    groups = {"eager": EAGER, **compiled}
    if bench.tiny:
        groups = {"eager": ["float32", "float32+channels_last"]}
    couplings = COUPLINGS[:1] if bench.tiny else COUPLINGS
    return {
        f"{coupling} {name}": partial(part, coupling, ways)
        for name, ways in groups.items()
        for coupling in couplings
    }


def transport(bench: Bench) -> dict[str, Part]:
    """Steps with minibatch OT beside steps with none: what is left of its time when a thread finds it."""

    def part(until: float) -> dict[str, Any]:
        ways = {"independent": ("independent", None), "ahead": ("ot", 2), "within": ("ot", 0)}
        count = 2 if bench.tiny else 5
        runs = {}
        for way, (coupling, ahead) in ways.items():
            training = bench.training(coupling, batch=bench.large, steps=LENGTH)
            precision = "bf16" if bench.device.type == "cuda" else "float32"
            training = changed(training, "train", {"precision": precision})
            runs[way] = (training, bench.state(training), ahead)
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(8):
            if number >= 2 and time.monotonic() > until:
                break
            for way in [*ways][:: -1 if number % 2 else 1]:
                training, state, ahead = runs[way]
                state.step = 0
                with bench.steps(training, state, ahead) as steps:
                    list(islice(steps, 3))
                    took = bench.clock(lambda steps=steps: list(islice(steps, count)))  # type: ignore[misc]
                seconds[way].append(took / count)
        ratios = {
            way: statistics.median(
                own / base for own, base in zip(seconds[way], seconds["independent"], strict=True)
            )
            for way in ("ahead", "within")
        }
        milliseconds = {way: 1e3 * statistics.median(found) for way, found in seconds.items()}
        return {"batch": bench.large, "milliseconds": milliseconds, "over_independent": ratios}

    def alone(until: float) -> dict[str, float]:
        coupling = bench.state(bench.training("ot", batch=bench.large)).model.coupling
        draws = generator(bench.device, "ot")
        shape = (bench.large, 3, bench.side, bench.side)
        images, noise = (torch.randn(shape, generator=draws, device=bench.device) for _ in range(2))
        work = partial(coupling.arrange, images, noise)
        bench.clock(work)
        return {"milliseconds": 1e3 * statistics.median(bench.clock(work) for _ in range(5))}

    return {"arrange alone": alone, "steps": part}


def loader(bench: Bench) -> dict[str, Part]:
    """Images per second of the loader at CIFAR-10's size."""
    count, seconds = (500, 0.05) if bench.tiny else (50_000, 0.5)

    def part(batch: int, until: float) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
            make_files(Path(folder), (32, 32, 3), count)
            row = measure_loader(
                Path(folder), batch, flip=True, labels=True, seconds=seconds, device=bench.device
            )
        return row._asdict()

    return {f"batch {batch}": partial(part, batch) for batch in ((64,) if bench.tiny else (256, 1024))}


def sample(bench: Bench) -> dict[str, Part]:
    """Images per second of sampling, alone and with Inception's features."""
    count, batch = (16, 8) if bench.tiny else (4000, 250)
    options = Namespace(device=bench.device, compile=False, count=count, batch=batch)

    def part(precision: str, nfe: int, features: bool, until: float) -> dict[str, Any]:
        training = bench.training("independent")
        model: ConsistencyModel = bench.state(training).ema.module
        extract = inception(bench.folder, batch, bench.device) if features else None
        training = changed(training, "recipe", {"mid_sigmas": [0.8]})
        return measure_samples(training, bench.shape, model, nfe, precision, extract, options)._asdict()

    parts = {f"{precision} NFE 2": partial(part, precision, 2, False) for precision in ("float32", "bf16")}
    return {**parts, "float32 NFE 1 with features": partial(part, "float32", 1, True)}


def resume(bench: Bench) -> dict[str, Part]:
    """A run from a saved state against the undisturbed one: largest difference of a loss, relative."""
    count = 4 if bench.tiny else 20

    def part(coupling: str, until: float) -> dict[str, Any]:
        training = bench.training(coupling, "small", steps=count, batch=bench.batch)
        with bench.steps(training, bench.state(training)) as steps:
            wanted = [done.loss for done in steps][count // 2 :]
        state, path = bench.state(training), bench.folder / "state.safetensors"
        with bench.steps(training, state) as steps:
            list(islice(steps, count // 2))
            state.save(path, key="", data="")
            again = [done.loss for done in steps]
        resumed = bench.state(training)
        resumed.restore(path, key="", data="")
        with bench.steps(training, resumed) as steps:
            found = [done.loss for done in steps]
        return {"steps": len(wanted), "resumed": _apart(found, wanted), "undisturbed": _apart(again, wanted)}

    return {coupling: partial(part, coupling) for coupling in COUPLINGS}


def _apart(found: list[float], wanted: list[float]) -> float:
    """Largest relative difference of losses."""
    return max(abs(a - b) / abs(b) for a, b in zip(found, wanted, strict=True))


def train(bench: Bench) -> dict[str, Part]:
    """Runs of all couplings, of one number of steps, which the first part finds from the time."""
    precision = "bf16" if bench.device.type == "cuda" else "float32"

    def settings(coupling: str, steps: int) -> Training:
        warmup = {"warmup": max(1, steps // 10)}
        batch = {"batch": bench.batch} if bench.tiny else {}
        training = bench.training(coupling, "small", steps=steps, learning_rate=warmup, **batch)
        return changed(training, "train", {"precision": precision})

    def pace(until: float) -> dict[str, Any]:
        seconds = {}
        for coupling in COUPLINGS:
            training = settings(coupling, LENGTH)
            with bench.steps(training, bench.state(training)) as steps:
                list(islice(steps, 3))
                seconds[coupling] = bench.clock(lambda steps=steps: list(islice(steps, 5))) / 5  # type: ignore[misc]
        left = until - time.monotonic() - SAMPLING * len(COUPLINGS)
        steps_each = max(10, int(0.95 * left / sum(seconds.values())))
        return {"seconds": seconds, "steps": min(steps_each, 12) if bench.tiny else steps_each}

    def part(coupling: str, until: float) -> dict[str, Any]:
        if "found" not in (paced := bench.found.get("pace", {})):
            raise UserError("the number of steps is not known, because the part `pace` failed")
        count: int = paced["found"]["steps"]
        training = settings(coupling, count)
        state, curve, began = bench.state(training), [], time.monotonic()
        with bench.steps(training, state) as steps:
            for done in steps:
                if done.step % max(1, count // 200) == 0 or done.step == count:
                    passed = round(time.monotonic() - began, 2)
                    curve.append((done.step, done.loss, done.gradient_norm, passed))
                if time.monotonic() > until - SAMPLING:
                    break
        model = state.ema.module
        sampler = SamplerConfig(levels=(training.recipe.sigma_max, 0.8), boundary=True)
        options: Any = {"seed": 0, "purpose": "sample", "count": SIDE**2, "batch": SIDE**2, "nfe": (1, 2)}
        [images] = generate(model, bench.shape, sampler, conditional=False, **options)
        draw(bench.out / f"samples-{coupling}.png", images[1], images[2])
        return {
            "steps": state.step,
            "of": count,
            "batch": training.recipe.batch,
            "precision": precision,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "curve": curve,
        }

    return {"pace": pace, **{coupling: partial(part, coupling) for coupling in COUPLINGS}}


def draw(path: Path, *panels: NDArray[np.uint8]) -> None:
    """Square panels of SIDE² images [n, h, w, 3] side by side, three times as large."""
    squares = []
    for images in panels:
        side = images.shape[1]
        grid = images.reshape(SIDE, SIDE, side, side, 3).swapaxes(1, 2).reshape(SIDE * side, SIDE * side, 3)
        squares.append(np.pad(grid, ((0, 0), (0, 8), (0, 0)), constant_values=255))
    picture = Image.fromarray(np.concatenate(squares, axis=1))
    with replacing(path) as temporary:
        picture.resize((3 * picture.width, 3 * picture.height), Image.Resampling.NEAREST).save(
            temporary, "png"
        )


STAGES: dict[str, Callable[[Bench], dict[str, Part]]] = {
    "tests": tests,
    "step": step,
    "ot": transport,
    "loader": loader,
    "sample": sample,
    "resume": resume,
    "train": train,
}


def run(options: Namespace, *, ends: float) -> int:
    """Take the parts that are not done until ``ends`` of `time.monotonic`; return the exit code."""
    torch.set_num_threads(options.threads)
    try:
        with tempfile.TemporaryDirectory(prefix="couplet-gpu-") as folder:
            return Session(Bench(options, Path(folder)), options, ends - END).run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


class Session:
    """One call of the command, and the file of all calls."""

    def __init__(self, bench: Bench, options: Namespace, ends: float) -> None:
        self.bench, self.names, self.ends = bench, options.stages, ends
        self.path: Path = options.out / "gpu.json"
        self.stages: dict[str, Any] = read_json(self.path)["stages"] if self.path.exists() else {}
        self.key = {
            "code": _code(),
            "card": torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else "cpu",
            "torch": torch.__version__,
            "tiny": bench.tiny,
            "data": _identity(bench.data),
        }

    def run(self) -> int:
        """Every stage that was asked for, each until its share of the time is over."""
        for number, name in enumerate(self.names):
            entry = self.stages.get(name)
            if entry and entry["key"] != self.key:
                other = [part for part, value in self.key.items() if entry["key"].get(part) != value]
                print(f"{name}: begins again, because {', '.join(other)} changed", flush=True)
            if not entry or entry["key"] != self.key:
                entry = self.stages[name] = {"key": self.key, "parts": {}}
                entry["commit"] = source()["commit"]
            parts = STAGES[name](self.bench)
            self.bench.found = entry["parts"]
            entry["not_reached"] = [part for part in parts if part not in entry["parts"]]
            now, weight = time.monotonic(), sum(WEIGHTS[left] for left in self.names[number:])
            until = now + (self.ends - now) * WEIGHTS[name] / weight
            for part in [*entry["not_reached"]]:
                if time.monotonic() >= until or (outcome := attempt(parts[part], until)) is None:
                    break
                entry["parts"][part] = outcome
                entry["not_reached"].remove(part)
                self.save()
                print(
                    f"{name}: {part}: {outcome.get('error', 'done')}, {outcome['seconds']:.0f} s", flush=True
                )
                if not self.usable():
                    print("the GPU is of no use to this process any more; call again", file=sys.stderr)
                    return 75
            self.save()
            if entry["not_reached"]:
                left = ", ".join(entry["not_reached"])
                print(f"{name}: not reached: {left}; alone it has all the time: --stages {name}", flush=True)
        return 0

    def usable(self) -> bool:
        """Whether the device still computes: after an illegal access no process may use it further."""
        try:
            return bool(torch.zeros(1, device=self.bench.device).item() == 0)
        except RuntimeError:
            return False

    def save(self) -> None:
        """Write gpu.json, and the curves as a table."""
        report.write(
            self.path,
            self.bench.device,
            cuda=torch.version.cuda,
            cudnn=torch.backends.cudnn.version(),
            images=str(self.bench.data) if self.bench.data else "synthetic",
            stages=self.stages,
        )
        runs = self.stages.get("train", {"parts": {}})["parts"]
        lines = ["coupling,step,loss,gradient_norm,seconds"]
        for coupling, outcome in runs.items():
            rows = outcome.get("found", {}).get("curve", [])
            lines += [",".join(map(str, (coupling, *row))) for row in rows]
        if len(lines) > 1:
            with replacing(self.path.with_name("curves.csv")) as temporary:
                temporary.write_text("\n".join(lines) + "\n")


def attempt(part: Part, until: float) -> dict[str, Any] | None:
    """What a part found, or how it failed, and its seconds; None if its time is over."""
    began = time.monotonic()
    try:
        with interrupted(until + GRACE):
            outcome = {"found": part(until)}
    except OutOfTime:
        return None
    except Exception as error:
        message = next((line for line in str(error).splitlines() if line.strip()), "")
        outcome = {"error": f"{type(error).__name__}: {message.strip()}"}
    finally:
        gc.collect()
        if torch.cuda.is_initialized():
            with suppress(RuntimeError):
                torch.cuda.empty_cache()
    return {**outcome, "seconds": round(time.monotonic() - began, 2)}


@contextmanager
def interrupted(at: float) -> Iterator[None]:
    """Raise OutOfTime in the block at a time of `time.monotonic`."""

    def over(number: int, frame: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, max(0.1, at - time.monotonic()))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _code() -> str:
    """SHA-256 of what decides the results: a copy of the tree without its history has the same."""
    files = [*(ROOT / "src/couplet").rglob("*.py"), *Path(__file__).parent.glob("*.py"), PARAMS]
    sha256 = hashlib.sha256()
    for path in sorted(files):
        sha256.update(path.read_bytes())
    return sha256.hexdigest()


def _identity(data: Path | None) -> str | None:
    """A name for the images of `--data` that does not depend on where they lie, if they are one file."""
    if data is None:
        return None
    if (data / CARD).exists():
        return Archive(data).card.digest
    return file_sha256(data) if data.is_file() else str(data)
