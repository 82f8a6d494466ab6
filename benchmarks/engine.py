"""Time of the two engines when there is nothing to do, and time to plan grids of many cells.

    python benchmarks/engine.py --json benchmarks/results/engine.json
    python benchmarks/engine.py --folder .       # a working copy whose grid and experiment are finished
    python benchmarks/engine.py --only planning --cells 2000

Without `--folder`, the default grid and the experiment are computed at a size of seconds in a temporary copy
of the repository (minutes). Commands take turns, so that a busy moment of the machine affects all of them.
Wall-clock and CPU seconds are medians; on a busy machine, compare CPU seconds. An engine's own start
(`--version`, which imports all of it) is a lower bound.

Planning is `snakemake --dry-run` from nothing: CPU seconds, and the share of couplet, the time in the
functions of `workflow/` that Snakemake calls for its jobs, of all time under cProfile. On a cluster, each job
is handed to a Snakemake of its own, which reads the workflow again and plans that one job: the last column.
"""

from __future__ import annotations

import argparse
import os
import pstats
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
CELLS = (100, 500, 2000, 5000)
LIMITS = {2000: 30}
"""CPU seconds in which grids of so many cells must be planned."""

PROFILED = """
import cProfile, sys
from snakemake.cli import main
sys.argv[0] = "snakemake"
cProfile.run("main()", sys.argv.pop(1))
"""
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


IDLE = (
    Measured("snakemake: its own start", ("snakemake", "--version"), r"^\d", None),
    Measured("snakemake, nothing to do", ("snakemake", TARGET), "Nothing to be done", 3),
    Measured("dvc: its own start", ("dvc", "--version"), r"^\d", None),
    Measured("dvc repro, nothing to do", ("dvc", "repro"), "up to date", 4),
    Measured("the grid, recorded", ("dvc", "--cd", "results", "status"), "up to date", None),
)


def run(command: tuple[str, ...], folder: Path) -> str:
    """The output of a command; a command that fails ends the benchmark."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    quiet = {"DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(folder.resolve() / "src"), **quiet}
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
    wall, cpu, said = timed(item.command, folder)
    if not re.search(item.says, said):
        sys.exit(f"{' '.join(item.command)} did not say {item.says!r}:\n{said}")
    return wall, cpu


def timed(command: tuple[str, ...], folder: Path) -> tuple[float, float, str]:
    """Wall-clock and CPU seconds of a command, and its output."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    said = run(command, folder)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, said


def idle(folder: Path, runs: int) -> list[Mapping[str, Any]]:
    """The time of commands that have nothing to do."""
    for item in IDLE:  # bytecode and caches of the first call are not what is measured
        seconds(item, folder)
    rounds = [[seconds(item, folder) for item in IDLE] for _ in range(runs)]
    return [
        {
            "what": item.what,
            "command": " ".join(item.command),
            "wall_seconds": statistics.median(wall for wall, _ in times),
            "fastest_wall_seconds": min(wall for wall, _ in times),
            "cpu_seconds": statistics.median(cpu for _, cpu in times),
            "limit_seconds": item.limit,
        }
        for item, times in zip(IDLE, zip(*rounds, strict=True), strict=True)
    ]


def planning(folder: Path, sizes: list[int], runs: int) -> list[Mapping[str, Any]]:
    """The cost of planning grids, in a folder without results."""
    found = []
    for size in sizes:
        cells = write_many(folder, size)
        config = ("--config", f"params={MANY}")
        plan = ("--dry-run", TARGET, *config)
        plans = [timed(("snakemake", *plan), folder) for _ in range(runs)]
        said = plans[0][2]
        trained = re.findall(r"(?m)^Job \d+: train (\S+)$", said)
        total = re.search(r"(?m)^total +(\d+)$", said)
        if len(trained) != cells or total is None:
            sys.exit(f"{cells} cells were to be planned, not {len(trained)}:\n{said[-2000:]}")
        run((sys.executable, "-c", PROFILED, "planning.prof", *plan), folder)
        job = ("snakemake", "--dry-run", *of_job("train", f"run={trained[-1]}"), *config)
        found.append(
            {
                "cells": cells,
                "jobs": int(total[1]),
                "command": " ".join(("snakemake", *plan)),
                "wall_seconds": statistics.median(wall for wall, _, _ in plans),
                "cpu_seconds": statistics.median(cpu for _, cpu, _ in plans),
                "couplet_share": share_of_couplet(folder / "planning.prof", folder),
                "cpu_seconds_of_a_job": statistics.median(timed(job, folder)[1] for _ in range(runs)),
                "limit_seconds": LIMITS.get(cells),
            }
        )
        print(f"{cells} cells: {found[-1]['cpu_seconds']:.1f} s of CPU", file=sys.stderr)
    return found


def of_job(rule: str, wildcards: str) -> tuple[str, ...]:
    """The options with which an executor hands one job to a Snakemake of its own."""
    job = ("--target-jobs", f"{rule}:{wildcards}", "--allowed-rules", rule, "--cores", "1")
    return (*job, "--force", "--force-use-threads", "--nolock", "--ignore-incomplete", "--mode", "remote")


def share_of_couplet(profile: Path, folder: Path) -> float:
    """The share of a profile's time that functions of the workflow take which Snakemake calls for jobs."""
    stats: Any = pstats.Stats(str(profile))
    workflow, snakemake = str(folder.resolve() / "workflow"), f"{os.sep}snakemake{os.sep}"
    spent = sum(
        edge[3]
        for (file, _, _), (*_, callers) in stats.stats.items()
        if file.startswith(workflow)
        for (caller, _, _), edge in callers.items()
        if snakemake in caller
    )
    return spent / stats.total_tt


def row(*entries: object) -> None:
    print("|", " | ".join(f"{each:.2f}" if isinstance(each, float) else str(each) for each in entries), "|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path, help="a working copy with nothing to do, instead of a new one")
    parser.add_argument("--only", choices=("idle", "planning"), help="measure nothing else")
    parser.add_argument("--cells", type=int, nargs="+", default=CELLS, help="sizes of the grids to plan")
    parser.add_argument("--runs", type=int, default=5, help="calls of each command")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to FILE")
    arguments = parser.parse_args()

    numbers: dict[str, Any] = {"runs": arguments.runs}
    with tempfile.TemporaryDirectory() as name:
        if arguments.only != "idle":
            copy_repository(empty := Path(name, "empty"))
            numbers["planning"] = planning(empty, arguments.cells, arguments.runs)
        if arguments.only != "planning":
            folder = arguments.folder or Path(name, "toy")
            if not arguments.folder:
                make_copy(folder)
            numbers["measured"] = idle(folder, arguments.runs)

    if "planning" in numbers:
        row("cells", "jobs", "CPU (s)", "limit", "couplet's share", "CPU of a job's own Snakemake (s)")
        row(*["---"] * 6)
        for each in numbers["planning"]:
            share = f"{each['couplet_share']:.0%}"
            limit = each["limit_seconds"] or ""
            row(each["cells"], each["jobs"], each["cpu_seconds"], limit, share, each["cpu_seconds_of_a_job"])
    if "measured" in numbers:
        row("what", "wall (s)", "fastest", "CPU (s)", "limit")
        row(*["---"] * 5)
        for each in numbers["measured"]:
            keys = ("wall_seconds", "fastest_wall_seconds", "cpu_seconds")
            row(each["what"], *(each[key] for key in keys), each["limit_seconds"] or "")
    if arguments.json:
        report.write(arguments.json, **numbers)


if __name__ == "__main__":
    main()
