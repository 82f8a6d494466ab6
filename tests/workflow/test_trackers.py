"""Trackers as they are: a server of MLflow on this machine, files of Weights & Biases without a network."""

import csv
import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import closing
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from couplet.live import sample_grid
from couplet.trackers import MEASURES
from couplet.training.loop import Progress

pytestmark = pytest.mark.slow
STEPS, SNAPSHOTS = 200, (100, 200)
SCALARS = {*Progress._fields[1:], *MEASURES}


def free_port():
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(condition, what, seconds=180):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return found


@pytest.fixture
def mlflow(tmp_path):
    """The address of a server with its own database and folder of artifacts."""
    pytest.importorskip("mlflow", exc_type=ImportError)
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    options = {
        "--host": "127.0.0.1",
        "--port": port,
        "--workers": 1,
        "--backend-store-uri": f"sqlite:///{tmp_path}/mlflow.db",
        "--artifacts-destination": tmp_path / "artifacts",
    }
    words = [str(word) for pair in options.items() for word in pair]

    def answers():
        assert server.poll() is None, (tmp_path / "server.log").read_text()
        try:
            return urlopen(f"{uri}/health").status == 200
        except URLError:
            return False

    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *words],
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_for(answers, "the server does not answer")
        yield uri
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def ask(uri, path, post=None, /, **query):
    """What the server's REST interface answers."""
    body = None if post is None else json.dumps(post).encode()
    request = Request(f"{uri}/api/2.0/{path}?{urlencode(query)}", body, {"Content-Type": "application/json"})
    with urlopen(request) as answer:
        content = answer.read()
    return json.loads(content) if "json" in answer.headers.get("Content-Type", "") else content


