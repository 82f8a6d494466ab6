"""The folder that `train` writes: complete, its own, and resumed after any interruption."""

import copy
from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import save_file

from couplet import model
from couplet.config.params import Params
from couplet.errors import Stopped, UserError
from couplet.files import read_json, write_json
from couplet.plan.stages import Settings, keys_of
from couplet.process import Context
from couplet.stages import train as stage
from couplet.training.loop import initial_state
from couplet.training.state import read_state, write_state

CPU = torch.device("cpu")


@pytest.fixture
def settings(grid_content):
    """Makes the settings of a run of six steps, with three snapshots and a state after every second step."""

    def make(coupling="independent", **recipe):
        content = copy.deepcopy(grid_content)
        content["coupling"] = coupling
        content["couplings"]["frozen"] = {"kind": "generator", "mu": 1.0, "predictor": "frozen"}
        content["recipes"]["ict"].update({"steps": 6, "batch": 4, **recipe})
        content["train"] = {"snapshots": 3, "log_every": 2, "save_every": 2}
        params = Params.model_validate(content)
        return params.training(params.experiment)

    return make


@pytest.fixture
def archive(tmp_path, noise_archive, settings):
    return noise_archive(tmp_path / "data", settings().dataset)


class Killed(Exception):
    """Stands for a killed process."""


def run(chosen, archive, out, kill_after=None, signal_after=None, **options):
    """Train and return the lines that a person reads."""
    lines, came = [], []

    def observe(progress, rate):
        if progress.step == kill_after:
            raise Killed
        if progress.step == signal_after:
            came.append("SIGTERM")

    context = Context(say=lines.append, signals=lambda: nullcontext(lambda: came[0] if came else None))
    stage.run(context, Settings.of(chosen), data=archive, out=out, observe=observe, **options)
    return lines


def states(out):
    return sorted(path.name for path in out.with_name(f"{out.name}.partial").glob("state-*"))


def content_of(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith("record.json")
    }


def test_folder_is_complete_and_describes_itself(archive, tmp_path, settings):
    out = tmp_path / "run"
    chosen = settings()
    assert run(chosen, archive, out) == []
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == [
        f"step-{step:08d}.safetensors" for step in (2, 4, 6)
    ]
    assert read_json(out / "config.json") == chosen.model_dump(mode="json")
    record = read_json(out / "record.json")
    assert record["key"] == keys_of(Settings.of(chosen), "train")["train"]
    assert record["images_per_second"] == pytest.approx(24 / record["seconds"])
    assert (record["replaced_gradients"], record["adopted"]) == (0, [])
    assert not (tmp_path / "run.partial").exists()


