"""The folder that `train` writes: whole, its own, and gone on from."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from couplet import data, model, training
from couplet.config.params import Params
from couplet.errors import UserError
from couplet.stages.train import train

CPU = torch.device("cpu")
PARAMS = yaml.safe_load((Path(__file__).resolve().parents[3] / "params.yaml").read_text())


def settings(coupling="independent", **recipe):
    content = json.loads(json.dumps(PARAMS))
    content["coupling"] = coupling
    content["couplings"]["frozen"] = {"kind": "generator", "mu": 1.0, "predictor": "frozen"}
    content["recipes"]["ict"].update({"steps": 6, "batch": 4, **recipe})
    content["recipes"]["ict"]["network"]["model_channels"] = 8
    content["train"] = {"snapshots": 3, "log_every": 2, "save_every": 2}
    params = Params.model_validate(content)
    return params.training(params.experiment)


@pytest.fixture
def archive(tmp_path):
    rng = np.random.default_rng(0)
    splits = {
        name: data.Split(rng.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8), np.arange(count) % 3)
        for name, count in (("train", 12), ("test", 6))
    }
    folder = tmp_path / "data"
    data.write(folder, dataset="noise", source="random", classes=("a", "b", "c"), splits=splits)
    return folder


class Stopped(Exception):
    """Stands for a killed process."""


def run(chosen, archive, out, stop_after=None):
    said = []

    def report(progress, rate):
        if progress.step == stop_after:
            raise Stopped

    train(chosen, archive, out, CPU, report, said.append)
    return said


def content_of(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "record.json"
    }


def test_folder_is_whole_and_describes_itself(archive, tmp_path):
    out = tmp_path / "run"
    chosen = settings()
    assert run(chosen, archive, out) == []
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == [
        f"step-{step:08d}.safetensors" for step in (2, 4, 6)
    ]
    assert json.loads((out / "config.json").read_text())["key"] == chosen.key
    record = json.loads((out / "record.json").read_text())
    assert record["key"] == chosen.key
    assert record["images_per_second"] == pytest.approx(24 / record["seconds"])
    steps = [line.split(",")[0] for line in (out / "curve.csv").read_text().splitlines()]
    assert steps == ["step", "1", "2", "4", "6"]
    assert not (tmp_path / "run.partial").exists()


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5])
def test_stopped_training_goes_on_to_the_same_bytes(archive, tmp_path, stop_after):
    run(settings(), archive, tmp_path / "whole")
    with pytest.raises(Stopped):
        run(settings(), archive, tmp_path / "again", stop_after)
    assert not (tmp_path / "again").exists()
    said = run(settings(), archive, tmp_path / "again")
    assert len(said) == (stop_after > 2)
    assert content_of(tmp_path / "again") == content_of(tmp_path / "whole")


def test_training_of_other_settings_is_not_gone_on_from(archive, tmp_path):
    with pytest.raises(Stopped):
        run(settings(), archive, tmp_path / "run", 3)
    with pytest.raises(UserError, match=r"state\.pt: state of configuration"):
        run(settings(batch=5), archive, tmp_path / "run")


def test_leftovers_without_a_state_are_not_published(archive, tmp_path):
    with pytest.raises(Stopped):
        run(settings(steps=9), archive, tmp_path / "run", 1)
    stray = tmp_path / "run.partial/checkpoints/step-00000003.safetensors"
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_text("of other settings")
    run(settings(), archive, tmp_path / "run")
    assert not (tmp_path / "run/checkpoints" / stray.name).exists()


def test_folder_of_something_else_is_refused_and_left_alone(archive, tmp_path):
    with pytest.raises(UserError, match="holds something else"):
        run(settings(), archive, archive)
    assert (archive / "card.json").exists()


def test_init_from_starts_from_the_weights_and_says_which(archive, tmp_path):
    chosen = settings()
    start = training.initial_state(chosen, model.ImageShape(1, 8, 3), CPU).model.network.state_dict()
    weights = {name: torch.full_like(value, 0.25) for name, value in start.items()}
    del weights["map_layer0.bias"]
    weights["map_augment.weight"] = torch.zeros(3)
    save_file(weights, tmp_path / "weights.safetensors")
    said = run(settings(init_from=str(tmp_path / "weights.safetensors")), archive, tmp_path / "run")
    assert "map_layer0.bias" in said[0]
    assert "map_augment.weight" in said[0]
    record = json.loads((tmp_path / "run/record.json").read_text())
    assert record["init_from"]["missing"] == ["map_layer0.bias"]
    assert record["init_from"]["unexpected"] == ["map_augment.weight"]
    assert len(record["init_from"]["loaded"]) == len(weights) - 1


def test_init_from_another_architecture_names_file_and_tensor(archive, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"map_layer0.weight": torch.zeros(3, 3)}, path)
    with pytest.raises(UserError, match=r"weights\.safetensors: map_layer0\.weight"):
        run(settings(init_from=str(path)), archive, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_frozen_predictor_is_the_checkpoint_that_the_recipe_names(archive, tmp_path):
    run(settings(), archive, tmp_path / "teacher")
    curves = []
    for step in (2, 6):
        checkpoint = tmp_path / f"teacher/checkpoints/step-{step:08d}.safetensors"
        out = tmp_path / f"pupil-{step}"
        run(settings("frozen", frozen_from=str(checkpoint)), archive, out)
        curves.append((out / "curve.csv").read_text())
    assert curves[0] != curves[1]


def test_frozen_predictor_that_is_not_there_is_named(archive, tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.safetensors: cannot be read"):
        run(settings("frozen", frozen_from="nowhere.safetensors"), archive, tmp_path / "run")
