"""benchmarks/gpu.py is to work on its first GPU: stages, time, resuming, and what a bare machine lacks."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import packaging
import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "benchmarks/gpu.py"


@pytest.fixture
def gpu(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    return importlib.import_module("gpu")


@pytest.fixture
def stages(gpu):
    return importlib.import_module("gpu_stages")


def start(out, *stages, **options):
    command = [sys.executable, SCRIPT, "--device", "cpu", "--tiny", "--threads", "1", "--minutes", "15"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, "--out", out, "--stages", *stages], **pipes, **options)


@pytest.mark.slow
def test_stopped_call_is_continued_and_a_finished_one_does_nothing(tmp_path):
    first = start(tmp_path, "resume", "train")
    assert first.stdout.readline().startswith("resume: independent: done")
    first.send_signal(signal.SIGINT)
    _, err = first.communicate()
    assert (first.returncode, err) == (130, "stopped; the same command continues from here\n")
    stopped = json.loads((tmp_path / "gpu.json").read_text())["stages"]["resume"]
    assert "independent" in stopped["parts"]
    assert "generator" in stopped["not_reached"]

    out, err = start(tmp_path, "resume", "train").communicate()
    assert "resume: independent" not in out
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert content["images"] == "synthetic"
    assert {"commit", "device", "packages"} <= content["environment"].keys()
    resumed, trained = (content["stages"][name]["parts"] for name in ("resume", "train"))
    assert resumed["independent"] == stopped["parts"]["independent"]
    assert [part["found"]["resumed"] for part in resumed.values()] == [0, 0, 0, 0]
    steps = trained["pace"]["found"]["steps"]
    runs = {name: part["found"] for name, part in trained.items() if name != "pace"}
    assert runs.keys() == {"independent", "ot", "vae", "generator"}
    assert {run["steps"] for run in runs.values()} == {steps}
    lines = (tmp_path / "curves.csv").read_text().splitlines()
    assert len(lines) == 1 + sum(len(run["curve"]) for run in runs.values())
    with Image.open(tmp_path / "samples-vae.png") as picture:
        assert picture.size == (3 * 2 * (6 * 8 + 8), 3 * 6 * 8)
    assert len([*tmp_path.iterdir()]) == 6  # a machine may give back eight files

    assert start(tmp_path, "resume", "train").communicate() == ("", "")
    assert json.loads((tmp_path / "gpu.json").read_text())["stages"] == content["stages"]


@pytest.mark.slow
def test_each_way_is_set_beside_the_plain_step(tmp_path):
    start(tmp_path, "step", "ot").communicate()
    stages = json.loads((tmp_path / "gpu.json").read_text())["stages"]
    eager = stages["step"]["parts"]["independent eager"]["found"]
    assert [row["way"] for row in eager] == ["plain", "float32", "float32+channels_last"]
    assert eager[0]["speedup"] == 1
    assert all(row["milliseconds"] > 0 and row["rounds"] >= 3 for row in eager)
    assert stages["ot"]["parts"]["steps"]["found"]["over_independent"].keys() == {"ahead", "within"}


def test_part_whose_time_is_over_is_not_done_and_one_that_fails_is(stages):
    began = time.monotonic()
    assert stages.attempt(lambda until: time.sleep(60), began - stages.GRACE + 0.2) is None
    assert time.monotonic() - began < 30
    failed = stages.attempt(lambda until: 1 / 0, time.monotonic() + 60)
    assert failed["error"] == "ZeroDivisionError: division by zero"
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_results_of_other_code_are_not_taken_over(stages, tmp_path, capsys, monkeypatch):
    taken = []
    monkeypatch.setitem(stages.STAGES, "ot", lambda bench: {"a": taken.append, "b": taken.append})
    options = stages.Namespace(device="cpu", tiny=True, out=tmp_path, data=None, stages=["ot"], threads=1)

    def call():
        assert stages.run(options, ends=time.monotonic() + 60) == 0
        return capsys.readouterr().out

    call()
    assert len(taken) == 2
    assert call() == ""
    monkeypatch.setattr(stages, "_code", lambda: "other")
    assert call().startswith("ot: begins again, because code changed")
    assert len(taken) == 4
    assert stages.run(options, ends=time.monotonic()) == 0
    monkeypatch.setattr(stages, "_code", lambda: "third")
    stages.run(options, ends=time.monotonic())
    assert capsys.readouterr().out.endswith("ot: not reached: a, b; alone it has all the time: --stages ot\n")
    assert json.loads((tmp_path / "gpu.json").read_text())["stages"]["ot"]["not_reached"] == ["a", "b"]


def test_outcomes_of_tests(stages):
    log = "t.py::a PASSED [ 33%]\nt.py::b[x y] FAILED [ 66%]\nt.py::c SKIPPED (no GPU) [100%]\nwhy\n"
    found = stages.outcomes(log)
    assert (found["passed"], found["skipped"], found["failed"]) == (1, 1, ["t.py::b[x y]"])
    assert found["output"].endswith("why\n")


def test_missing_packages_are_named_with_those_that_they_need(gpu):
    assert gpu.lacking(gpu.requirements()) == []
    given = ["nowhere>=2", "numpy>=99", "nothing; python_version < '3'", "pytest"]
    first, second = gpu.lacking(given)
    assert first == "nowhere>=2"
    assert second.startswith("numpy>=99 (there is ")
    command = gpu.download(["nowhere>=2", "numpy>=99 (there is 2)", "lion-pytorch>=0.2"])
    alone, ours = command.split(" && ")
    assert alone.endswith("'nowhere>=2' 'numpy>=99'")
    assert ours.endswith("--no-deps 'lion-pytorch>=0.2'")


def test_bare_machine_is_told_at_once(tmp_path):
    """Python without its packages, except for one that pip has as well."""
    (tmp_path / "packaging").symlink_to(Path(packaging.__file__).parent)
    done = subprocess.run(
        [sys.executable, "-S", SCRIPT, "--out", tmp_path / "out"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    named, command = done.stderr.splitlines()
    assert all(f"{name}>=" in named for name in ("torch", "pydantic", "lion-pytorch", "pillow"))
    assert command.strip().startswith("python -m pip download --dest wheels")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_wheels_are_used_without_an_installation(gpu, tmp_path, monkeypatch):
    pytest.importorskip("pip")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", "")
    with zipfile.ZipFile(tmp_path / "couplet_demo-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("couplet_demo.py", "answer = 42\n")
        info = "couplet_demo-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: couplet-demo\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    assert gpu.lacking(["couplet-demo>=1"]) == ["couplet-demo>=1"]
    gpu.add_wheels(tmp_path)
    assert gpu.lacking(["couplet-demo>=1"]) == []
    command = [sys.executable, "-c", "import couplet_demo; print(couplet_demo.answer)"]
    assert subprocess.check_output(command, text=True) == "42\n"
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match=r"holds no wheel"):
        gpu.add_wheels(empty)