def test_curve_has_the_first_steps_and_every_so_many_after_them(archive, tmp_path, settings, monkeypatch):
    monkeypatch.setattr(stage, "FIRST_STEPS", 3)
    run(settings(), archive, tmp_path / "run")
    lines = (tmp_path / "run/curve.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["step", "1", "2", "3", "4", "6"]


@pytest.fixture
def whole(archive, tmp_path, settings):
    """The files of an uninterrupted run."""
    run(settings(), archive, tmp_path / "whole")
    return content_of(tmp_path / "whole")


def killed(chosen, archive, out, after):
    with pytest.raises(Killed):
        run(chosen, archive, out, after)


@pytest.mark.parametrize("kill_after", [1, 2, 3, 5])
def test_killed_training_resumes_to_the_same_bytes(archive, tmp_path, whole, kill_after, settings):
    killed(settings(), archive, tmp_path / "again", kill_after)
    assert not (tmp_path / "again").exists()
    lines = run(settings(), archive, tmp_path / "again")
    assert len(lines) == (kill_after > 2)
    assert content_of(tmp_path / "again") == whole
    assert {path.name for path in tmp_path.iterdir()} == {"again", "data", "data.record.json", "whole"}


@pytest.mark.parametrize("after", [1, 2, 3, 6])
def test_signal_stops_after_a_complete_step_and_saves_it(archive, tmp_path, whole, after, settings):
    out = tmp_path / "again"
    with pytest.raises(Stopped, match=rf"-s0: SIGTERM: stopped after step {after}, saved; the same command"):
        run(settings(), archive, out, signal_after=after)
    assert states(out)[-1] == f"state-{after:08d}.safetensors"
    [line] = run(settings(), archive, out)
    assert line.endswith(f"resumes after step {after}")
    assert content_of(out) == whole


def test_finished_run_whose_record_was_removed_is_not_trained_again(archive, tmp_path, whole, settings):
    """As Snakemake does where a scheduler ended the job after the training."""
    out = tmp_path / "whole"
    record = (out / "record.json").read_bytes()
    times = {
        path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name in ("curve.csv", "config.json")
    }
    (out / "record.json").unlink()
    assert run(settings(), archive, out, kill_after=1) == []
    assert (out / "record.json").read_bytes() == record
    assert {path: path.stat().st_mtime_ns for path in times} == times


@pytest.mark.parametrize("change", ["a file", "settings"])
def test_another_or_damaged_run_without_a_record_is_trained_again(archive, tmp_path, whole, settings, change):
    out = tmp_path / "whole"
    (out / "record.json").unlink()
    if change == "a file":
        (out / "curve.csv").write_text("step\n")
        run(settings(), archive, out)
        assert content_of(out) == whole
    else:
        run(settings(clip_norm=1e-3), archive, out)
        assert content_of(out).keys() == whole.keys()
        assert content_of(out) != whole


def test_threads_are_part_of_the_key(archive, tmp_path, settings):
    """As a parameter file with so many plans it."""
    chosen, threads = settings(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run(chosen, archive, tmp_path / "run")
    finally:
        torch.set_num_threads(threads)
    record = read_json(tmp_path / "run/record.json")
    assert (record["threads"], record["parallel"]) == (2, {"threads": 2})
    assert record["key"] == keys_of(Settings.of(chosen, threads=2), "train")["train"]
    assert record["key"] != keys_of(Settings.of(chosen), "train")["train"]


def test_last_two_states_are_kept(archive, tmp_path, settings):
    out = tmp_path / "run"
    for after, kept in ((3, [2]), (5, [2, 4]), (6, [2, 4])):
        killed(settings(), archive, out, after)
        assert states(out) == [f"state-{step:08d}.safetensors" for step in kept]
    with pytest.raises(Stopped):
        run(settings(), archive, out, signal_after=5)
    assert states(out) == [f"state-{step:08d}.safetensors" for step in (4, 5)]


@pytest.mark.parametrize("damage", [lambda c: c[:-100], lambda c: c[:-9] + bytes([c[-9] ^ 1]) + c[-8:]])
def test_damaged_state_is_named_and_the_one_before_is_good(archive, tmp_path, whole, damage, settings):
    out = tmp_path / "again"
    killed(settings(), archive, out, 5)
    older, newest = (tmp_path / "again.partial" / name for name in states(out))
    before = older.read_bytes()
    newest.write_bytes(damage(newest.read_bytes()))
    with pytest.raises(UserError) as caught:
        run(settings(), archive, out)
    message = str(caught.value)
    assert message.startswith(f"{newest}: damaged training state (")
    assert message.endswith(f"; delete it to resume from {older.name}")
    assert "\n" not in message
    assert older.read_bytes() == before
    newest.unlink()
    [line] = run(settings(), archive, out)
    assert line.endswith("resumes after step 2")
    assert content_of(out) == whole


def test_only_state_damaged_means_to_start_again(archive, tmp_path, whole, settings):
    out = tmp_path / "again"
    killed(settings(), archive, out, 3)
    path = tmp_path / "again.partial" / states(out)[0]
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"damaged training state .*; delete it to start again"):
        run(settings(), archive, out)
    path.unlink()
    assert run(settings(), archive, out) == []
    assert content_of(out) == whole


def test_full_disk_is_named_and_the_state_before_is_good(archive, tmp_path, whole, full_disk, settings):
    out = tmp_path / "again"
    killed(settings(), archive, out, 3)
    good = tmp_path / "again.partial/state-00000002.safetensors"
    before = good.read_bytes()
    with full_disk(), pytest.raises(UserError) as caught:
        run(settings(), archive, out)
    path = tmp_path / "again.partial/checkpoints/step-00000004.safetensors"
    assert str(caught.value) == (f"{path}: cannot be written (File too large); the last good state is {good}")
    assert good.read_bytes() == before
    run(settings(), archive, out)
    assert content_of(out) == whole


def test_folder_that_becomes_unwritable_is_named(archive, tmp_path, whole, monkeypatch, settings):
    out = tmp_path / "again"
    killed(settings(), archive, out, 3)

    def denied(self, *args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.write_bytes", denied)
    with pytest.raises(UserError) as caught:
        run(settings(), archive, out)
    monkeypatch.undo()
    assert "step-00000004.safetensors: cannot be written (Permission denied); the last" in str(caught.value)
    assert states(out) == ["state-00000002.safetensors"]
    run(settings(), archive, out)
    assert content_of(out) == whole


def test_folder_that_cannot_be_made_is_named(archive, tmp_path, settings):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"file/run\.lock: cannot be written \("):
        run(settings(), archive, tmp_path / "file/run")


def test_training_of_other_settings_is_not_resumed(archive, tmp_path, settings):
    killed(settings(), archive, tmp_path / "run", 3)
    before = states(tmp_path / "run")
    with pytest.raises(UserError, match=r"state-00000002\.safetensors: state of a run with key .*; delete /"):
        run(settings(batch=5), archive, tmp_path / "run")
    assert states(tmp_path / "run") == before


def test_training_on_data_that_changed_since_is_not_resumed(
    archive, tmp_path, whole, settings, noise_archive
):
    killed(settings(), archive, tmp_path / "run", 3)
    noise_archive(archive, settings().dataset, seed=1)
    with pytest.raises(UserError, match=r"state-00000002\.safetensors: state of data set \w+, this is \w+; "):
        run(settings(), archive, tmp_path / "run")
    noise_archive(archive, settings().dataset)
    run(settings(), archive, tmp_path / "run")
    assert content_of(tmp_path / "run") == whole


def test_run_that_other_code_began_is_refused_with_the_way_out(archive, tmp_path, settings):
    killed(settings(), archive, tmp_path / "run", 3)
    path = tmp_path / "run.partial/state-00000002.safetensors"
    header, tensors = read_state(path)
    write_state(path, {**header, "key": "0ld0ld00"}, tensors)
    key = keys_of(Settings.of(settings()), "train")["train"]
    with pytest.raises(UserError) as caught:
        run(settings(), archive, tmp_path / "run")
    message = str(caught.value)
    assert message.startswith(
        f"{path}: state of a run with key 0ld0ld00, this is {key}: other settings, code "
    )
    assert f"run `couplet adopt {tmp_path / 'run.partial'} --data DATA`" in message
    assert states(tmp_path / "run") == [path.name]


def test_finished_run_of_other_code_does_not_take_its_place(archive, tmp_path, whole, monkeypatch, settings):
    out = tmp_path / "again"
    with monkeypatch.context() as context:
        context.setattr(stage, "_publish", lambda *args: None)
        run(settings(), archive, out)
    path = tmp_path / "again.partial/record.json"
    content = read_json(path)
    write_json(path, {**content, "key": "0ld0ld00"})
    with pytest.raises(
        UserError, match=r"record\.json: of a run with key 0ld0ld00, this is \w+, .*; delete /"
    ):
        run(settings(), archive, out)
    write_json(path, content)
    run(settings(), archive, out)
    assert content_of(out) == whole


@pytest.mark.parametrize("save_every", [1, 5])
def test_divergence_names_the_last_good_state(archive, tmp_path, save_every, settings):
    chosen = settings(optimizer={"kind": "adam", "lr": 1e30}, learning_rate={"kind": "constant"})
    chosen = chosen.model_copy(update={"train": chosen.train.model_copy(update={"save_every": save_every})})
    with pytest.raises(UserError, match=r"step 1: loss .*coupling independent") as caught:
        run(chosen, archive, tmp_path / "run")
    good = tmp_path / "run.partial/state-00000001.safetensors"
    last = f"the last good state is {good}" if save_every == 1 else "no state was saved before"
    assert str(caught.value).endswith(f"; {last}")
    assert good.exists() == (save_every == 1)


@pytest.mark.parametrize("earlier", [False, True])
def test_training_killed_before_it_takes_its_place_takes_it_without_training(
    archive, tmp_path, whole, monkeypatch, earlier, settings
):
    out = tmp_path / "again"
    if earlier:
        run(settings(steps=3), archive, out)

    def kill(*args):
        raise Killed

    monkeypatch.setattr(stage, "_publish", kill)
    with pytest.raises(Killed):
        run(settings(), archive, out)
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"record\.json: of a run with key .*; delete /"):
        run(settings(batch=5), archive, out)
    assert run(settings(), archive, out, kill_after=1) == []
    assert content_of(out) == whole
    assert not (tmp_path / "again.replaced").exists()


