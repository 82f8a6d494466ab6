"""How many images per second the loader delivers, and how many a training takes from it.

    python benchmarks/loader.py --threads 1 --json benchmarks/results/loader.json
    python benchmarks/loader.py --device cuda

Archives of noise are made in a temporary folder: 1797 images of 8x8x1, 50,000 of 32x32x3 and `--gigabytes`
of 64x64x3. With all of it in memory, in images per second:

    gather     the host's part of a batch: all that has to keep up where a GPU does the rest
    direct     whole batches on the device, one after the other
    ahead      the same while a thread gathers the next two
    process    the host's part in one worker process of torch's DataLoader, instead of that thread

Then, for 64x64x3: the memory that the process gains over an epoch, the first pass over a file that is not
in memory, and the wait for a first batch. Linux only.
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
    """What a training takes from the loader."""

    training: str
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
    """Images and labels of noise, written a little at a time."""
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


def measure(folder: Path, batch: int, flip: bool, labels: bool, seconds: float, device: torch.device) -> Row:
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
    """Bytes that the process has to itself, and bytes of mapped files."""
    status = Path("/proc/self/status").read_text()
    return {
        name: 1024 * int(re.findall(rf"{name}:\s+(\d+) kB", status)[0]) for name in ("RssAnon", "RssFile")
    }


def growth(folder: Path, batch: int, device: torch.device) -> dict[str, int]:
    """The largest gain of each kind of memory over an epoch, batches gathered ahead."""
    loader = make_loader(folder, batch, flip=True)
    before, most = memory(), dict.fromkeys(memory(), 0)
    for _ in loader.batches(0, len(loader.split) // batch, device, ahead=2):
        most = {name: max(most[name], size - before[name]) for name, size in memory().items()}
    return most


def cold(folder: Path, batch: int, steps: int) -> float:
    """Images per second of the first ``steps`` over a file that is not in memory."""
    path = folder / "images.npy"
    gc.collect()  # pages stay in memory while an earlier loader maps them
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    loader = make_loader(folder, batch)
    began = time.perf_counter()
    for step in range(steps):
        loader.gathered(step)
    return steps * batch / (time.perf_counter() - began)


def first(batches: Iterator[object]) -> float:
    """Seconds until the first batch is there."""
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
                rows.append(row := measure(folder, batch, flip, labels, seconds, device))
                rates = " | ".join(f"{value:,.0f}" for value in row[4:])
                size = "x".join(map(str, shape))
                print(f"| {size} | {batch} | {flip} | {labels} | {rates} |", flush=True)
        gained = growth(folder, 1024, device)
        with_announcement = cold(folder, 1024, 20)
        with patch("couplet.data.loader._announce"):
            without = cold(folder, 1024, 20)
        loader = make_loader(folder, 1024)
        loader.order(0)  # drawn before the clock starts, so that only the ways differ
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
    print("\n| training | takes, images/s | gather delivers | times as much |")
    print("| --- | --- | --- | --- |")
    for need in NEEDS:
        found = next(row.gather for row in rows if row[:4] == (need.shape, need.batch, True, False))
        share = found / need.images_per_second
        print(
            f"| {need.training} | {need.images_per_second:,} ({need.origin}) | {found:,.0f} | {share:.0f} |"
        )
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
