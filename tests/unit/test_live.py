"""The live view: its content while a run goes on, and a run that is the same without it."""

import csv
import sys
import threading
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from couplet import live, model
from couplet.config.datasets import MixtureConfig
from couplet.errors import Stopped, UserError
from couplet.files import read_json
from couplet.live import follow, observed, sample_grid, sinks, ways_to_look
from couplet.plan.stages import Settings
from couplet.process import Context
from couplet.reporting.pictures import scatter
from couplet.sampling import sample_noise, to_uint8
from couplet.stages import prepare, train
from couplet.training.loop import Progress

CPU = torch.device("cpu")
PARAMS = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture
def archive(tmp_path, noise_archive, settings):
    return noise_archive(tmp_path / "data", settings.dataset)


@pytest.fixture(autouse=True)
def few_first_steps(monkeypatch):
    """Lines of the curve after steps 1 and 2, then after every second step and each snapshot."""
    monkeypatch.setattr(train, "FIRST_STEPS", 2)


@pytest.fixture
def settings(make_training):
    """Six steps with a line after 1, 2, 3, 4 and 6, a snapshot after 3 and 6, a state after 2, 4 and 6."""
    return make_training("vae", steps=6, train={"snapshots": 2, "log_every": 2, "save_every": 2})


class Killed(Exception):
    """Stands for a killed process."""


@pytest.fixture
def go(archive):
    """Trains into ``out`` with a live view and returns the lines that a person reads."""

    def run(settings, out, folder=None, tensorboard=None, *, kill=None, stop=None, each=None):
        lines, came = [], []

        def signals():
            return nullcontext(lambda: came[0] if came else None)

        context = Context(say=lines.append, signals=signals)
        with observed(out, context, folder, tensorboard) as view:

            def observe(progress, rate):
                if progress.step == kill:
                    raise Killed
                if progress.step == stop:
                    came.append("SIGTERM")
                if each is not None:
                    each(progress.step)
                view(progress, rate)

            train.run(context, Settings.of(settings), data=archive, out=out, observe=observe)
        looks = [line for line in lines if line.startswith("live view in ")]
        assert looks == [*ways_to_look(folder, tensorboard)]
        return [line for line in lines if line not in looks]

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
    assert list(shown[0]) == list(Progress._fields)
    assert (tmp_path / "live/curve.csv").read_bytes() == (tmp_path / "run/curve.csv").read_bytes()
    speed = rows(tmp_path / "live", "speed.csv")
    assert [row["step"] for row in speed] == [row["step"] for row in shown]
    assert all(float(row["images_per_second"]) > 0 for row in speed)
    metrics = read_json(tmp_path / "live/metrics.json")
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

    [line] = go(settings, tmp_path / "run", folder, each=obstruct)
    assert line.startswith(f"the live view ends, the run continues: {folder}/samples/3.png: cannot be ")
    assert content_of(tmp_path / "run") == content_of(tmp_path / "plain")


def test_a_line_says_how_to_look_at_each_view():
    live, board = ways_to_look(Path("a"), Path("b c"))
    assert live == "live view in a: curve.csv, metrics.json and samples/STEP.png grow with the run"
    assert board == "live view in b c: look with `tensorboard --logdir 'b c'`"


def test_folder_of_something_else_is_refused_and_left_alone(archive):
    with pytest.raises(UserError, match=r"--live \S+: holds something else than a live view; choose another"):
        sinks(archive, None)
    assert (archive / "card.json").exists()


@pytest.mark.parametrize(("option", "module"), [("--live", "matplotlib"), ("--tensorboard", "tensorboard")])
@pytest.mark.parametrize("command", ["train", "run", "watch"])
def test_missing_library_is_one_line_before_any_work(command, option, module, tmp_path, monkeypatch, couplet):
    monkeypatch.delitem(sys.modules, "couplet.reporting.pictures", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.chdir(tmp_path)
    arguments = {
        "train": ["--data", "data", "--out", "run", "--params", PARAMS],
        "run": ["--out", "run", "--params", PARAMS],
        "watch": ["run"],
    }[command]
    code, out, err = couplet(command, *arguments, option, "folder")
    assert (code, out) == (2, "")
    # `couplet run` needs matplotlib anyway.
    needs = "couplet run" if (command, module) == ("run", "matplotlib") else f"{option} folder"
    assert err == f"couplet: {needs}: {module} is not installed; pip install {module}\n"
    assert list(tmp_path.iterdir()) == []


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
    noise = sample_noise(0, "live", range(36), evaluation=0, shape=(1, 8, 8)).double()
    labels = torch.nn.functional.one_hot(torch.arange(36) % 3, 3).float()
    level = torch.tensor([settings.recipe.sigma_max], dtype=torch.float64)
    with torch.no_grad():
        images = to_uint8(network(level * noise, level, labels, boundary=True).double())
    for index, image in enumerate(images):
        y, x = (34 * side for side in divmod(index, 6))
        assert np.array_equal(grid[y : y + 32 : 4, x : x + 32 : 4, 0], image[0].numpy())


def test_points_of_the_plane_are_drawn_as_such(make_training, tmp_path):
    dataset = MixtureConfig(points=16, test_points=4)
    training = make_training(steps=2, boundary={"sampling": True}, train={"snapshots": 1})
    training = training.model_copy(update={"dataset": dataset})
    settings = Settings.of(training)
    prepare.run(Context(), settings, name="digits", out=tmp_path / "toy")
    train.run(Context(), settings, data=tmp_path / "toy", out=tmp_path / "run")
    path = tmp_path / "run/checkpoints/step-00000002.safetensors"
    network, _ = model.load(path, CPU)
    noise = sample_noise(0, "live", range(1000), evaluation=0, shape=(2, 1, 1)).double()
    level = torch.tensor([training.recipe.sigma_max], dtype=torch.float64)
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


def test_follower_without_a_training_says_so(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no run here, nor in \S+/nowhere\.partial"):
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
    assert set(tags["scalars"]) == {*Progress._fields[1:], "images_per_second"}
    losses = read.Scalars("loss")
    assert [event.step for event in losses] == [1, 2, 3, 4, 6]
    with (tmp_path / "run/curve.csv").open() as file:
        wanted = [float(row["loss"]) for row in csv.DictReader(file)]
    assert [event.value for event in losses] == pytest.approx(wanted)
    assert [event.step for event in read.Images("samples")] == [3, 6]
