"""Processor time of a whole run, and its share outside training steps, sampling and features.

    python benchmarks/overhead.py --json benchmarks/results/overhead.json
    python benchmarks/overhead.py results/paper.html --only "copies of a warm process"    # an hour

Makes targets from nothing in two temporary copies of the repository: once each job is a process that imports
everything by itself, and once jobs are copies of a warm process (docs/pipeline.md). All processes of the run
count: jobs, Snakemake, DVC, shells and git. A sampler in every Python process tells what its time was spent
on, to some hundredths of a second. Metrics (distances between features) and probes are listed apart, and are
part of the overhead. Linux only; by default some minutes of processor time.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import report
from engine import copy_repository

TARGETS = ["results/table1-smoke.csv", "results/paper/ict-weighting.csv"]

WORK = ("steps", "sampling", "features")
PARTS = (*WORK, "metrics", "probes", "imports", "other")

MODES = {"each by itself": {"COUPLET_WARM": ""}, "copies of a warm process": {}}

PR_SET_CHILD_SUBREAPER = 36


def measure(targets: list[str], cores: int, changed: dict[str, str]) -> dict[str, Any]:
    """Make the targets in a copy; processor seconds of all processes, by command and part."""
    with tempfile.TemporaryDirectory() as copy, tempfile.TemporaryDirectory() as samples:
        folder = Path(copy)
        copy_repository(folder)
        subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
        environment = {name: value for name, value in os.environ.items() if name != "COUPLET_WARM"}
        environment |= {
            **changed,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).with_name("sampler")), str(folder / "src")]),
            "SAMPLED": samples,
            "DVC_NO_ANALYTICS": "1",
        }
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = ["snakemake", "--cores", str(cores), *targets]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
        with suppress(ChildProcessError):  # processes that outlive the one that started them
            while True:
                os.wait()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        total = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return {"total": total, "commands": commands(Path(samples), total)}


def commands(samples: Path, total: float) -> dict[str, dict[str, float]]:
    """Seconds by part of every command, and the number of its processes; what is not Python is `other`."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for file in samples.iterdir():
        sample = json.loads(file.read_text())
        found[name_of(sample["command"])].update({"processes": 1, **sample["seconds"]})
    sampled = sum(sum(parts.values()) - parts["processes"] for parts in found.values())
    found["shells, git and others"]["other"] = total - sampled
    return {name: dict(parts) for name, parts in sorted(found.items())}


def name_of(command: list[str]) -> str:
    """`train` of `couplet train ...`, else the program's name."""
    program = Path(command[0]).name
    if program in ("couplet", "__main__.py"):
        return f"couplet {command[1]}"
    return {"-c": "warm process"}.get(program, program)


def shares(measured: dict[str, Any]) -> dict[str, float]:
    """Parts of the total: the overhead, and how much of it is metrics and probes."""
    parts = Counter[str]()
    for spent in measured["commands"].values():
        parts.update(spent)
    total = measured["total"]
    return {
        "overhead": 1 - sum(parts[part] for part in WORK) / total,
        "metrics and probes": (parts["metrics"] + parts["probes"]) / total,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "targets", nargs="*", default=TARGETS, help=f"files to make; default: {' '.join(TARGETS)}"
    )
    parser.add_argument("--cores", type=int, default=2, help="cores that Snakemake may use")
    parser.add_argument("--only", choices=MODES, help="one of the two ways")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to FILE")
    arguments = parser.parse_args()

    # Orphans become children of this process, so that their time counts.
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1)
    runs = {}
    for mode in [arguments.only] if arguments.only else MODES:
        measured = measure(arguments.targets, arguments.cores, MODES[mode])
        runs[mode] = {**measured, **shares(measured)}
        apart = f"{runs[mode]['metrics and probes']:.1%} of all are metrics and probes"
        print(f"\n{' '.join(arguments.targets)}, jobs {mode}: {measured['total']:.1f} s of processor time")
        print(f"overhead {runs[mode]['overhead']:.1%}; {apart}")
        print(f"\n| command | processes | {' | '.join(PARTS)} |\n| --- |{' --- |' * (len(PARTS) + 1)}")
        for name, spent in measured["commands"].items():
            numbers = " | ".join(f"{spent.get(part, 0):.2f}" for part in PARTS)
            print(f"| {name} | {spent.get('processes', '')} | {numbers} |")
    if arguments.json:
        report.write(arguments.json, targets=arguments.targets, runs=runs)


if __name__ == "__main__":
    main()
