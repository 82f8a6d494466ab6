"""The live view: what it shows while a training goes on, and that the training is the same without it."""

import csv
import json
import sys
import threading
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from couplet import cli, live, model
from couplet.config.datasets import MixtureConfig
from couplet.data.archive import Split, write
from couplet.errors import Stopped, UserError
from couplet.live import follow, sample_grid, sinks, watched
from couplet.reporting.preview import scatter
from couplet.sampling import sample_noise, to_uint8
from couplet.stages.prepare import prepare
from couplet.stages.train import train

CPU = torch.device("cpu")
PARAMS = Path(__file__).parents[2] / "params.yaml"
COLUMNS = [
    "step",
    "loss",
    "consistency",
    "distance",
    "penalty",
    "gradient_norm",
    "learning_rate",
    "fineness",
    "ema_decay",
]


@pytest.fixture
def archive(tmp_path):
    rng = np.random.default_rng(0)
    splits = {
        name: Split(rng.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8), np.arange(count) % 3)
        for name, count in (("train", 12), ("test", 6))
    }
    write(tmp_path / "data", dataset="noise", source="random", classes=("a", "b", "c"), splits=splits)
    return tmp_path / "data"


@pytest.fixture
def settings(make_training):
    """Six steps with a line after 1, 2, 4 and 6, a snapshot after 3 and 6, a state after 2, 4 and 6."""
    return make_training("vae", steps=6, train={"snapshots": 2, "log_every": 2, "save_every": 2})


class Killed(Exception):
    """Stands for a killed process."""


@pytest.fixture
def go(archive):
    """Trains into ``out`` with a live view and returns what was said."""

    def run(settings, out, folder=None, tensorboard=None, *, kill=None, stop=None, each=None):
        said, came = [], []

        def report(progress, rate):
            if progress.step == kill:
                raise Killed
            if progress.step == stop:
                came.append("SIGTERM")
            if each is not None:
                each(progress.step)

        shown = sinks(folder, tensorboard)
        with watched(report, out, shown, CPU, said.append) as both:
            signals = nullcontext(lambda: came[0] if came else None)
            train(settings, archive, out, CPU, both, said.append, signals)
        return said

    return run


def rows(folder, name="curve.csv"):
    with (folder / name).open() as file:
        return list(csv.DictReader(file))


def steps(folder, name="curve.csv"):
    return [int(row["step"]) for row in rows(folder, name)]


def pictures(folder):
    return {int(path.stem): path.read_bytes() for path in (folder / "samples").glob("*")}


def content_of(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "record.json"
    }


def test_files_grow_while_a_training_goes_on(go, settings, tmp_path):
    seen = {}

    def each(step):
        """What is there when a step is done, before its own line."""
        folder = tmp_path / "live"
        seen[step] = (steps(folder), sorted(pictures(folder))) if folder.exists() else None

    assert go(settings, tmp_path / "run", tmp_path / "live", each=each) == []
    assert seen[2] is None
    assert seen[4] == ([1, 2], [])
    assert seen[5] == ([1, 2, 3], [3])
    assert seen[6] == ([1, 2, 3, 4], [3])
    assert steps(tmp_path / "live") == [1, 2, 3, 4, 6]
    assert sorted(pictures(tmp_path / "live")) == [3, 6]
    assert sorted(path.name for path in (tmp_path / "live").iterdir()) == [
        "curve.csv",
        "metrics.json",
        "samples",
        "speed.csv",
    ]


def test_curve_has_the_trainings_numbers_and_metrics_the_last_of_them(go, settings, tmp_path):
    go(settings, tmp_path / "run", tmp_path / "live")
    shown = rows(tmp_path / "live")
    assert list(shown[0]) == COLUMNS
    assert (tmp_path / "live/curve.csv").read_bytes() == (tmp_path / "run/curve.csv").read_bytes()
    speed = rows(tmp_path / "live", "speed.csv")
    assert [row["step"] for row in speed] == [row["step"] for row in shown]
    assert all(float(row["images_per_second"]) > 0 for row in speed)
    record = json.loads((tmp_path / "run/record.json").read_text())
    metrics = json.loads((tmp_path / "live/metrics.json").read_text())
    assert metrics.pop("images_per_second") == pytest.approx(record["images_per_second"], abs=0.1)
    assert metrics == {"step": 6, "loss": float(shown[-1]["loss"])}


