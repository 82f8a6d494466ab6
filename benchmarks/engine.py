"""Time of the two engines when there is nothing to do, and time to plan a large grid.

    python benchmarks/engine.py --json benchmarks/results/engine.json
    python benchmarks/engine.py --folder .       # a working copy whose grid and experiment are finished

Without `--folder`, the default grid and the experiment are computed at a size of seconds in a temporary copy
of the repository (minutes). Commands take turns, so that a busy moment of the machine affects all of them.
Wall-clock and CPU seconds are medians; on a busy machine, compare CPU seconds. An engine's own start
(`--version`, which imports all of it) is a lower bound.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import report
import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
TARGET = "results/table1.csv"
MANY = "many.yaml"
TOY = {
    "every_recipe": {"steps": 2, "batch": 8, "network": {"model_channels": 8}},
    "train": {"snapshots": 1},
    "select": {"samples": 80},
    "sample": {"samples": 80},
    "evaluate": {"metrics": {"fd": {}, "kid": {"subsets": 2, "subset_size": 40}}},
}
"""A scale for the copy: the grid stays as it is."""


class Measured(NamedTuple):
    """A command with the output and the time that are expected of it."""

    what: str
    command: tuple[str, ...]
    says: str
    """A pattern of its output, as proof that it did what is measured."""
    limit: float | None
    """Wall-clock seconds; none for what is only compared with."""


def measured(cells: int) -> tuple[Measured, ...]:
    many = ("snakemake", "--dry-run", TARGET, "--config", f"params={MANY}")
    return (
        Measured("snakemake: its own start", ("snakemake", "--version"), r"^\d", None),
        Measured("snakemake, nothing to do", ("snakemake", TARGET), "Nothing to be done", 3),
        Measured(f"snakemake --dry-run, {cells} cells", many, rf"(?m)^train +{cells}$", 20),
        Measured("dvc: its own start", ("dvc", "--version"), r"^\d", None),
        Measured("dvc repro, nothing to do", ("dvc", "repro"), "up to date", 4),
        Measured("the grid, recorded", ("dvc", "--cd", "results", "status"), "up to date", None),
    )


def run(command: tuple[str, ...], folder: Path) -> str:
    """The output of a command; a command that fails ends the benchmark."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    return done.stdout + done.stderr


def copy_repository(folder: Path) -> None:
    """The repository without what git ignores."""
    listed = run(("git", "ls-files", "--cached", "--others", "--exclude-standard"), REPOSITORY)
    for name in listed.splitlines():
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, folder / name)


def make_copy(folder: Path) -> None:
    """The repository with a finished toy grid and experiment."""
    copy_repository(folder)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["scales"]["toy"] = TOY
    params["scale"] = "toy"
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    for command in (
        ("git", "init", "--quiet"),
        ("snakemake", "--cores", "all", TARGET),
        ("dvc", "repro"),
    ):
        run(command, folder)


def write_many(folder: Path, cells: int) -> int:
    """A parameter file with more seeds; returns how many cells it has, `cells` or some more."""
    params = yaml.safe_load((folder / "params.yaml").read_text())
    couplings = len(params["table1"]["couplings"])
    seeds = -(-cells // couplings)
    params["table1"]["seeds"] = list(range(seeds))
    (folder / MANY).write_text(yaml.safe_dump(params, sort_keys=False))
    return seeds * couplings


def seconds(item: Measured, folder: Path) -> tuple[float, float]:
    """Wall-clock and CPU seconds of one call."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    said = run(item.command, folder)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if not re.search(item.says, said):
        sys.exit(f"{' '.join(item.command)} did not say {item.says!r}:\n{said}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(folder: Path, cells: int, runs: int) -> list[Mapping[str, Any]]:
    items = measured(write_many(folder, cells))
    try:
        for item in items:  # bytecode and caches of the first call are not what is measured
            seconds(item, folder)
        rounds = [[seconds(item, folder) for item in items] for _ in range(runs)]
    finally:
        (folder / MANY).unlink()
    return [
        {
            "what": item.what,
            "command": " ".join(item.command),
            "wall_seconds": statistics.median(wall for wall, _ in times),
            "fastest_wall_seconds": min(wall for wall, _ in times),
            "cpu_seconds": statistics.median(cpu for _, cpu in times),
            "limit_seconds": item.limit,
        }
        for item, times in zip(items, zip(*rounds, strict=True), strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path, help="a working copy with nothing to do, instead of a new one")
    parser.add_argument("--cells", type=int, default=500, help="size of the grid that is planned")
    parser.add_argument("--runs", type=int, default=5, help="calls of each command")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to FILE")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder or Path(name)
        if not arguments.folder:
            make_copy(folder)
        rows = measure(folder, arguments.cells, arguments.runs)

    print("| what | wall (s) | fastest | CPU (s) | limit |")
    print("| --- | --- | --- | --- | --- |")
    for row in rows:
        limit = "" if row["limit_seconds"] is None else f"{row['limit_seconds']}"
        times = " | ".join(
            f"{row[key]:.2f}" for key in ("wall_seconds", "fastest_wall_seconds", "cpu_seconds")
        )
        print(f"| {row['what']} | {times} | {limit} |")
    if arguments.json:
        report.write(arguments.json, cells=arguments.cells, runs=arguments.runs, measured=rows)


if __name__ == "__main__":
    main()
