"""Killed runs, through the engine and alone: the same command ends with the same bytes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
STEPS = 200


def content_of(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith("record.json")
    }


@pytest.fixture(scope="module")
def cell(clone):
    """A clone whose only cell trains for some seconds, and what it writes if nobody disturbs it."""

    def longer(params):
        params["table1"].update(couplings=["vae"])
        params["recipes"]["ict"].update(steps=STEPS)
        params["train"].update(snapshots=3, log_every=7, save_every=10)

    clone.edit(longer)
    clone.run("couplet", "prepare", "digits", "--out", "apart/data")
    clone.run(*TRAIN, "--out", "apart/train")
    return clone, content_of(clone.root / "apart/train")


TRAIN = ("couplet", "train", "--coupling", "vae", "--data", "apart/data")


def started(clone, *command):
    """The command, in the background."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        cwd=clone.root,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def newest_step(partial):
    steps = [int(path.stem.removeprefix("state-")) for path in partial.glob("state-*.safetensors")]
    return max(steps, default=0)


def strike(partial, number, seconds=120):
    """Sends a signal to the process that trains, once it has saved a state after those that there were."""
    before, deadline = newest_step(partial), time.monotonic() + seconds
    while newest_step(partial) <= before:
        assert time.monotonic() < deadline, "no state was saved"
        time.sleep(0.01)
    holder = partial.with_suffix(".lock").read_text()
    os.kill(int(re.match(r"process (\d+) on ", holder)[1]), number)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signal_ends_a_training_with_a_line_and_its_code(cell, number):
    clone, whole = cell
    out = clone.root / f"apart/{number.name}"
    with started(clone, *TRAIN, "--out", str(out)) as process:
        strike(out.with_suffix(".partial"), number)
        _, said = process.communicate()
    assert process.returncode == 75
    step = newest_step(out.with_suffix(".partial"))
    assert 10 <= step < STEPS
    how = f"{number.name}: stopped after step {step}, saved; the same command resumes"
    assert re.findall("^couplet: .*$", said, re.M) == [f"couplet: digits-ict-ve-vae-s0: {how}"]
    assert "Traceback" not in said
    assert not out.exists()
    assert f"resumes after step {step}" in clone.run(*TRAIN, "--out", str(out)).stderr
    assert content_of(out) == whole


@pytest.mark.slow
def test_second_process_on_a_folder_is_refused(cell):
    clone, whole = cell
    out = clone.root / "apart/shared"
    with started(clone, *TRAIN, "--out", str(out)) as process:
        while newest_step(out.with_suffix(".partial")) == 0:
            time.sleep(0.01)
        process.send_signal(signal.SIGSTOP)
        second = clone.run(*TRAIN, "--out", str(out), ok=False)
        process.send_signal(signal.SIGCONT)
        process.communicate()
    assert second.returncode == 2
    assert re.fullmatch(
        rf"couplet: {out}\.lock: process {process.pid} on \S+ is at work; wait for it or .*\n",
        second.stderr,
    )
    assert process.returncode == 0
    assert content_of(out) == whole


@pytest.mark.slow
def test_second_run_on_a_folder_is_refused(cell, hold):
    clone, _ = cell
    with hold(clone.root / "apart/run.lock"):
        done = clone.run("couplet", "run", "--out", "apart/run", ok=False)
    assert done.returncode == 2
    assert re.fullmatch(r"couplet: .+/apart/run\.lock: process \d+ on \S+ is at work; .*\n", done.stderr)


