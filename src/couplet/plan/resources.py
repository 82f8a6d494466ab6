"""Memory and time that a job asks a scheduler for, from its settings alone: nothing is built or imported.

`tests/unit/plan/test_resources.py` compares the memory of a training step with a trace of the real step on
torch's meta device, and `benchmarks/memory.py` with the resident memory of real ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import NamedTuple

from couplet.config.cells import Cell, Training
from couplet.config.extractors import ExtractorConfig
from couplet.config.fit import Facts
from couplet.config.networks import Footprint
from couplet.config.params import Params

FLOAT = 4
"""Bytes of a number; every network is trained in float32, and autocast's copies are smaller."""

MARGIN = 1.06
"""For what a step holds besides its large tensors."""

FRAGMENTS = 1.04
"""For memory that the allocator of the CPU cannot use again."""

LARGE = 32e6
"""Bytes of a tensor whose memory that allocator (glibc's) gives back at once; a block keeps about six."""

PROCESS = 750e6
"""Bytes of a process with its libraries on a CPU, before it holds a model."""

GPU_PROCESS = 4e9
"""Bytes on the host of a process that uses a GPU, whose libraries take most of it. Not measured here."""

ENGINE = 300e6
"""Bytes of the Snakemake that runs inside a cluster's job."""

UNKNOWN = 32e9
"""Bytes of a job where the size of images, or of a network from another package, is not known before."""

CPU_SPEED, GPU_SPEED = 5e9, 5e12
"""Operations per second that a thread of a CPU and a GPU reach at the least: an old CPU; a quarter of an A100
in float32."""

CALL = 0.1
"""Seconds of a step, of a batch, or of decoding twenty images, besides operations."""

START = 10.0
"""Minutes of every job besides."""

LONGEST = 24 * 60
"""Minutes of a job that trains, at the most: it saves its state, and another one resumes."""

IMAGES = 1_300_000
"""Images of a data set whose number is not known before: ImageNet's."""


class Memory(NamedTuple):
    """Bytes that one process of a training takes."""

    device: int
    """On a GPU, at the peak of a step, without its libraries."""
    cpu: int
    """In all, where the process computes on the CPU."""
    host: int
    """In all, where it computes on a GPU: libraries, and a model that is being built."""
    held: int
    """Of a GPU or of the CPU, from step to step."""
    saving: int
    """On the host of GPUs in the first process besides: a state and the bytes of its file, twice."""


def training_memory(training: Training, facts: Facts, processes: int = 1) -> Memory | None:
    """Peak memory of a training's first process; None where its size is not known from the settings.

    A step holds weights, averages, the optimiser's copy of the weights with two moments, and a frozen
    predictor; then what the student keeps for its backward pass, with the gradients; later the gradients
    twice and a temporary of the optimiser's. A GPU's allocator uses the memory of the former for the latter,
    that of the CPU does not. Several processes exchange gradients in buckets, another copy.
    """
    size = sizes(training, facts)
    if size is None:
        return None
    recipe = training.recipe
    images = ceil(recipe.batch / processes)
    evaluated = min(images, training.train.microbatch or images)
    weights, moments = size.parameters, recipe.optimizer.moments
    averages = 2 if recipe.teacher == "target" else 1
    # With `train.shard`, a process has its part of an average, the optimiser's copy and the moments.
    parts = processes if training.train.shard else 1
    steady = averages * weights + (2 + moments) * weights / parts
    steady += weights * training.coupling.wants_frozen + weights * (processes > 1)
    pixels = (facts.channels or 1) * (facts.resolution or 1) ** 2
    again = training.train.recompute
    kept: float = (size.inputs + size.block if again else size.activations) * evaluated
    kept += (images + 16 * evaluated) * pixels + (size.derived / 8 if again else size.derived)
    # The gradients of a layer take the place of what it kept.
    backward = max(kept + weights / 4, weights + kept / 2)
    # Gradients twice, and a temporary; lion has one more, in place of a moment.
    update = weights + (4 - moments) * weights / parts
    on_device = steady + max(backward, update)
    state = (1 + averages + moments) * weights
    # Then a state is saved, in two copies. By then the large tensors of the step are given back.
    small = FLOAT * size.block / 6 * evaluated < LARGE
    on_cpu = FRAGMENTS * (steady + max(kept + update, 2 * state + kept * (1 if small else 0.25)))
    return Memory(
        device=round(FLOAT * MARGIN * on_device),
        cpu=round(PROCESS + FLOAT * MARGIN * on_cpu),
        host=round(GPU_PROCESS + FLOAT * 2 * weights),
        held=round(FLOAT * steady),
        saving=round(FLOAT * (3 * state + averages * weights * (parts > 1))),
    )


def sizes(training: Training, facts: Facts) -> Footprint | None:
    """The footprints of a training's networks together; None where it is not known from the settings."""
    channels, resolution, classes = facts.channels, facts.resolution, facts.classes
    if channels is None or resolution is None:
        return None
    known = classes if training.recipe.conditional else 0
    network, own = training.recipe.network, training.coupling.own_network
    # A folder's classes are known once it is read; a thousand are ImageNet's.
    shape = {"channels": channels, "resolution": resolution, "classes": 1000 if known is None else known}
    main = network.footprint(out_channels=channels, **shape)
    encoder: Footprint | None = Footprint()
    if own is not None:
        resized = network.model_copy(update=dict(own))
        encoder = resized.footprint(out_channels=2 * channels, **shape)
    if main is None or encoder is None:
        return None
    return main.beside(encoder)


