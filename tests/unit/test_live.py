"""The live view: its content while a run goes on, and a run that is the same without it."""

import csv
import sys
import threading
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from couplet import live, model, trackers
from couplet.config.datasets import MixtureConfig
from couplet.config.track import Track
from couplet.cost import cost
from couplet.data.archive import Archive
from couplet.errors import Stopped, UserError
from couplet.files import read_json
from couplet.live import follow, meter, observed, sample_grid
from couplet.plan.stages import Settings
from couplet.process import Context
from couplet.ranks import Ranks
from couplet.reporting.pictures import scatter
from couplet.sampling import sample_noise, to_uint8
from couplet.stages import prepare, train
from couplet.trackers import MEASURES, ways_to_look
from couplet.training.loop import Progress, shape_of

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

    def run(settings, out, folder=None, tensorboard=None, *, kill=None, stop=None, each=None, peak=None):
        lines, came = [], []
        given = (("dvc", folder), ("tensorboard", tensorboard))
        tracks = [Track(kind, str(place)) for kind, place in given if place is not None]

        def signals():
            return nullcontext(lambda: came[0] if came else None)

        context = Context(say=lines.append, signals=signals)
        measure = meter(settings, archive, context, peak)
        with observed(out, context, tracks, measure) as view:

            def observe(progress, rate):
                if progress.step == kill:
                    raise Killed
                if progress.step == stop:
                    came.append("SIGTERM")
                if each is not None:
                    each(progress.step)
                view(progress, rate)

            train.run(context, Settings.of(settings), data=archive, out=out, observe=observe)
        looks = [line for line in lines if line.startswith("live view: ")]
        assert looks == [*ways_to_look(tracks)]
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
        if path.is_file() and not path.name.endswith("record.json")
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
    assert all(float(row["peak_memory_mib"]) > 10 for row in speed)
    assert {row["flops_utilisation"] for row in speed} == {""}, "not logged: no peak is known"
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
    begin = f"--track dvc={folder}: ends, the run continues: {folder}/samples/3.png: cannot be "
    assert line.startswith(begin)
    assert content_of(tmp_path / "run") == content_of(tmp_path / "plain")


