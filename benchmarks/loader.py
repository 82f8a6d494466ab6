"""Throughput of the loader, compared with what training runs need.

    python benchmarks/loader.py --threads 1 --json benchmarks/results/loader.json
    python benchmarks/loader.py --device cuda

Writes archives of noise to a temporary folder: 1797 images of 8x8x1, 50,000 of 32x32x3 and `--gigabytes` of
64x64x3. Measures images per second while the files are in memory:

    gather     the host's part of a batch, which limits a run on a GPU
    direct     complete batches on the device, one after another
    ahead      the same while a thread gathers the next two
    process    the host's part in a worker process of torch's DataLoader instead of that thread

Then measures, for 64x64x3, the memory that the process gains over an epoch, the first pass over a file that
is not in memory, and the time to the first batch. Linux only.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import report
import torch
from torch.utils.data import DataLoader, Dataset

from couplet.data.archive import Split, read_array
from couplet.data.loader import Gathered, Loader

SMALL, MIDDLE, LARGE = (8, 8, 1), (32, 32, 3), (64, 64, 3)
BATCHES = (64, 256, 1024)
CLASSES = 1000
ENDLESS = 10**9


class Need(NamedTuple):
    """Images per second that a training run takes from the loader."""

    run: str
    images_per_second: float
    origin: str
    shape: tuple[int, int, int]
    batch: int


NEEDS = (
    Need("iCT, digits, one CPU core", 1_200, "measured, README", SMALL, 64),
    Need("iCT, CIFAR-10, one H200", 30_000, "assumed", MIDDLE, 1024),
    Need("iCT, ImageNet-64, one H200", 3_000, "assumed", LARGE, 1024),
)


class Row(NamedTuple):
    """Images per second of one kind of batch."""

    shape: tuple[int, ...]
    batch: int
    flip: bool
    labels: bool
    gather: float
    direct: float
    ahead: float
    process: float


class Steps(Dataset[Gathered]):
    """The host's part of every step, for torch's DataLoader."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __getitem__(self, step: int) -> Gathered:
        return self.loader.gathered(step)

    def __len__(self) -> int:
        return ENDLESS


def make_files(folder: Path, shape: tuple[int, int, int], count: int) -> None:
    """Write images and labels of noise in blocks."""
    rng = np.random.default_rng(0)
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (count, *shape))
    for start in range(0, count, 10_000):
        part = images[start : start + 10_000]
        part[:] = rng.integers(0, 256, part.shape, dtype=np.uint8)
    images.flush()
    np.save(folder / "labels.npy", rng.integers(0, CLASSES, count))


def make_loader(folder: Path, batch: int, *, flip: bool = False, labels: bool = False) -> Loader:
    split = Split(read_array(folder / "images.npy"), read_array(folder / "labels.npy"))
    return Loader(split, batch=batch, seed=0, flip=flip, num_classes=CLASSES if labels else 0)


def in_processes(loader: Loader) -> Iterator[Gathered]:
    workers = DataLoader(
        Steps(loader), batch_size=None, num_workers=1, multiprocessing_context="fork", sampler=range(ENDLESS)
    )
    return iter(workers)


def rate(batches: Iterator[object], batch: int, seconds: float, device: torch.device) -> float:
    """Images per second over ``seconds``, after the first batch."""
    next(batches)
    began, images, passed = time.perf_counter(), 0, 0.0
    while passed < seconds:
        next(batches)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        images += batch
        passed = time.perf_counter() - began
    return images / passed


def measure(
    folder: Path, batch: int, *, flip: bool, labels: bool, seconds: float, device: torch.device
) -> Row:
    loader = make_loader(folder, batch, flip=flip, labels=labels)
    pin = device.type == "cuda"
    ways: tuple[Iterator[object], ...] = (
        (loader.gathered(step, pin=pin) for step in range(ENDLESS)),
        loader.batches(0, ENDLESS, device, ahead=0),
        loader.batches(0, ENDLESS, device, ahead=2),
        in_processes(loader),
    )
    rates = (rate(way, batch, seconds, device) for way in ways)
    return Row(loader.split.images.shape[1:], batch, flip, labels, *rates)


