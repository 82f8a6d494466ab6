"""Images per second out of the sampler, and on through the extractor of features.

    python benchmarks/sample.py --dataset cifar10 --count 512 --json FILE
    python benchmarks/sample.py --params workflow/papers/ict.yaml --recipe ict --dataset cifar10 \\
        --device cuda --precision float32 bf16 --count 50000 --batch 512 --features inception

Samples come from `couplet.sampling`, as in the stage `sample`: each has a noise of its own from a
generator of its own. Weights are random, which changes no time. With `--features inception` every batch goes
on through InceptionV3 with random weights, as in `features.py`, and only its features are kept, so that any
count fits into memory. The first batch is not counted. `memory` is the most that was in use beyond what was
before, features included.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import report
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from step import changed, memory_growth, shape_of

from couplet.config.cells import TrainConfig, Training
from couplet.config.resolve import resolve
from couplet.errors import UserError
from couplet.model import ConsistencyModel, ImageShape
from couplet.sampling import generate
from couplet.training.engine import computed
from couplet.training.loop import initial_state

Extractor = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


class Row(NamedTuple):
    """One number of evaluations in one precision."""

    nfe: int
    precision: str
    images: int
    sampled: float
    """Images per second, sampling alone."""
    finished: float | None
    """Images per second, features included; None without."""
    memory: int | None
    """Bytes; None where the system does not tell."""


def inception(folder: Path, batch: int, device: torch.device) -> Extractor:
    """InceptionV3 with random weights behind the project's extractor."""
    import hashlib
    import warnings

    from features import networks

    from couplet.config.extractors import InceptionConfig
    from couplet.metrics.extractor.inception import InceptionExtractor

    warnings.simplefilter("ignore")  # of TorchScript, which is deprecated
    path = folder / "inception.pt"
    torch.jit.save(torch.jit.script(networks()["inception"].eval()), str(path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    extractor = InceptionExtractor(
        InceptionConfig(weights=str(path), sha256=digest, batch=batch), folder, device
    )
    return lambda images: extractor(images).values


def measure(
    settings: Training,
    shape: ImageShape,
    model: ConsistencyModel,
    nfe: int,
    precision: str,
    extract: Extractor | None,
    options: argparse.Namespace,
) -> Row:
    """Samples and features, batch by batch; each has a clock of its own."""
    config = TrainConfig.model_validate({"precision": precision, "compile": options.compile})
    growth = memory_growth(options.device)
    spent, images, features = {"sample": 0.0, "features": 0.0}, 0, []
    with computed([model], config, options.device):
        made = generate(
            model,
            shape,
            settings.sampler,
            seed=0,
            purpose="sample",
            count=options.count + options.batch,
            batch=options.batch,
            nfe=(nfe,),
            conditional=settings.recipe.conditional,
        )
        for number in range(sys.maxsize):
            began = time.perf_counter()
            batch = next(made, None)
            sampled = time.perf_counter()
            if batch is None:
                break
            if extract is not None:
                features.append(extract(batch[nfe]))
            done = time.perf_counter()
            if number:
                spent["sample"] += sampled - began
                spent["features"] += done - sampled
                images += len(batch[nfe])
    return Row(
        nfe=nfe,
        precision=precision + "+compile" * options.compile,
        images=images,
        sampled=images / spent["sample"],
        finished=None if extract is None else images / sum(spent.values()),
        memory=growth(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file")
    parser.add_argument("--scale", help="a name from the file's scales")
    parser.add_argument("--dataset", help="default: the file's; so are recipe, kernel and coupling")
    parser.add_argument("--recipe")
    parser.add_argument("--kernel")
    parser.add_argument("--coupling")
    parser.add_argument("--nfe", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--count", type=int, default=50_000, help="samples that are timed")
    parser.add_argument("--batch", type=int, default=250, help="samples per network call")
    parser.add_argument("--features", choices=("none", "inception"), default="none")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--threads", type=int, default=1, help="torch's threads on the CPU")
    parser.add_argument("--precision", nargs="+", choices=("float32", "bf16"), default=["float32"])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to FILE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    names = {name: getattr(options, name) for name in ("dataset", "recipe", "kernel", "coupling")}
    with tempfile.TemporaryDirectory() as folder:
        try:
            params = resolve(options.params, options.scale)
            given = {name: value for name, value in names.items() if value is not None}
            cell = params.experiment.model_copy(update=given)
            settings = changed(params.training(cell), "recipe", {"init_from": None})
            shape = shape_of(params, cell)
            model = initial_state(settings, shape, options.device).ema.module
            extract = None
            if options.features == "inception":
                extract = inception(Path(folder), options.batch, options.device)
            rows = [
                measure(settings, shape, model, nfe, precision, extract, options)
                for precision, nfe in product(options.precision, options.nfe)
            ]
        except UserError as error:
            sys.exit(f"error: {error}")
    size = f"{shape.channels}x{shape.resolution}x{shape.resolution}"
    title = f"{cell.name}: {size}, batch {options.batch}, {options.device}, {options.threads} threads"
    table = Table(title=title)
    for name in ("NFE", "precision", "images", "sampled/s", "with features/s", "memory, MB"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            str(row.nfe),
            row.precision,
            f"{row.images:,}",
            f"{row.sampled:,.0f}",
            "" if row.finished is None else f"{row.finished:,.0f}",
            "" if row.memory is None else f"{row.memory / 1e6:,.0f}",
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    if options.json:
        found = [row._asdict() for row in rows]
        report.write(options.json, options.device, title=title, rows=found)


if __name__ == "__main__":
    main()