def test_half_written_files_of_a_killed_process_are_not_published(archive, tmp_path, whole, settings):
    out = tmp_path / "again"
    killed(settings(), archive, out, 3)
    partial = tmp_path / "again.partial"
    (partial / "checkpoints/.step-00000002.safetensors.1.tmp").write_text("half")
    (partial / ".state-00000004.safetensors.1.tmp").write_text("half")
    with (partial / "curve.csv").open("a") as file:
        file.write("1")
    run(settings(), archive, out)
    assert content_of(out) == whole


def test_process_on_a_folder_in_use_is_refused(archive, tmp_path, hold, settings):
    out = tmp_path / "run"
    with hold(tmp_path / "run.lock") as holder:
        with pytest.raises(UserError, match=rf"run\.lock: process {holder.pid} on \S+ is at work"):
            run(settings(), archive, out)
        assert not (tmp_path / "run.partial").exists()
    run(settings(), archive, out)


def test_bfloat16_without_units_for_it_is_said_at_the_start(archive, tmp_path, settings, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False}, raising=False)
    chosen = settings()
    slow = chosen.model_copy(update={"train": chosen.train.model_copy(update={"precision": "bf16"})})
    (line,) = run(slow, archive, tmp_path / "run")
    assert "train.precision = bf16" in line
    assert run(chosen, archive, tmp_path / "other") == []