def memory() -> dict[str, int]:
    """Bytes of the process's own memory and of its mapped files."""
    status = Path("/proc/self/status").read_text()
    return {
        name: 1024 * int(re.findall(rf"{name}:\s+(\d+) kB", status)[0]) for name in ("RssAnon", "RssFile")
    }


def growth(folder: Path, batch: int, device: torch.device) -> dict[str, int]:
    """Largest gain of each kind of memory over an epoch of batches gathered ahead."""
    loader = make_loader(folder, batch, flip=True)
    before, most = memory(), dict.fromkeys(memory(), 0)
    for _ in loader.batches(0, len(loader.split) // batch, device, ahead=2):
        most = {name: max(most[name], size - before[name]) for name, size in memory().items()}
    return most


def cold(folder: Path, batch: int, steps: int) -> float:
    """Images per second of the first ``steps`` over a file that is not in memory."""
    path = folder / "images.npy"
    gc.collect()  # an earlier loader's mapping would keep the pages in memory
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    loader = make_loader(folder, batch)
    began = time.perf_counter()
    for step in range(steps):
        loader.gathered(step)
    return steps * batch / (time.perf_counter() - began)


def first(batches: Iterator[object]) -> float:
    """Seconds to the first batch."""
    began = time.perf_counter()
    next(batches)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of the 64x64x3 archive")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--threads", type=int, default=1, help="torch's threads on the CPU")
    parser.add_argument("--seconds", type=float, default=0.5, help="time of each measurement")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to FILE")
    arguments = parser.parse_args()
    device, seconds = arguments.device, arguments.seconds
    torch.set_num_threads(arguments.threads)
    counts = {SMALL: 1797, MIDDLE: 50_000, LARGE: int(arguments.gigabytes * 1e9) // 12_288}

    rows = []
    print("| images | batch | flips | labels | gather | direct | ahead | process |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for shape, count in counts.items():
            make_files(folder, shape, count)
            for batch, flip, labels in product(BATCHES, (False, True), (False, True)):
                row = measure(folder, batch, flip=flip, labels=labels, seconds=seconds, device=device)
                rows.append(row)
                rates = " | ".join(f"{value:,.0f}" for value in row[4:])
                size = "x".join(map(str, shape))
                print(f"| {size} | {batch} | {flip} | {labels} | {rates} |", flush=True)
        gained = growth(folder, 1024, device)
        with_announcement = cold(folder, 1024, 20)
        with patch("couplet.data.loader._announce"):
            without = cold(folder, 1024, 20)
        loader = make_loader(folder, 1024)
        loader.order(0)  # drawn before the clock starts: it is the same for all three
        waits = {
            "direct": first(loader.batches(0, 9, device, ahead=0)),
            "ahead": first(loader.batches(0, 9, device, ahead=2)),
            "process": first(in_processes(loader)),
        }

    print("\n64x64x3, batch 1024:")
    print(
        f"  an epoch of {counts[LARGE]:,} images, the process's own memory: +{gained['RssAnon'] / 1e6:.0f} MB"
    )
    print(f"  the same, pages of the mapped file: +{gained['RssFile'] / 1e6:.0f} MB")
    print(f"  file not in memory: {with_announcement:,.0f} images/s, without reading ahead {without:,.0f}")
    print("  first batch after: " + ", ".join(f"{way} {wait * 1e3:.0f} ms" for way, wait in waits.items()))
    print("\n| run | takes, images/s | gather delivers | ratio |")
    print("| --- | --- | --- | --- |")
    for need in NEEDS:
        gather = next(row.gather for row in rows if row[:4] == (need.shape, need.batch, True, False))
        ratio = gather / need.images_per_second
        print(f"| {need.run} | {need.images_per_second:,} ({need.origin}) | {gather:,.0f} | {ratio:.0f} |")
    if arguments.json:
        report.write(
            arguments.json,
            device,
            images_per_second=[row._asdict() for row in rows],
            memory_growth=gained,
            cold={"announced": with_announcement, "not_announced": without},
            first_batch_seconds=waits,
            needs=[need._asdict() for need in NEEDS],
        )


if __name__ == "__main__":
    main()