@pytest.mark.slow
def test_killed_job_resumes_in_its_retry_and_in_the_next_call(cell):
    """The engine removes what a failed job wrote; the states are not among it."""
    clone, whole = cell
    [train] = [job for job in clone.plan("results/table1.csv") if job.rule == "train"]
    target = f"results/runs/{train.name}/train/record.json"
    train = (clone.root / target).parent
    call = ("snakemake", "--cores", "1", target)
    partial = train.with_suffix(".partial")

    # Killed for good, and again in the retry: the engine gives up.
    with started(clone, *call) as process:
        strike(partial, signal.SIGKILL)
        strike(partial, signal.SIGKILL)
        _, said = process.communicate()
    assert process.returncode == 1
    assert said.count("Trying to restart job") == 1
    assert not (train / "record.json").exists()
    saved = newest_step(partial)
    assert 0 < saved < STEPS

    # The next call: warned, it saves and stops; its retry goes on to the end.
    with started(clone, *call) as process:
        strike(partial, signal.SIGTERM)
        _, said = process.communicate()
    assert process.returncode == 0, said
    assert said.count("Trying to restart job") == 1
    log = next((clone.root / "logs/train").glob("*.log")).read_text()
    resumed = re.findall(r"resumes after step (\d+)", log)  # the log has all attempts
    assert saved < int(resumed[-1]) < STEPS
    assert content_of(train) == whole
    assert not partial.exists()
    again = clone.run(*call)
    assert "Nothing to be done" in again.stdout + again.stderr


@pytest.fixture(scope="module")
def shared(cell):
    """What two processes write if nobody disturbs them."""
    clone, _ = cell
    clone.run(*TRAIN, "--out", "apart/two", "--processes", "2")
    return content_of(clone.root / "apart/two")


@pytest.mark.slow
def test_two_processes_train_as_one(cell, shared):
    """The numbers of the curve, which the checkpoints follow."""
    _, whole = cell
    assert shared.keys() == whole.keys()
    mine, theirs = (
        [
            [float(value) for value in line.split(",")]
            for line in files[Path("curve.csv")].decode().split()[1:]
        ]
        for files in (shared, whole)
    )
    assert mine == [pytest.approx(line, rel=1e-3) for line in theirs]
    assert mine[:5] == [pytest.approx(line, rel=1e-5) for line in theirs[:5]]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signal_to_whom_starts_the_processes_ends_all_of_them(cell, shared, number):
    clone, _ = cell
    out = clone.root / f"apart/two-{number.name}"
    command = (*TRAIN, "--out", str(out), "--processes", "2")
    with started(clone, *command) as process:
        while newest_step(out.with_suffix(".partial")) == 0:
            time.sleep(0.01)
        process.send_signal(number)
        _, said = process.communicate()
    assert process.returncode == 75, said[-6000:]
    assert len(re.findall("^couplet: .*stopped after step", said, re.M)) == 1
    assert "Traceback" not in said
    clone.run(*command)
    assert content_of(out) == shared


@pytest.mark.slow
def test_torchrun_starts_again_from_the_last_state(cell, shared):
    """A process dies without warning: all are started anew."""
    clone, _ = cell
    out = clone.root / "apart/elastic"
    torchrun = ("torchrun", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1", "-m", *TRAIN)
    with started(clone, *torchrun, "--out", str(out)) as process:
        strike(out.with_suffix(".partial"), signal.SIGKILL)
        _, said = process.communicate()
    assert process.returncode == 0, said[-6000:]
    assert "resumes after step" in said
    assert content_of(out) == shared


@pytest.mark.slow
def test_wrong_input_is_refused_once(cell):
    clone, _ = cell
    done = clone.run(*TRAIN, "--out", "apart/odd", "--processes", "3", ok=False)
    assert done.returncode == 2
    assert done.stderr == "couplet: batch = 8: must be a multiple of 3, the number of processes\n"
    assert not list((clone.root / "apart").glob("odd*"))


@pytest.mark.slow
def test_random_deaths_of_every_coupling_change_no_byte(tmp_path):
    written = tmp_path / "faults.json"
    command = [
        sys.executable,
        "benchmarks/faults.py",
        "--runs",
        "4",
        "--stride",
        "13",
        "--json",
        str(written),
    ]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(written.read_text())
    assert [run["coupling"] for run in found["random"]] == ["independent", "ot", "vae", "generator"]
    assert sum(run["kills"] for run in found["random"]) > 0
    assert all(run["identical"] for run in found["random"] + found["operations"])
    assert len(found["operations"]) > 4