def test_training_is_the_same_without_a_view_and_touches_no_generator(go, settings, tmp_path):
    pytest.importorskip("tensorboard")
    go(settings, tmp_path / "plain")
    before = torch.get_rng_state()
    go(settings, tmp_path / "seen", tmp_path / "live", tmp_path / "events")
    assert content_of(tmp_path / "seen") == content_of(tmp_path / "plain")
    assert len(content_of(tmp_path / "plain")) == 4
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kill", [2, 4, 5, 6])
@pytest.mark.parametrize("keep", [True, False])
def test_resumed_training_shows_what_an_uninterrupted_one_shows(go, settings, tmp_path, kill, keep):
    go(settings, tmp_path / "whole", tmp_path / "wanted")
    folder = tmp_path / "live"
    with pytest.raises(Killed):
        go(settings, tmp_path / "run", folder, kill=kill)
    if not keep:
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    resumed_at = []
    go(settings, tmp_path / "run", folder, each=resumed_at.append)
    assert resumed_at[0] == {2: 1, 4: 3, 5: 5, 6: 5}[kill]
    assert rows(folder) == rows(tmp_path / "wanted")
    assert pictures(folder) == pictures(tmp_path / "wanted")
    lost = [step for step in steps(folder) if step not in steps(folder, "speed.csv")]
    assert lost == ([] if keep else {2: [], 4: [1], 5: [1, 2, 3], 6: [1, 2, 3]}[kill])


def test_what_a_killed_process_showed_beyond_the_state_goes(go, settings, tmp_path):
    folder, seen = tmp_path / "live", []
    with pytest.raises(Killed):
        go(settings, tmp_path / "run", folder, kill=4)
    assert steps(folder) == [1, 2]
    (folder / "samples").mkdir(exist_ok=True)
    (folder / "samples/5.png").write_bytes(b"")
    with (folder / "curve.csv").open("a") as file:
        file.write("5,1,1,1,1,1,1,1,1\n")
    with (folder / "speed.csv").open("a") as file:
        file.write("5,1\n")
    go(
        settings,
        tmp_path / "run",
        folder,
        each=lambda step: seen.append((steps(folder), [*pictures(folder)])),
    )
    assert seen[1] == ([1, 2], [])
    assert steps(folder, "speed.csv") == [1, 2, 3, 4, 6]


def test_folder_of_another_training_becomes_this_ones(go, settings, make_training, tmp_path):
    other = make_training(steps=6, train={"snapshots": 3, "log_every": 1})
    go(other, tmp_path / "other", tmp_path / "live")
    before = pictures(tmp_path / "live")
    go(settings, tmp_path / "run", tmp_path / "live")
    assert steps(tmp_path / "live") == [1, 2, 3, 4, 6]
    after = pictures(tmp_path / "live")
    assert sorted(after) == [3, 6]
    assert after[6] != before[6]


def test_stopped_training_shows_its_last_line(go, settings, tmp_path):
    with pytest.raises(Stopped):
        go(settings, tmp_path / "run", tmp_path / "live", stop=4)
    assert steps(tmp_path / "live") == [1, 2, 3, 4]


def test_view_that_fails_is_named_once_and_the_training_goes_on(go, settings, tmp_path):
    go(settings, tmp_path / "plain")
    folder = tmp_path / "live"

    def obstruct(step):
        if step == 3:
            (folder / "samples").mkdir(parents=True, exist_ok=True)
            (folder / "samples").rmdir()
            (folder / "samples").write_text("in the way")

    [said] = go(settings, tmp_path / "run", folder, each=obstruct)
    assert said.startswith(f"the live view ends, the training goes on: {folder}/samples/3.png: cannot be ")
    assert content_of(tmp_path / "run") == content_of(tmp_path / "plain")


def test_folder_of_something_else_is_refused_and_left_alone(archive):
    with pytest.raises(UserError, match=r"--live \S+: holds something else than a live view; choose another"):
        sinks(archive, None)
    assert (archive / "card.json").exists()


