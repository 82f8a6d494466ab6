"""`--processes N` on one machine: processes that find each other, end together and pass on signals."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

LAUNCH = """
import sys
from couplet.ranks import launch
sys.exit(launch(sys.argv[1:], 2))
"""

WORKER = """
import os, sys, time
from pathlib import Path
from contextlib import nullcontext
import torch
from couplet.process import rank, signals
from couplet.ranks import joined

folder, task = Path(sys.argv[1]), sys.argv[2]
with joined() as ranks, nullcontext() if task == "fail" else signals() as stopped:
    assert ranks.rank == rank()
    total = ranks.mean(torch.tensor([float(ranks.rank)])).item()
    (folder / f"{ranks.rank}.json").write_text(f"[{ranks.gather(ranks.rank)}, {total}]")
    if task == "fail" and ranks.rank == 1:
        os._exit(3)
    while task == "fail":
        time.sleep(0.05)
    while task != "end" and not ranks.any(stopped() is not None):
        time.sleep(0.05)
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


@pytest.fixture
def command(tmp_path):
    """The command line of two workers."""
    (tmp_path / "worker.py").write_text(WORKER)
    return lambda task: [sys.executable, "-c", LAUNCH, str(tmp_path / "worker.py"), str(tmp_path), task]


def found(folder):
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


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
        while not all((tmp_path / f"{rank}.json").exists() for rank in (0, 1)):
            assert running.poll() is None
            time.sleep(0.05)
        os.kill(running.pid, number)
        assert running.wait(60) == os.EX_TEMPFAIL
