"""Commands in copies of a warm process: their output, files, signals and ends are those of other commands."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from couplet.cli import warm_process
from couplet.config.params import Params

KEEPER = """
import os, sys
from couplet.cli import warm_process
warm_process.start()
print(os.environ["COUPLET_WARM"], flush=True)
sys.stdin.read()
"""
"""Starts a warm process, as Snakemake does."""

COMMAND = """
import json, sys
from couplet.cli import main
try:
    main()
finally:
    print(json.dumps({"by itself": "couplet.cli.app" in sys.modules}), file=sys.stderr)
"""

ONE_THREAD = dict.fromkeys(warm_process.THREADS, "1")


def environment(**changed):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("COUPLET_", "PYTEST_"))}
    return {**kept, **ONE_THREAD, **changed}


def until(true, seconds=120):
    """Wait until a function returns something true, and return that."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


class Keeper:
    """A process that has started a warm one, and commands that may use that."""

    def __init__(self, folder):
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-c", KEEPER],
            cwd=folder,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address = Path(self.process.stdout.readline().strip())

    def end(self, number=signal.SIGKILL):
        self.process.send_signal(number)
        self.process.communicate()

    def begin(self, *arguments, warm=True, **options):
        changed = {"COUPLET_WARM": str(self.address) if warm else ""} | options.pop("changed", {})
        return subprocess.Popen(
            [sys.executable, "-c", COMMAND, *arguments],
            **{"cwd": self.folder, "env": environment(**changed), "text": True, **options},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *arguments, **options):
        """Exit code, output, errors, and whether the command ran by itself."""
        with self.begin(*arguments, **options) as process:
            out, errors = process.communicate()
        *lines, last = errors.splitlines()
        return process.returncode, out, lines, json.loads(last)["by itself"]

    def train(self, name):
        """A command that trains until it is told to stop, and the number of the process that does."""
        command = self.begin("train", "--params", "long.yaml", "--data", "data", "--out", name)
        curve, lock = self.folder / f"{name}.partial/curve.csv", self.folder / f"{name}.lock"
        until(lambda: curve.exists() and len(curve.read_text().splitlines()) > 2)
        copy = int(re.match(r"process (\d+) on ", lock.read_text())[1])
        assert copy != command.pid
        return command, copy


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small_grid, noise_archive):
    """A data set, and parameters of a cell of few steps and of one that never ends."""
    folder = tmp_path_factory.mktemp("warm")
    noise_archive(folder / "data", Params.model_validate(small_grid()).datasets["digits"])
    for name, steps in (("short", 2), ("long", 1_000_000)):
        content = small_grid()
        content["recipes"]["ict"]["steps"] = steps
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return folder


@pytest.fixture(scope="module")
def keeper(folder):
    """A keeper; when it has ended, so does the warm process."""
    keeper = Keeper(folder)
    yield keeper
    keeper.end(signal.SIGTERM)
    until(lambda: not keeper.address.parent.exists())


def state(number):
    """The state of a process as one letter, or nothing if there is none."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


def content_of(folder):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and "record" not in path.name)
    return {path.relative_to(folder): path.read_bytes() for path in files}


@pytest.mark.parametrize("command", ["--version", "nonsense", "show nothing", "train --help"])
def test_copy_says_the_same_and_ends_the_same(keeper, command):
    *copied, copy_by_itself = keeper.run(*command.split())
    *expected, by_itself = keeper.run(*command.split(), warm=False)
    assert copied == expected
    assert (copy_by_itself, by_itself) == (False, True)


def test_copy_writes_the_same_bytes(keeper):
    codes = {
        name: keeper.run("run", "--params", "short.yaml", "--out", name, warm=name == "warm")
        for name in ("warm", "alone")
    }
    assert [(code, by_itself) for code, _, _, by_itself in codes.values()] == [(0, False), (0, True)]
    written, expected = (content_of(keeper.folder / name) for name in codes)
    assert len(expected) > 10
    assert written == expected
    varying = {"seconds": 0, "images_per_second": 0, "outputs": 0}
    record, own = (json.loads((keeper.folder / name / "train/record.json").read_text()) for name in codes)
    assert {**record, **varying} == {**own, **varying}


@pytest.mark.parametrize(
    "options",
    [
        {"changed": {"OMP_NUM_THREADS": "2"}},
        {"changed": {"PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:/nowhere"}},
        {"changed": {"COUPLET_WARM": "/nowhere/socket"}},
        {"cwd": "/"},
        {"umask": 0o027},
        {"preexec_fn": lambda: os.nice(1)},
    ],
    ids=["threads", "environment", "address", "folder", "umask", "priority"],
)
def test_other_surroundings_need_a_process_of_their_own(keeper, options):
    code, out, _, by_itself = keeper.run("--version", **options)
    assert (code, by_itself) == (0, True)
    assert out.startswith("couplet ")


def test_temporary_folder_of_a_job_is_its_own(keeper):
    assert not keeper.run("--version", changed={"TMPDIR": "/"})[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signal_to_a_command_stops_its_training(keeper, number):
    command, _ = keeper.train(f"stopped-{number.name}")
    command.send_signal(number)
    _, errors = command.communicate()
    assert command.returncode == os.EX_TEMPFAIL
    assert f"{number.name}: stopped after step" in errors


def test_signal_that_ends_a_process_ends_command_and_copy(keeper):
    command, copy = keeper.train("hung-up")
    command.send_signal(signal.SIGHUP)
    command.communicate()
    assert command.returncode == -signal.SIGHUP
    assert not state(copy)


def test_killed_command_takes_its_copy_along(keeper):
    command, copy = keeper.train("killed")
    command.kill()
    command.communicate()
    until(lambda: not state(copy))


def test_killed_copy_is_a_killed_command(keeper):
    command, copy = keeper.train("copy-killed")
    os.kill(copy, signal.SIGKILL)
    command.communicate()
    assert command.returncode == -signal.SIGKILL


def test_copy_stops_and_goes_on_with_its_command(keeper):
    command, copy = keeper.train("paused")
    command.send_signal(signal.SIGTSTP)
    until(lambda: state(copy) == state(command.pid) == "T")
    command.send_signal(signal.SIGCONT)
    until(lambda: state(copy) in "RS" and state(command.pid) == "S")
    command.kill()
    command.communicate()


def test_warm_process_of_a_killed_keeper_ends_with_its_last_copy(folder):
    keeper = Keeper(folder)
    command, _ = keeper.train("orphan")
    keeper.end()
    until(lambda: not keeper.address.parent.exists())
    assert command.poll() is None
    command.send_signal(signal.SIGTERM)
    command.communicate()
    assert command.returncode == os.EX_TEMPFAIL


def test_none_is_started_where_there_is_one_or_none_is_wanted(monkeypatch):
    for address in ("", "/somewhere/socket"):
        monkeypatch.setenv("COUPLET_WARM", address)
        warm_process.start()
        assert os.environ["COUPLET_WARM"] == address