def test_leftovers_without_a_state_are_not_published(archive, tmp_path, settings):
    with pytest.raises(Killed):
        run(settings(steps=9), archive, tmp_path / "run", 1)
    stray = tmp_path / "run.partial/checkpoints/step-00000003.safetensors"
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_text("of other settings")
    run(settings(), archive, tmp_path / "run")
    assert not (tmp_path / "run/checkpoints" / stray.name).exists()


def test_folder_of_something_else_is_refused_and_left_alone(archive, tmp_path, settings):
    with pytest.raises(UserError, match="holds something else"):
        run(settings(), archive, archive)
    assert (archive / "card.json").exists()


def test_init_from_starts_from_the_weights_and_names_them(archive, tmp_path, settings):
    chosen = settings()
    start = initial_state(chosen, model.ImageShape(1, 8, 3), CPU).model.network.state_dict()
    weights = {name: torch.full_like(value, 0.25) for name, value in start.items()}
    del weights["map_layer0.bias"]
    weights["map_augment.weight"] = torch.zeros(3)
    save_file(weights, tmp_path / "weights.safetensors")
    lines = run(settings(init_from=str(tmp_path / "weights.safetensors")), archive, tmp_path / "run")
    assert "map_layer0.bias" in lines[0]
    assert "map_augment.weight" in lines[0]
    record = read_json(tmp_path / "run/record.json")
    assert record["init_from"]["missing"] == ["map_layer0.bias"]
    assert record["init_from"]["unexpected"] == ["map_augment.weight"]
    assert len(record["init_from"]["loaded"]) == len(weights) - 1


def test_init_from_another_architecture_names_file_and_tensor(archive, tmp_path, settings):
    path = tmp_path / "weights.safetensors"
    save_file({"map_layer0.weight": torch.zeros(3, 3)}, path)
    with pytest.raises(UserError, match=r"weights\.safetensors: map_layer0\.weight"):
        run(settings(init_from=str(path)), archive, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_frozen_predictor_is_the_checkpoint_that_the_recipe_names(archive, tmp_path, settings):
    run(settings(), archive, tmp_path / "teacher")
    curves = []
    for step in (2, 6):
        checkpoint = tmp_path / f"teacher/checkpoints/step-{step:08d}.safetensors"
        out = tmp_path / f"pupil-{step}"
        run(settings("frozen", frozen_from=str(checkpoint)), archive, out)
        curves.append((out / "curve.csv").read_text())
    assert curves[0] != curves[1]


def test_missing_frozen_predictor_is_named(archive, tmp_path, settings):
    with pytest.raises(UserError, match=r"nowhere\.safetensors: cannot be read"):
        run(settings("frozen", frozen_from="nowhere.safetensors"), archive, tmp_path / "run")
