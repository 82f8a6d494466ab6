"""Processes of one machine or of several nodes, which find each other, end together and pass on signals.

The nodes are commands on this machine, each in a process group of its own.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from couplet.errors import UserError
from couplet.ranks import launch

LAUNCH = """
import sys
from couplet.ranks import launch
processes, nodes, *arguments = sys.argv[1:]
sys.exit(launch(arguments, int(processes), int(nodes)))
"""

WORKER = """
import os, sys, time
from pathlib import Path
from contextlib import nullcontext
from couplet.errors import Lost, UserError
from couplet.process import rank, signals, start
start(1)
import torch
from couplet.ranks import joined

folder, task = Path(sys.argv[1]), sys.argv[2]
try:
    with joined() as ranks, nullcontext(lambda: None) if task == "fail" else signals() as stopped:
        assert ranks.rank == rank()
        total = ranks.mean(torch.tensor([float(ranks.rank)])).item()
        (folder / f"{ranks.rank}.json").write_text(f"[{ranks.gather(ranks.rank)}, {total}]")
        if ranks.rank == 1 and task == "fail":
            os._exit(3)
        if ranks.rank == 1 and task == "refuse":
            raise UserError("key = 1: not allowed")
        while task == "fail":
            time.sleep(0.05)
        while task != "end" and not ranks.any(stopped() is not None):
            time.sleep(0.05)
except Lost as lost:
    print(f"Lost: {lost}", file=sys.stderr)
    sys.exit(75)
except UserError as error:
    time.sleep(30 * rank())  # as the command line: the first process prints
    sys.exit(f"UserError: {error}")
sys.exit(75 if task == "stop" else 0)
"""

NAMELESS = ["unshare", "--user", "--map-root-user", "--uts", "--net", "--mount", "sh", "-c"]
WITHOUT_NAMES = """
hostname no-such-host-xyz
echo "nameserver 127.0.0.9" > "$1/resolv.conf"
: > "$1/hosts"
mount --bind "$1/resolv.conf" /etc/resolv.conf && mount --bind "$1/hosts" /etc/hosts
"$0" -c 'import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh", b"lo", 73))'
shift
exec "$@"
"""

SRUN = """#!{python}
# Slurm's srun, as far as couplet needs it: SIGUSR1 goes to the tasks, another signal to stop kills them.
import os, signal, subprocess, sys
count = next(int(word.partition("=")[2]) for word in sys.argv if word.startswith("--nodes="))
command = sys.argv[next(n for n, word in enumerate(sys.argv) if n and not word.startswith("-")):]
step = {{"SLURM_STEP_NUM_NODES": str(count)}}
tasks = [
    subprocess.Popen(command, env={{**os.environ, **step, "SLURM_NODEID": str(number)}})
    for number in range(count)
]
signal.signal(signal.SIGUSR1, lambda *_: [task.send_signal(signal.SIGUSR1) for task in tasks])
signal.signal(signal.SIGTERM, lambda *_: [task.kill() for task in tasks])
codes = [task.wait() for task in tasks]
for node, code in enumerate(codes):
    if code:
        print(f"srun: error: n{{node}}: task {{node}}: Exited with exit code {{code}}", file=sys.stderr)