@pytest.mark.parametrize(("option", "module"), [("--live", "matplotlib"), ("--tensorboard", "tensorboard")])
@pytest.mark.parametrize("command", ["train", "run", "watch"])
def test_missing_library_is_one_line_before_anything_is_done(
    command, option, module, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(live, "find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    arguments = {
        "train": ["--data", "data", "--out", "run", "--params", str(PARAMS)],
        "run": ["--out", "run", "--params", str(PARAMS)],
        "watch": ["run"],
    }[command]
    monkeypatch.setattr(sys, "argv", ["couplet", command, *arguments, option, "folder"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(
        f"couplet: {option} folder: needs {module}, which is not installed; pip install 'couplet["
    )
    written = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    assert written == (["run/params.yaml"] if command == "run" else [])


def test_grid_is_of_the_average_with_the_noise_of_its_seed(go, make_training, tmp_path):
    settings = make_training(
        steps=2, conditional=True, boundary={"sampling": True}, train={"snapshots": 1, "log_every": 1}
    )
    go(settings, tmp_path / "run")
    path = tmp_path / "run/checkpoints/step-00000002.safetensors"
    grid = sample_grid(path, CPU)
    # Six rows of six images, enlarged from 8 to 32 pixels, each with two pixels of a line.
    assert grid.shape == (6 * 34, 6 * 34, 1)
    network, _ = model.load(path, CPU)
    noise = sample_noise(0, "live", range(36), 0, (1, 8, 8)).double()
    labels = torch.nn.functional.one_hot(torch.arange(36) % 3, 3).float()
    level = torch.tensor([settings.recipe.sigma_max], dtype=torch.float64)
    with torch.no_grad():
        images = to_uint8(network(level * noise, level, labels, boundary=True).double())
    for index, image in enumerate(images):
        y, x = (34 * side for side in divmod(index, 6))
        assert np.array_equal(grid[y : y + 32 : 4, x : x + 32 : 4, 0], image[0].numpy())


def test_points_of_the_plane_are_drawn_as_such(make_training, tmp_path):
    prepare("toy", MixtureConfig(points=16, test_points=4), out=tmp_path / "toy", raw=tmp_path)
    settings = make_training(steps=2, boundary={"sampling": True}, train={"snapshots": 1})
    train(settings, tmp_path / "toy", tmp_path / "run", CPU, lambda progress, rate: None, print)
    path = tmp_path / "run/checkpoints/step-00000002.safetensors"
    network, _ = model.load(path, CPU)
    noise = sample_noise(0, "live", range(1000), 0, (2, 1, 1)).double()
    level = torch.tensor([settings.recipe.sigma_max], dtype=torch.float64)
    with torch.no_grad():
        points = to_uint8(network(level * noise, level, None, boundary=True).double())
    assert np.array_equal(sample_grid(path, CPU), scatter(points.permute(0, 2, 3, 1).numpy()))


def test_pictures_are_the_grids(go, settings, tmp_path):
    go(settings, tmp_path / "run", tmp_path / "live")
    for step in (3, 6):
        shown = np.asarray(Image.open(tmp_path / f"live/samples/{step}.png"))
        made = sample_grid(tmp_path / f"run/checkpoints/step-{step:08d}.safetensors", CPU)
        assert np.array_equal(shown, made[..., 0])


def test_follower_shows_a_training_of_another_process_to_its_end(go, settings, tmp_path, monkeypatch):
    out = tmp_path / "run"
    with pytest.raises(Killed):
        go(settings, out, kill=5)
    looks = []

    def sleep(seconds):
        """Between two looks the training goes on: to its end, before the third."""
        looks.append(steps(tmp_path / "live"))
        if len(looks) == 2:
            worker = threading.Thread(target=go, args=(settings, out))
            worker.start()
            worker.join()

    monkeypatch.setattr(live.time, "sleep", sleep)
    follow(out, sinks(tmp_path / "live", None), CPU, 10.0)
    assert looks == [[1, 2, 3, 4]] * 2
    assert steps(tmp_path / "live") == [1, 2, 3, 4, 6]
    assert sorted(pictures(tmp_path / "live")) == [3, 6]
    assert rows(tmp_path / "live", "speed.csv") == []
    assert "images_per_second" not in json.loads((tmp_path / "live/metrics.json").read_text())


def test_follower_without_a_training_says_so(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no training here, nor in \S+/nowhere\.partial"):
        follow(tmp_path / "nowhere", [], CPU, 1.0)


def test_tensorboard_reads_every_step_once_after_a_restart(go, settings, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "events"
    with pytest.raises(Killed):
        go(settings, tmp_path / "run", None, folder, kill=6)
    go(settings, tmp_path / "run", None, folder)
    assert len(list(folder.iterdir())) == 2
    read = EventAccumulator(str(folder)).Reload()
    tags = read.Tags()
    assert set(tags["scalars"]) == {*COLUMNS[1:], "images_per_second"}
    losses = read.Scalars("loss")
    assert [event.step for event in losses] == [1, 2, 3, 4, 6]
    with (tmp_path / "run/curve.csv").open() as file:
        wanted = [float(row["loss"]) for row in csv.DictReader(file)]
    assert [event.value for event in losses] == pytest.approx(wanted)
    assert [event.step for event in read.Images("samples")] == [3, 6]
