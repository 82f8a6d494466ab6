"""Kill training runs at random moments and at every file operation, and fill the disk under one.

    python benchmarks/faults.py --runs 50 --json benchmarks/results/faults.json

A killed run is good if the same command, given again, ends with the bytes of an undisturbed run: snapshots,
curve and configuration. record.json differs, because it holds times. CPU, Linux only.

    random       each of --runs runs gets SIGKILL again and again, at moments drawn from the time of an
                 undisturbed run, until a process finishes; the couplings take turns
    operations   one SIGKILL at each file operation of a run (an open, rename, removal, new folder)
    full disk    a tmpfs with room for two states: the third save fails with one line; with more room the run
                 resumes

Exit code 1 if any run differs.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from couplet import cli

PARAMS = Path(__file__).parents[1] / "params.yaml"
COUPLINGS = ("independent", "ot", "vae", "generator")
OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"}
"""Audit events of the interpreter that count as file operations."""


class Training(NamedTuple):
    """The command line of a run, without its output."""

    params: Path
    archive: Path
    coupling: str

    def arguments(self, out: Path) -> list[str]:
        files = ["--params", str(self.params), "--data", str(self.archive), "--out", str(out)]
        return ["train", "--coupling", self.coupling, "--device", "cpu", *files]


class Outcome(NamedTuple):
    """Result of a run that was killed."""

    coupling: str
    kills: int
    identical: bool


def make_params(path: Path) -> None:
    """The repository's parameters at a size of about a second."""
    params = yaml.safe_load(PARAMS.read_text())
    params["recipes"]["ict"].update(steps=24, batch=4)
    params["recipes"]["ict"]["network"].update(model_channels=8, channel_mult=[1])
    params["train"] = {"snapshots": 4, "log_every": 5, "save_every": 4}
    path.write_text(yaml.safe_dump({**params, "scale": None, "scales": {}}))


def work(arguments: list[str], log: Path, out: Path, fatal: int) -> None:
    """The command line in a process of its own, which kills itself at file operation ``fatal``, if not 0."""
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    place = str(out.absolute())
    operations = count(1)

    def watch(event: str, values: tuple[Any, ...]) -> None:
        if event in OPERATIONS and str(values[0]).startswith(place) and next(operations) == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    if fatal:
        sys.addaudithook(watch)
    sys.argv = ["couplet", *arguments]
    cli.main()


# torch, and what is imported at first use, is loaded once, in a server that does nothing but fork.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["torch._dynamo", "scipy.optimize", "couplet.cli", "couplet.stages.train"])


def attempt(
    training: Training, out: Path, *, moment: float | None = None, fatal: int = 0, expected: int = 0
) -> bool:
    """Whether a process ends with the expected exit code before it is killed.

    That is after ``moment`` seconds, or at file operation ``fatal``. Any other end is an error.
    """
    log = out.with_name(f"{out.name}.log")
    process = context.Process(target=work, args=(training.arguments(out), log, out, fatal))
    process.start()
    process.join(moment)
    process.kill()
    process.join()
    if process.exitcode not in (expected, -signal.SIGKILL):
        command = " ".join(training.arguments(out))
        sys.exit(f"couplet {command}: exit code {process.exitcode}\n{log.read_text()}")
    return process.exitcode == expected