def memory_mb(params: Params, stage: str, cell: Cell) -> int:
    """MB on the host of a job of ``stage`` for ``cell``: all that it takes, or where `gpus` > 0, beside GPUs.

    Not below what the job takes; for a training on the CPU at most a quarter more.
    """
    facts, processes = _facts(params, cell), max(1, params.gpus)
    process = GPU_PROCESS if params.gpus else PROCESS
    pixels = (facts.channels or 3) * (facts.resolution or 64) ** 2
    needed: float | None
    if stage in ("train", "probe", "time"):
        cells = {cell.name: cell}
        if stage == "time":
            cells = {each.name: each for each in params.cells() if each.dataset == cell.dataset}
        memories = [training_memory(params.training(each), facts, processes) for each in cells.values()]
        known = [memory for memory in memories if memory]
        if len(known) < len(memories):
            needed = None
        elif params.gpus:
            largest = max(known, key=lambda memory: memory.host)
            extra = largest.saving if stage == "train" else 0
            needed = largest.host + extra / processes
        else:
            # Models that are timed by turns are held together, in one process.
            largest = max(known, key=lambda memory: memory.cpu)
            needed = largest.cpu + sum(memory.held for memory in known) - largest.held
    elif stage in ("select", "sample"):
        needed = _sampling(params, cell, facts, process)
    else:
        needed = max(process, 2e9)
    if needed is not None and stage in ("features", "reference", "select", "evaluate"):
        needed += max(_features(each, pixels) for each in _extractors(params))
    alone = stage in ("prepare", "features", "probe")
    total = (UNKNOWN if needed is None else needed) * (1 if alone else processes)
    return ceil((total + ENGINE) / 1e6)


def _sampling(params: Params, cell: Cell, facts: Facts, process: float) -> float | None:
    """Bytes of a process that generates images, which needs a quarter of what training keeps."""
    training = params.training(cell)
    if (size := sizes(training, facts)) is None:
        return None
    batch = max(params.sample.batch, getattr(training.coupling, "sampling_group", 0))
    kept = 0 if params.gpus else size.activations * batch / 4 + size.derived / 8
    return process + FLOAT * (2 * size.parameters + kept)


def minutes(params: Params, stage: str, cell: Cell) -> int:
    """Minutes that a job of ``stage`` for ``cell`` takes at the most, on a slow CPU or GPU.

    Operations are counted from the settings. A training never asks for more than a day.
    """
    training, facts = params.training(cell), _facts(params, cell)
    size = sizes(training, facts)
    forward = 1e11 if size is None else size.flops
    recipe, sample = training.recipe, params.sample
    real = facts.count("train") or IMAGES
    extracted = max(each.flops for each in _extractors(params))
    drawn = sample.samples * sample.repeats * max(sample.nfe)
    scored = len(training.snapshot_steps) * params.select.samples * max(params.select.nfe, *sample.nfe)
    # Counted for its own stage alone: a grid of thousands of cells has as many jobs of the others.
    timed = 3 * params.time.rounds * len({each.name for each in params.cells()}) if stage == "time" else 0
    probed = max((params.probe_named(name).images(training) for name in params.probes_of(cell)), default=0)
    # A step is five forward passes at the most, an encoder's included, and one more to compute again.
    passes = 5 + training.train.recompute
    calls, operations = {
        "train": (recipe.steps, passes * recipe.steps * recipe.batch * forward),
        "time": (timed, 5 * timed * recipe.batch * forward),
        "probe": (probed / recipe.batch, 5 * probed * forward),
        "features": (0, 3 * 600 * 128 * 1e7),
        "reference": (0, 2 * real * extracted),
        "select": (scored / sample.batch, scored * (forward + extracted)),
        "sample": (drawn / sample.batch, drawn * forward),
        "evaluate": (0, drawn * extracted),
        "prepare": (real / 20, 0),
    }[stage]
    speed = max(1, params.gpus) * GPU_SPEED if params.gpus else params.threads * CPU_SPEED
    needed = ceil(START + (CALL * calls + operations / speed) / 60)
    return min(needed, LONGEST) if stage == "train" else needed


def _facts(params: Params, cell: Cell) -> Facts:
    return Facts.of(cell.dataset, params.dataset_named(cell.dataset))


def _extractors(params: Params) -> Iterator[ExtractorConfig]:
    """The extractors that cells of the table are measured with."""
    names = {name for grid in params.table1 for name in grid.extractors or ()} | {params.extractor}
    return map(params.extractor_named, names)


def _features(extractor: ExtractorConfig, values: int) -> float:
    """Bytes of an extractor's weights, of 50,000 features of real and generated images, and of matrices."""
    width = extractor.width(values)
    return 3 * extractor.weights_bytes + 6 * FLOAT * 50_000 * width + 64 * width**2