sys.exit(max(codes))
"""


@pytest.fixture
def command(tmp_path):
    """The command line of some workers, two by default, on so many nodes."""
    (tmp_path / "worker.py").write_text(WORKER)
    worker = [str(tmp_path / "worker.py"), str(tmp_path)]
    return lambda task, processes=2, nodes=1: [
        *(sys.executable, "-c", LAUNCH, str(processes), str(nodes)),
        *worker,
        task,
    ]


@pytest.fixture
def nodes(command):
    """Start a task on two nodes: their commands."""
    begun = []

    def start(task, processes=2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        for number in "01":
            own = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": number}
            node = subprocess.Popen(
                command(task, processes, 2),
                env={**os.environ, **own},
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            begun.append(node)
        return begun

    yield start
    for node in begun:
        if node.poll() is None:
            os.killpg(node.pid, signal.SIGKILL)
        node.communicate()


def found(folder, count=2):
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(count)]


def at_work(folder, running, count=2):
    """Wait until all processes know each other."""
    while not all((folder / f"{rank}.json").exists() for rank in range(count)):
        assert running.poll() is None
        time.sleep(0.05)


def test_processes_need_no_name_service(command, tmp_path):
    """The machine's name does not resolve, and no address answers but its own."""
    nameless = [*NAMELESS, WITHOUT_NAMES, sys.executable, str(tmp_path)]
    if shutil.which("unshare") is None or subprocess.run([*nameless, "true"], capture_output=True).returncode:
        pytest.skip("this machine does not let its users make namespaces")
    done = subprocess.run([*nameless, *command("end")], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    assert found(tmp_path) == [[[0, 1], 0.5]] * 2


def test_first_failure_ends_the_other(command):
    done = subprocess.run(command("fail"), capture_output=True, timeout=100)
    assert done.returncode == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_signal_reaches_every_process(command, tmp_path, number):
    with subprocess.Popen(command("stop")) as running:
        at_work(tmp_path, running)
        os.kill(running.pid, number)
        assert running.wait(60) == os.EX_TEMPFAIL


def test_killed_process_is_named(command, tmp_path):
    with subprocess.Popen(command("stop"), stderr=subprocess.PIPE, text=True) as running:
        at_work(tmp_path, running)
        children = subprocess.run(["pgrep", "-P", str(running.pid)], capture_output=True, text=True).stdout
        os.kill(int(children.split()[1]), signal.SIGKILL)
        _, said = running.communicate(timeout=60)
    assert running.returncode != 0
    assert said.splitlines()[-1] == "couplet: process 1: ended by SIGKILL"
    assert "Traceback" not in said


def test_error_of_one_process_is_that_of_all(command):
    """The first process reports what another one met, instead of a lost connection."""
    done = subprocess.run(command("refuse"), capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (1, "UserError: process 1: key = 1: not allowed\n")


def test_processes_of_two_nodes_know_each_other_and_stop_together(nodes, tmp_path):
    """By a signal to one of the nodes."""
    first, second = nodes("stop")
    at_work(tmp_path, first, 4)
    assert found(tmp_path, 4) == [[[0, 1, 2, 3], 1.5]] * 4
    second.terminate()
    assert [(node.wait(60), node.stderr.read()) for node in (first, second)] == [(os.EX_TEMPFAIL, "")] * 2


def test_node_that_dies_ends_the_other_in_a_line(nodes, tmp_path):
    """The first, killed with all that it runs, takes the place along where the nodes meet."""
    first, second = nodes("stop", processes=1)
    at_work(tmp_path, second)
    os.killpg(first.pid, signal.SIGKILL)
    assert second.wait(60) == os.EX_TEMPFAIL
    lost = r"Lost: another process has ended or its node is gone \(.*\); the same command goes on from .*\n"
    assert re.fullmatch(lost, second.stderr.read())


MEETING = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29400", "NODE_RANK": "1"}


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({}, r"nodes = 2: a job of Slurm .* MASTER_ADDR=.* torchrun --nnodes 2 --nproc-per-node 4"),
        ({"SLURM_JOB_ID": "1", "SLURM_STEP_NUM_NODES": "2"}, r"nodes = 2: a job of Slurm starts this .*"),
        ({"SLURM_JOB_ID": "1", "PATH": ""}, r"nodes = 2: srun does not start \(.*\)"),
        ({**MEETING, "NODE_RANK": "2"}, "NODE_RANK = 2: must be a whole number from 0 to 1"),
        ({**MEETING, "MASTER_PORT": "x"}, "MASTER_PORT = x: must be a whole number from 1 to 65535"),
        (
            {**MEETING, "NODE_RANK": "0", "MASTER_ADDR": "nowhere.invalid"},
            "nowhere.invalid:29400, where the nodes meet: .*",
        ),
    ],
)
def test_command_of_one_of_several_nodes_says_what_it_needs(monkeypatch, given, problem):
    for name in ("SLURM_JOB_ID", "SLURM_STEP_NUM_NODES", *MEETING):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"^{problem}$"):
        launch([], 4, 2)


def test_a_job_of_slurm_starts_the_command_on_all_nodes(command, tmp_path):
    """A signal to end reaches the tasks, which srun would kill; what srun says of them is left out."""
    (tmp_path / "srun").write_text(SRUN.format(python=sys.executable))
    (tmp_path / "srun").chmod(0o755)
    own = {"SLURM_JOB_ID": "1", "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    step = command("stop", 1, 2)
    with subprocess.Popen(
        [*step[:5], *step[1:]], env={**os.environ, **own}, stderr=subprocess.PIPE, text=True
    ) as running:
        at_work(tmp_path, running)
        running.terminate()
        _, said = running.communicate(timeout=60)
    assert (running.returncode, said) == (os.EX_TEMPFAIL, "")
    assert found(tmp_path) == [[[0, 1], 0.5]] * 2
