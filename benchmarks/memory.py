"""Memory of a training step by row of the papers: as jobs ask for it, as the meta device counts, as measured.

    python benchmarks/memory.py --json benchmarks/results/memory.json
    python benchmarks/memory.py --most 64 workflow/papers/ect.yaml

Every network and coupling of the files takes three real steps on the CPU and saves its state, in a process of
its own, with as many images of the recipe's batch as `--most` GB allow; one that does not fit is named.

    modelled  `couplet.plan.resources`, from the settings alone: on a GPU's memory, and in all on a CPU
    traced    `couplet.training.memory`, tensors of the real step on torch's meta device, as on a GPU
    measured  resident memory of the process, at its peak
    ratio     modelled by traced, and modelled by measured; from 1 to TOLERANCE, or the command fails
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import report
import torch

from couplet.config.cells import Training
from couplet.config.fit import Facts
from couplet.cost import native_shape
from couplet.data.archive import Archive, Source, Split, write
from couplet.plan.resources import Memory, training_memory
from couplet.recipes import rows
from couplet.training.loop import initial_state, loader_of, run
from couplet.training.memory import step_bytes

TOLERANCE = 1.25
RATIOS = ("ratio_device", "ratio_cpu")
FILES = ("params.yaml", *map(str, sorted(Path("workflow/papers").glob("*.yaml"))))


def with_batch(training: Training, images: int) -> Training:
    """The same settings with so many images in a step."""
    recipe = training.recipe.model_copy(update={"batch": images, "steps": 3})
    return training.model_copy(update={"recipe": recipe})


def modelled(training: Training) -> Memory:
    """Memory of one process."""
    memory = training_memory(training, Facts.of(training.cell.dataset, training.dataset))
    assert memory is not None
    return memory


def measure(training: Training) -> int:
    """Peak of this process's resident memory over three steps, in bytes."""
    shape = native_shape(training.dataset)
    assert shape is not None
    draws, count = np.random.default_rng(0), max(training.recipe.batch, 16)
    images = draws.integers(0, 256, (count, shape.resolution, shape.resolution, shape.channels), np.uint8)
    labels = draws.integers(0, max(shape.num_classes, 1), count)
    names = tuple(map(str, range(shape.num_classes)))
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), "random", Source("random", names, {"train": Split(images, labels)}))
        archive = Archive(Path(folder))
        state = initial_state(training, shape, torch.device("cpu"))
        if training.coupling.wants_frozen:
            state.frozen = initial_state(training, shape, torch.device("cpu")).model
        loader = loader_of(training, archive, joint_images=state.model.coupling.joint_images)
        list(run(training, state, loader))
        state.save(Path(folder) / "state.safetensors", key="", data="")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def distinct(files: list[Path], scale: str | None) -> Iterator[tuple[str, Training]]:
    """The rows of the files whose networks, data sets or couplings differ."""
    seen = set()
    for row in rows(files, scale):
        training = row.training
        recipe = training.recipe
        key = (recipe.network, training.coupling, training.dataset.native, recipe.conditional, recipe.teacher)
        if repr(key) not in seen and native_shape(training.dataset) is not None:
            seen.add(repr(key))
            yield row.name, training


def compare(name: str, training: Training, most: float) -> dict[str, Any] | None:
    """Numbers of a row with as many images as fit; None if not one does."""
    images = training.recipe.batch
    while images and modelled(with_batch(training, images)).cpu > most:
        images //= 2
    whole = f"{modelled(training).device / 1e9:.1f} GB on a GPU with all {training.recipe.batch} images"
    if not images:
        one = modelled(with_batch(training, 1)).cpu / 1e9
        print(f"{name:45} one image takes {one:.1f} GB: not measured; {whole}")
        return None
    chosen, shape = with_batch(training, images), native_shape(training.dataset)
    assert shape is not None
    command, memory = [sys.executable, __file__, "--child"], modelled(chosen)
    output = subprocess.run(
        command, input=chosen.model_dump_json(), text=True, capture_output=True, check=True
    )
    measured, traced = int(output.stdout), step_bytes(chosen, shape)
    numbers = {"images": images, "traced": traced, "measured": measured, **memory._asdict()}
    ratios = {"ratio_device": memory.device / traced, "ratio_cpu": memory.cpu / measured}
    print(
        f"{name:45} {images:4} images  GPU {memory.device / 1e6:6.0f} of {traced / 1e6:6.0f} MB"
        f" ({ratios['ratio_device']:.2f})  CPU {memory.cpu / 1e6:6.0f} of {measured / 1e6:6.0f} MB"
        f" ({ratios['ratio_cpu']:.2f}); {whole}"
    )
    return {**numbers, **ratios}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", default=FILES, help="parameter files")
    parser.add_argument("--scale", help="a scale of the files")
    parser.add_argument("--most", type=float, default=3, help="GB that a step may take (default %(default)s)")
    parser.add_argument("--json", type=Path, help="file to write the numbers to")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.child:
        print(measure(Training.model_validate(json.load(sys.stdin))))
        return 0
    found = {}
    for name, training in distinct([*map(Path, options.files)], options.scale):
        if numbers := compare(name, training, options.most * 1e9):
            found[name] = numbers
    if options.json:
        report.write(options.json, rows=found, tolerance=TOLERANCE)
    wrong = [name for name, row in found.items() if not all(1 <= row[key] <= TOLERANCE for key in RATIOS)]
    print(f"{len(found)} rows measured; outside 1 to {TOLERANCE}: {', '.join(wrong) or 'none'}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