@pytest.fixture
def work(tmp_path, grid_content, monkeypatch):
    """Runs couplet in a folder with a prepared data set and a training of some seconds."""
    grid_content["recipes"]["ict"]["steps"] = STEPS
    grid_content["train"] = {"snapshots": 2, "log_every": 20, "save_every": 20}
    monkeypatch.chdir(tmp_path)
    for name, value in {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)

    def begin(*words, track=()):
        (tmp_path / "params.yaml").write_text(yaml.safe_dump({**grid_content, "track": list(track)}))
        return subprocess.Popen(
            [sys.executable, "-m", "couplet", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    with begin("prepare", "digits", "--out", "data") as process:
        process.communicate()
    return begin


TRAIN = ("train", "--data", "data", "--out", "run", "--device", "cpu")


def struck(process, partial, number):
    """Sends a signal to a training once it has saved a new state; gives its exit code and stderr."""
    before = {*partial.glob("state-*")}
    wait_for(lambda: {*partial.glob("state-*")} - before or process.poll() is not None, "no state")
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    return process.returncode, err


def finished(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out, err


def curve(tmp_path):
    with (tmp_path / "run/curve.csv").open() as file:
        return [{name: float(cell) for name, cell in row.items()} for row in csv.DictReader(file)]


def test_server_of_mlflow_has_one_run_with_settings_curves_and_images(mlflow, work, tmp_path):
    track = [f"mlflow={mlflow}"]
    code, _ = struck(work(*TRAIN, track=track), tmp_path / "run.partial", signal.SIGKILL)
    assert code == -signal.SIGKILL
    code, err = struck(work(*TRAIN, track=track), tmp_path / "run.partial", signal.SIGTERM)
    assert code == os.EX_TEMPFAIL, err
    out, err = finished(work(*TRAIN, "--set", "peak_tflops=0.1", track=track))
    assert out == f"run: digits-ict-ve-independent-s0, {STEPS} steps\n"
    assert "ends" not in err
    # Nothing is new for another process.
    finished(work("watch", "run", "--track", track[0]))

    [experiment] = (
        each["experiment_id"]
        for each in ask(mlflow, "mlflow/experiments/search", {"max_results": 10})["experiments"]
        if each["name"] == "couplet"
    )
    [run] = ask(mlflow, "mlflow/runs/search", {"experiment_ids": [experiment]})["runs"]
    id = run["info"]["run_id"]
    assert run["info"]["status"] == "FINISHED"
    assert run["info"]["run_name"] == "digits-ict-ve-independent-s0"
    settings = {each["key"]: each["value"] for each in run["data"]["params"]}
    assert settings["recipe.steps"] == str(STEPS)
    assert settings["coupling.kind"] == "independent"
    assert {each["key"] for each in run["data"]["metrics"]} == SCALARS

    def history(name):
        asked = {"run_id": id, "metric_key": name, "max_results": 1000}
        points = ask(mlflow, "mlflow/metrics/get-history", **asked)["metrics"]
        return {int(each.get("step", 0)): each["value"] for each in points}, len(points)

    lines = curve(tmp_path)
    for name in Progress._fields[1:]:
        values, count = history(name)
        assert count == len(lines), f"{name}: a step is there twice"
        assert values == pytest.approx({int(line["step"]): line[name] for line in lines})
    for name in MEASURES:
        assert all(value > 0 for value in history(name)[0].values())
    assert STEPS in history("flops_utilisation")[0]

    files = ask(mlflow, "mlflow/artifacts/list", run_id=id, path="images")["files"]
    images = [each["path"] for each in files if each["path"].endswith(".png")]
    assert sorted(int(re.search(r"step\W(\d+)", path)[1]) for path in images) == [*SNAPSHOTS]
    last = next(path for path in images if re.search(rf"step\W{STEPS}\W", path))
    png = ask(mlflow, f"mlflow-artifacts/artifacts/{experiment}/{id}/artifacts/{last}")
    shown = np.asarray(Image.open(io.BytesIO(png)))
    snapshot = tmp_path / f"run/checkpoints/step-{STEPS:08d}.safetensors"
    assert np.array_equal(shown, sample_grid(snapshot, torch.device("cpu")).squeeze())


def test_server_that_is_away_stops_nothing(work, tmp_path, monkeypatch):
    pytest.importorskip("mlflow", exc_type=ImportError)
    track = f"mlflow=http://me:secret@127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    out, err = finished(work(*TRAIN, "--track", track))
    assert out == f"run: digits-ict-ve-independent-s0, {STEPS} steps\n"
    [line] = (line for line in err.splitlines() if "ends, the run continues" in line)
    assert line.startswith("--track mlflow=http://127.0.0.1:")
    assert "secret" not in err
    assert len(curve(tmp_path)) > 20


def records(path):
    """The records of a file of W&B: a head of 7 bytes, then a log of LevelDB's kind."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:  # the rest of a block is padding
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a full record, or its last part
            yield Record.FromString(whole)
            whole = b""


def test_files_of_wandb_have_the_whole_run_after_it_resumed(work, tmp_path):
    pytest.importorskip("wandb", exc_type=ImportError)
    command = (*TRAIN, "--track", "wandb=a-team/demo", "--set", "peak_tflops=0.1")
    code, err = struck(work(*command), tmp_path / "run.partial", signal.SIGTERM)
    assert code == os.EX_TEMPFAIL, err
    finished(work(*command))
    first, last = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime)
    assert first.name == last.name, "the same run"
    found = [*records(last)]
    [run] = (each.run for each in found if each.HasField("run"))
    assert (run.entity, run.project, run.run_id) == ("a-team", "demo", last.stem.removeprefix("run-"))
    assert run.run_group == "digits-ict-ve-independent"
    config = {each.key: json.loads(each.value_json) for each in run.config.update}
    assert config["recipe"]["steps"] == STEPS
    rows = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in each.history.item}
        for each in found
        if each.HasField("history")
    ]
    lines = curve(tmp_path)
    assert [row["step"] for row in rows] == [line["step"] for line in lines]
    assert [row["loss"] for row in rows] == pytest.approx([line["loss"] for line in lines])
    assert {*rows[-1]} >= SCALARS
    pictures = {row["step"]: path for row in rows for key, path in row.items() if key == "samples/path"}
    assert {*pictures} == {*SNAPSHOTS}
    shown = np.asarray(Image.open(last.parent / "files" / pictures[STEPS]))
    snapshot = tmp_path / f"run/checkpoints/step-{STEPS:08d}.safetensors"
    assert np.array_equal(shown, sample_grid(snapshot, torch.device("cpu")).squeeze())


def test_wandb_without_a_login_is_refused_before_any_work(work, tmp_path, monkeypatch):
    pytest.importorskip("wandb", exc_type=ImportError)
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "online")
    with work(*TRAIN, "--track", "wandb") as process:
        _, err = process.communicate()
    assert process.returncode == 2
    [line] = (line for line in err.splitlines() if line.startswith("couplet: "))
    assert line == "couplet: --track wandb: not logged in; run `wandb login`, or set WANDB_MODE=offline"
    for name, value in (("WANDB_API_KEY", "short"), ("WANDB_MODE", "nonsense")):
        monkeypatch.setenv(name, value)
        with work(*TRAIN, "--track", "wandb") as process:
            _, err = process.communicate()
        assert process.returncode == 2
        assert "couplet: --track wandb: " in err
        assert "Traceback" not in err
    assert not (tmp_path / "run.partial").exists()