def digests(out: Path) -> dict[str, str]:
    """SHA-256 of every file that must not differ, by path."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and not path.name.endswith("record.json")
    }


def killed_at_random(
    training: Training, out: Path, whole: dict[str, str], seconds: float, rng: random.Random
) -> Outcome:
    kills = 0
    # Later with every kill: on a machine that has become busy, too, a process must reach a state.
    while not attempt(training, out, moment=rng.uniform(0, seconds * 1.2**kills)):
        kills += 1
    return Outcome(training.coupling, kills, digests(out) == whole)


def killed_at_operation(training: Training, out: Path, whole: dict[str, str], fatal: int) -> Outcome | None:
    """None if a run has fewer operations."""
    if attempt(training, out, fatal=fatal):
        return None
    # A run that was killed after its folder was published is finished.
    good = (out / "record.json").exists() or attempt(training, out)
    return Outcome(training.coupling, 1, good and digests(out) == whole)


def killed_at_operations(
    training: Training, folder: Path, whole: dict[str, str], stride: int
) -> Iterator[Outcome]:
    """A run for every ``stride``-th operation."""
    for fatal in count(1, stride):
        outcome = killed_at_operation(training, folder / f"operation-{fatal}", whole, fatal)
        if outcome is None:
            return
        yield outcome


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A tmpfs of ``size`` bytes at ``folder``; CalledProcessError where that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def full_disk(training: Training, folder: Path, whole: dict[str, str], snapshot: int) -> dict[str, object]:
    """The message of a run on a full disk, and whether it ends with the same bytes once there is more room.

    A state is four snapshots: weights, average and two moments. Twelve have room for two states and the
    snapshots so far, not for the third state beside them.
    """
    disk = folder / "disk"
    out, log = disk / "run", disk / "run.log"
    try:
        with small_disk(disk, 12 * snapshot):
            refused = attempt(training, out, expected=2)
            (message,) = [line for line in log.read_text().splitlines() if line.startswith("couplet: ")]
            subprocess.run(["mount", "-o", f"remount,size={100 * snapshot}", str(disk)], check=True)
            finished = attempt(training, out)
            resumed = "resumes after step 8" in log.read_text()
            good = refused and finished and resumed and digests(out) == whole
            return {"message": message.replace(f"{disk}/", ""), "identical": good}
    except subprocess.CalledProcessError as error:
        return {"message": f"no tmpfs could be mounted: {(error.stderr or str(error)).strip()}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=50, help="runs killed at random moments")
    parser.add_argument(
        "--stride", type=int, default=1, help="every n-th file operation is fatal once; 0: none"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the outcomes to FILE")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_params(folder / "params.yaml")
        prepare = ("couplet", "prepare", "digits", "--params", "params.yaml", "--out", "data")
        subprocess.run([sys.executable, "-m", *prepare], cwd=folder, check=True)
        trainings = [Training(folder / "params.yaml", folder / "data", coupling) for coupling in COUPLINGS]
        whole, seconds = {}, {}
        attempt(trainings[0], folder / "warm-up")
        for training in trainings:
            began = time.perf_counter()
            attempt(training, folder / training.coupling)
            seconds[training.coupling] = time.perf_counter() - began
            whole[training.coupling] = digests(folder / training.coupling)
        outcomes = []
        for run in range(arguments.runs):
            training = trainings[run % len(trainings)]
            coupling = training.coupling
            out = folder / f"random-{run}"
            outcomes.append(killed_at_random(training, out, whole[coupling], seconds[coupling], rng))
        first = trainings[0]
        undisturbed = whole[first.coupling]
        operations = []
        if arguments.stride:
            operations = list(killed_at_operations(first, folder, undisturbed, arguments.stride))
        snapshot = next((folder / first.coupling / "checkpoints").iterdir()).stat().st_size
        disk = full_disk(first, folder, undisturbed, snapshot)

    kills = sum(outcome.kills for outcome in outcomes)
    differ = sum(not outcome.identical for outcome in (*outcomes, *operations))
    print(f"full disk: {disk['message']}")
    print(
        f"{len(outcomes)} runs killed {kills} times at random moments, {len(operations)} killed once at "
        f"a file operation: {differ} differ from the undisturbed ones"
    )
    if arguments.json:
        import report  # and with it torch, which the process that kills does not need

        report.write(
            arguments.json,
            seconds=seconds,
            random=[outcome._asdict() for outcome in outcomes],
            operations=[outcome._asdict() for outcome in operations],
            full_disk=disk,
        )
    sys.exit(1 if differ or not disk.get("identical", True) else 0)


if __name__ == "__main__":
    main()