def test_tracker_that_fails_leaves_the_others_alone(go, settings, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")

    def broken(place, seen):
        yield
        raise ZeroDivisionError("a bug\nin a package " + 500 * "x")

    monkeypatch.setitem(trackers.SINKS, "tensorboard", broken)
    [line] = go(settings, tmp_path / "run", tmp_path / "live", tmp_path / "events")
    begin = f"--track tensorboard={tmp_path}/events: ends, the run continues: a bug in a package xxx"
    assert line.startswith(begin)
    assert line.endswith("x...")
    assert steps(tmp_path / "live") == [1, 2, 3, 4, 6]


def test_error_at_the_end_of_a_tracker_is_a_line_too(go, settings, tmp_path, monkeypatch):
    def full(place, seen):
        try:
            while True:
                yield
        finally:
            raise OSError("No space left on device")

    monkeypatch.setitem(trackers.SINKS, "dvc", full)
    [line] = go(settings, tmp_path / "run", tmp_path / "live")
    assert line == f"--track dvc={tmp_path}/live: ends, the run continues: No space left on device"


def test_settings_that_cannot_be_read_end_the_view_only(go, settings, tmp_path):
    go(settings, tmp_path / "plain")

    def spoil(step):
        if step == 3:
            (tmp_path / "run.partial/config.json").write_text("{}")

    [line] = go(settings, tmp_path / "run", tmp_path / "live", each=spoil)
    assert line.startswith("the live view ends, the run continues: ")
    assert "config.json: not written by this version" in line
    assert steps(tmp_path / "live") == [1]


class TestInBackground:
    """Trackers on other machines, which may be slow, silent or gone."""

    @pytest.fixture
    def machine(self, monkeypatch):
        """A tracker that shows nothing before it is allowed to, and then the steps that it was shown."""
        shown, allowed = [], threading.Event()

        def slow(place, seen):
            while True:
                allowed.wait(60)
                shown.append((max(seen.lines), sorted(seen.measured)))
                seen = yield

        monkeypatch.setattr(trackers, "PATIENCE", 0.2)
        monkeypatch.setitem(trackers.SINKS, "dvc", partial(trackers.in_background, slow))
        yield shown, allowed
        allowed.set()

    def test_slow_machine_delays_no_step_and_gets_the_newest(self, go, settings, tmp_path, machine):
        shown, allowed = machine

        def each(step):
            assert shown == [], "nobody waited"
            if step == 6:
                allowed.set()

        assert go(settings, tmp_path / "run", tmp_path / "live", each=each) == []
        assert shown[-1] == (6, [1, 2, 3, 4, 6]), "what was measured meanwhile is not lost"
        assert len(shown) <= 3

    def test_silent_machine_is_given_up_at_the_end(self, go, settings, tmp_path, machine):
        go(settings, tmp_path / "plain")
        [line] = go(settings, tmp_path / "run", tmp_path / "live")
        assert line == f"--track dvc={tmp_path}/live: ends, the run continues: no answer within 0.2 seconds"
        assert content_of(tmp_path / "run") == content_of(tmp_path / "plain")

    def test_grids_are_drawn_by_the_training_itself_and_only_if_asked_for(
        self, go, settings, tmp_path, monkeypatch
    ):
        drawn, got = [], []

        def draw(path, device):
            drawn.append((path.stem, threading.current_thread()))
            return sample_grid(path, device)

        def modest(place, seen):
            while True:
                if 6 in seen.snapshots:
                    got.append(seen.grid(6))
                seen = yield

        monkeypatch.setattr(live, "sample_grid", draw)
        monkeypatch.setitem(trackers.SINKS, "dvc", partial(trackers.in_background, modest))
        assert go(settings, tmp_path / "run", tmp_path / "live") == []
        assert drawn == [("step-00000006", threading.main_thread())]
        assert np.array_equal(
            got[0], sample_grid(tmp_path / f"run/checkpoints/{drawn[0][0]}.safetensors", CPU)
        )

    def test_grid_that_cannot_be_drawn_is_a_line(self, go, settings, tmp_path, monkeypatch):
        def eager(place, seen):
            while True:
                seen.grid(3)
                seen = yield

        def draw(path, device):
            raise UserError(f"{path.name}: damaged")

        monkeypatch.setattr(live, "sample_grid", draw)
        monkeypatch.setitem(trackers.SINKS, "dvc", partial(trackers.in_background, eager))
        [line] = go(settings, tmp_path / "run", tmp_path / "live")
        assert line.endswith("/live: ends, the run continues: step-00000003.safetensors: damaged")

    @pytest.mark.parametrize("error", [ConnectionError("//me:secret@gone"), SystemExit("//gone")])
    def test_error_is_a_line_once(self, go, settings, tmp_path, monkeypatch, error):
        def broken(place, seen):
            yield
            raise error

        monkeypatch.setitem(trackers.SINKS, "dvc", partial(trackers.in_background, broken))
        [line] = go(settings, tmp_path / "run", tmp_path / "live")
        assert line == f"--track dvc={tmp_path}/live: ends, the run continues: //gone"


def test_id_stays_when_a_run_resumes_and_differs_between_folders_and_settings(
    go, settings, make_training, tmp_path, monkeypatch
):
    ids = []

    def note(place, seen):
        while True:
            ids.append(seen.id)
            seen = yield

    monkeypatch.setitem(trackers.SINKS, "dvc", note)
    with pytest.raises(Killed):
        go(settings, tmp_path / "run", tmp_path / "live", kill=4)
    # May change when a run resumes.
    train = settings.train.model_copy(update={"log_every": 1, "save_every": 1})
    go(settings.model_copy(update={"train": train}), tmp_path / "run", tmp_path / "live")
    [own] = set(ids)
    assert own.startswith(f"{settings.cell}-")
    go(settings, tmp_path / "other", tmp_path / "live")
    settings = make_training("vae", steps=6, batch=3, train={"snapshots": 2, "log_every": 2, "save_every": 2})
    go(settings, tmp_path / "third", tmp_path / "live")
    assert len(set(ids)) == 3


def test_utilisation_is_of_the_peak_that_is_named(go, settings, archive, tmp_path):
    go(settings, tmp_path / "run", tmp_path / "live", peak=0.001)
    flops = cost(settings, shape_of(Archive(archive))).flops
    speed = rows(tmp_path / "live", "speed.csv")
    wanted = [float(row["images_per_second"]) * flops / 1e9 for row in speed]
    assert [float(row["flops_utilisation"]) for row in speed] == pytest.approx(wanted, rel=1e-4)


def test_several_processes_share_the_peak(settings, archive):
    alone, two = (
        meter(settings, archive, Context(ranks=Ranks(0, size)), 1.0)(100.0)["flops_utilisation"]
        for size in (1, 2)
    )
    assert alone == pytest.approx(2 * two)


def test_a_line_says_how_to_look_at_each_view():
    tracks = ["dvc=a", "tensorboard=b c", "wandb", "mlflow=http://me:secret@host"]
    live, board, wandb, mlflow = ways_to_look(map(Track.parse, tracks))
    assert live == "live view: a: curve.csv, metrics.json and samples/STEP.png grow with the run"
    assert board == "live view: b c: look with `tensorboard --logdir 'b c'`"
    assert wandb == "live view: Weights & Biases, project couplet"
    assert mlflow == "live view: MLflow, http://host"


def test_folder_of_something_else_is_refused_and_left_alone(archive):
    wanted = r"--track dvc=\S+: holds something else than a live view; choose another"
    with pytest.raises(UserError, match=wanted):
        trackers.ready([Track("dvc", str(archive))])
    assert (archive / "card.json").exists()


@pytest.mark.parametrize(
    ("track", "module", "package"),
    [
        ("dvc=folder", "PIL", "pillow"),
        ("tensorboard=folder", "tensorboard", "tensorboard"),
        ("wandb", "wandb", "wandb"),
        ("mlflow=http://host", "mlflow", "mlflow"),
    ],
)
@pytest.mark.parametrize("command", ["train", "run", "watch"])
def test_missing_library_is_one_line_before_any_work(
    command, track, module, package, tmp_path, monkeypatch, couplet
):
    monkeypatch.delitem(sys.modules, "couplet.reporting.pictures", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.chdir(tmp_path)
    arguments = {
        "train": ["--data", "data", "--out", "run", "--params", PARAMS],
        "run": ["--out", "run", "--params", PARAMS],
        "watch": ["run"],
    }[command]
    code, out, err = couplet(command, *arguments, "--track", track)
    assert (code, out.count("\n")) == (2, command == "run"), "`couplet run` says what it begins"
    # `couplet run` needs pictures anyway.
    needs = "couplet run" if (command, module) == ("run", "PIL") else f"--track {track}"
    assert err == f"couplet: {needs}: {package} is not installed; pip install {package}\n"
    assert list(tmp_path.iterdir()) == []


def test_grid_is_of_the_average_with_the_noise_of_its_seed(go, make_training, tmp_path):
    settings = make_training(
        steps=2, conditional=True, boundary={"sampling": True}, train={"snapshots": 1, "log_every": 1}
    )
    go(settings, tmp_path / "run")
    path = tmp_path / "run/checkpoints/step-00000002.safetensors"
    grid = sample_grid(path, CPU)
    # Six rows of six images, enlarged from 8 to 64 pixels, with four pixels of a line between them.
    assert grid.shape == (6 * 68 - 4, 6 * 68 - 4, 1)
    network, _ = model.load(path, CPU)
    noise = sample_noise(0, "live", range(36), evaluation=0, shape=(1, 8, 8)).double()
    labels = torch.nn.functional.one_hot(torch.arange(36) % 3, 3).float()
    level = torch.tensor([settings.recipe.sigma_max], dtype=torch.float64)
    with torch.no_grad():
        images = to_uint8(network(level * noise, level, labels, boundary=True).double())
    for index, image in enumerate(images):
        y, x = (68 * side for side in divmod(index, 6))
        assert np.array_equal(grid[y : y + 64 : 8, x : x + 64 : 8, 0], image[0].numpy())


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
    follow(out, [Track("dvc", str(tmp_path / "live"))], Context(), 10.0)
    assert looks == [[1, 2, 3, 4]] * 2
    assert steps(tmp_path / "live") == [1, 2, 3, 4, 6]
    assert sorted(pictures(tmp_path / "live")) == [3, 6]
    assert rows(tmp_path / "live", "speed.csv") == []


def test_follower_without_a_training_says_so(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no run here, nor in \S+/nowhere\.partial"):
        follow(tmp_path / "nowhere", [], Context(), 1.0)


def test_follower_ends_when_no_tracker_is_left(go, settings, tmp_path, monkeypatch):
    go(settings, tmp_path / "run")

    def broken(place, seen):
        yield from ()
        raise OSError("full")

    monkeypatch.setitem(trackers.SINKS, "dvc", broken)
    lines, track = [], Track("dvc", str(tmp_path / "live"))
    with pytest.raises(UserError, match="run: no tracker is left"):
        follow(tmp_path / "run", [track], Context(say=lines.append), 10.0)
    assert lines[1:] == [f"--track {track}: ends, the run continues: full"]


def test_tensorboard_reads_every_step_once_after_a_restart(go, settings, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "events"
    with pytest.raises(Killed):
        go(settings, tmp_path / "run", None, folder, kill=6)
    go(settings, tmp_path / "run", None, folder, peak=1.0)
    [own] = folder.iterdir()
    assert own.name.startswith(f"{settings.cell}-")
    assert len(list(own.iterdir())) == 2
    read = EventAccumulator(str(own)).Reload()
    tags = read.Tags()
    assert set(tags["scalars"]) == {*Progress._fields[1:], *MEASURES}
    *_, text = read.Tensors("settings/text_summary")
    assert b'"coupling": "vae"' in text.tensor_proto.string_val[0]
    losses = read.Scalars("loss")
    assert [event.step for event in losses] == [1, 2, 3, 4, 6]
    with (tmp_path / "run/curve.csv").open() as file:
        wanted = [float(row["loss"]) for row in csv.DictReader(file)]
    assert [event.value for event in losses] == pytest.approx(wanted)
    assert [event.step for event in read.Images("samples")] == [3, 6]
