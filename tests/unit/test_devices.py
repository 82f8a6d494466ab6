"""Jobs side by side spread over the GPUs there are; shown with GPUs that are only claimed to be there."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from couplet import process
from couplet.cli.options import device_of
from couplet.errors import UserError
from couplet.ranks import ALONE, Ranks


@pytest.fixture
def two_gpus(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: SimpleNamespace(uuid=f"gpu-{i}"))
    monkeypatch.setattr(process.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(process, "_HELD", [])
    yield tmp_path
    for lock in process._HELD:
        lock.release()


def test_each_call_takes_a_free_gpu_and_then_shares(two_gpus, monkeypatch):
    assert [process.find("auto").index for _ in range(2)] == [0, 1]
    assert process.find("auto").index == 0
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(
        UserError, match=r"^--device auto: no GPU is left for process 2, other jobs have all 2$"
    ):
        process.find("auto")


def test_gpu_of_another_process_is_left_to_it_until_that_ends(two_gpus):
    lock = "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.flock(file, fcntl.LOCK_EX)"
    hold = f"{lock}; print(flush=True); input()"
    path = two_gpus / "couplet-gpu-gpu-0.lock"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        assert process.find("auto").index == 1
        other.kill()
    assert process.find("auto").index == 0


AS_ANOTHER_USER = """
import os, sys
from pathlib import Path
from couplet import process

if os.getuid() == 0:
    os.setuid(65534)
print(process._take(Path(sys.argv[1])))
"""


def test_lock_file_of_another_user_does_not_count_as_taken(two_gpus):
    """Files in /tmp outlive their process; whoever wrote them must not keep others off a free GPU."""
    assert process.find("auto").index == 0
    path = two_gpus / "couplet-gpu-gpu-0.lock"
    assert path.stat().st_mode & 0o777 == 0o666
    process._HELD.pop().release()
    path.touch()
    path.chmod(0o000)
    done = subprocess.run(
        [sys.executable, "-c", AS_ANOTHER_USER, str(path)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "True\n", done.stderr


def test_more_processes_than_gpus(two_gpus, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match=r"^--processes: process 3, but this machine has 2 GPUs$"):
        process.find("auto")


def test_no_processes_are_one_on_the_cpu(two_gpus):
    with process.process(1, "auto", 0) as context:
        assert (context.device.type, context.ranks.size) == ("cpu", 1)
    problem = r"^--processes 0: is one process on the CPU, --device cuda is not; give one of them$"
    with pytest.raises(UserError, match=problem), process.process(1, "cuda", 0):
        pass


def test_a_file_without_gpus_chooses_the_cpu():
    assert [device_of(given, 0) for given in ("auto", "cuda:1")] == ["cpu", "cuda:1"]
    assert device_of("auto", 1) == "auto"


@pytest.mark.parametrize("name", ["tpu", "mps", "cuda:77", "gpu", "cpu:1", "cuda:-1", "cuda:99999999999", ""])
def test_unknown_device(name):
    expected = f"^--device {name}: not on this machine; allowed: auto, cpu, "
    with pytest.raises(UserError, match=expected):
        process.find(name)


def test_one_process_alone():
    assert ALONE.first
    assert ALONE.part(7) == slice(0, 7)
    assert ALONE.gather("x") == ["x"]
    assert list(ALONE.in_turn(iter("abc"))) == ["a", "b", "c"]
    assert [ALONE.any(flag) for flag in (True, False)] == [True, False]


def test_parts_are_equal():
    assert [Ranks(rank, 3).part(6) for rank in range(3)] == [slice(0, 2), slice(2, 4), slice(4, 6)]
    with pytest.raises(UserError, match=r"^batch = 7: must be a multiple of 3, the number of processes$"):
        Ranks(0, 3).part(7)
