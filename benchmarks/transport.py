"""What a batch's transport costs to find, and what is found: exact and cheaper couplings, per batch.

    python benchmarks/transport.py --json benchmarks/results/transport.json
    python benchmarks/transport.py --device cuda --batch 256 1024 4096

Each coupling of the parameter file that deals out noise (`ot`, `sinkhorn` ...) gets the same batches, by
turns. Images are Gaussian with the 1/f spectrum of natural ones, a standard deviation of 0.5 and channels
that have much in common: 8x8x1, 64 values, and 32x32x3, 3072 values.

    ms     time of one batch, the median over rounds
    cost   ||x - z||² of a pair, mean over batches
    saved  of what exact transport saves on the independent coupling's cost, the share that this one saves
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import report
import torch
from torch import Tensor

from couplet.config.couplings import IndependentConfig, MinibatchCouplingConfig
from couplet.config.resolve import resolve
from couplet.config.variants import build
from couplet.couplings.base import Coupling, Setting
from couplet.tensors import generator

SHAPES = ((1, 8, 8), (3, 32, 32))
EXACT, DRAWN = "ot", "independent"


class Row(NamedTuple):
    """One coupling at one size."""

    values: int
    """Of an image."""
    batch: int
    coupling: str
    milliseconds: float
    cost: float
    saved: float


def make_images(batch: int, shape: tuple[int, int, int], draws: torch.Generator) -> Tensor:
    """Gaussian images with a 1/f spectrum, [b, c, h, w]."""
    white = torch.randn(batch, *shape, generator=draws)
    down, across = (torch.fft.fftfreq(size) for size in shape[1:])
    frequency = (down[:, None] ** 2 + across**2).sqrt().clamp_min(1 / shape[1])
    images = torch.fft.ifft2(torch.fft.fft2(white) / frequency).real
    images = images + 2 * images.mean(1, keepdim=True)
    return 0.5 * images / images.std()


def seconds(coupling: Coupling, images: Tensor, noise: Tensor) -> tuple[float, Tensor]:
    """How long the batch's noise takes to be dealt out, and the noise."""
    wait = torch.cuda.synchronize if images.is_cuda else lambda: None
    wait()
    began = time.perf_counter()
    dealt = coupling.arrange(images, noise)
    wait()
    return time.perf_counter() - began, dealt


def measure(
    couplings: dict[str, Coupling],
    shape: tuple[int, int, int],
    batch: int,
    rounds: int,
    device: torch.device,
) -> list[Row]:
    """All couplings by turns, on the same batches."""
    times: dict[str, list[float]] = {name: [] for name in couplings}
    costs: dict[str, list[float]] = {name: [] for name in couplings}
    for number in range(rounds + 1):
        draws = generator(torch.device("cpu"), "ot", *shape, batch, number)
        images = make_images(batch, shape, draws).to(device)
        noise = torch.randn(images.shape, generator=draws).to(device)
        for name, coupling in couplings.items():
            took, dealt = seconds(coupling, images, noise)
            if number:  # the first one loads what it needs
                times[name].append(took)
                costs[name].append((images - dealt).square().flatten(1).sum(1).mean().item())
    mean = {name: statistics.mean(found) for name, found in costs.items()}
    possible = mean[DRAWN] - mean[EXACT]
    return [
        Row(
            values=images[0].numel(),
            batch=batch,
            coupling=name,
            milliseconds=1e3 * statistics.median(times[name]),
            cost=mean[name],
            saved=(mean[DRAWN] - mean[name]) / possible,
        )
        for name in couplings
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file")
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--rounds", type=int, default=10, help="batches of each size")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--threads", type=int, default=1, help="torch's threads on the CPU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to FILE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    configs = {
        name: config
        for name, config in resolve(options.params).couplings.items()
        if isinstance(config, IndependentConfig | MinibatchCouplingConfig)
    }
    couplings = {name: build(config, Setting(1, 0.5, None)) for name, config in configs.items()}
    rows = []
    print(f"{'values':>6}{'batch':>7}  {'coupling':14}{'ms':>9}{'cost':>10}{'saved':>8}")
    for shape in SHAPES:
        for batch in options.batch:
            for row in measure(couplings, shape, batch, options.rounds, options.device):
                rows.append(row)
                print(
                    f"{row.values:6}{row.batch:7}  {row.coupling:14}{row.milliseconds:9.2f}{row.cost:10.2f}"
                    f"{row.saved:8.1%}",
                    flush=True,
                )
    if options.json:
        report.write(
            options.json,
            options.device,
            settings={name: config.model_dump(mode="json") for name, config in configs.items()},
            rounds=options.rounds,
            threads=options.threads,
            rows=[row._asdict() for row in rows],
        )


if __name__ == "__main__":
    main()
