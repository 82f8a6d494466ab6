"""Trackers in a parameter file: which are allowed, and that they change no cell."""

from pathlib import Path

import pytest
import yaml

from couplet.config.base import Invalid
from couplet.config.resolve import resolve
from couplet.config.track import Track
from couplet.cost import peak_tflops
from couplet.errors import UserError


@pytest.mark.parametrize(
    ("text", "kind", "place"),
    [
        ("dvc=live", "dvc", "live"),
        ("tensorboard=~/a=b", "tensorboard", str(Path("~/a=b").expanduser())),
        ("wandb", "wandb", ""),
        ("wandb=team/project", "wandb", "team/project"),
        ("mlflow", "mlflow", ""),
        ("mlflow=sqlite:///a.db?b=c", "mlflow", "sqlite:///a.db?b=c"),
    ],
)
def test_kind_and_place(text, kind, place):
    assert Track.parse(text) == (kind, place)
    assert str(Track.parse(text)) == f"{kind}={place}".removesuffix("=")


@pytest.mark.parametrize(
    "text", ["", "dvc", "dvc=", "tensorboard", "wandb=", "mlflow=", "comet", "WANDB", " wandb"]
)
def test_others_are_refused(text):
    with pytest.raises(Invalid, match="must be one of dvc=FOLDER, tensorboard=FOLDER, wandb"):
        Track.parse(text)


@pytest.fixture
def file(tmp_path, params_content):
    def write(**settings):
        path = tmp_path / "params.yaml"
        path.write_text(yaml.safe_dump({**params_content, **settings}))
        return path

    return write


def test_file_names_trackers_and_a_scale_others(file):
    path = file(
        track=["mlflow", "tensorboard=events"], scales={"tiny": {"track": ["wandb"], "peak_tflops": 2}}
    )
    assert resolve(path).track == ("mlflow", "tensorboard=events")
    assert resolve(path, "tiny").track == ("wandb",)
    assert resolve(path, "tiny").peak_tflops == 2
    assert resolve(path, changes=["track=[]"]).track == ()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"track": ["mlflow", "dvc=live"]},
            'track.1 = "dvc=live": its folder shows one run; give --track dvc=',
        ),
        ({"track": ["neptune"]}, 'track.0 = "neptune": must be one of dvc=FOLDER'),
        ({"track": "mlflow"}, 'track = "mlflow": '),
        ({"track": [1]}, "track.0 = 1: "),
        ({"peak_tflops": 0}, "peak_tflops = 0: "),
        ({"peak_tflops": float("inf")}, "peak_tflops = "),
    ],
)
def test_file_that_names_none(file, settings, message):
    with pytest.raises(UserError) as error:
        resolve(file(**settings))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("command", ["train", "run"])
def test_folder_of_a_file_that_cannot_be_is_refused_before_any_work(
    command, file, couplet, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("")
    path = file(track=["tensorboard=taken"])
    more = ["--data", "data"] if command == "train" else []
    code, _, err = couplet(command, *more, "--params", path, "--out", "out")
    assert (code, err) == (2, "couplet: --track tensorboard=taken: is a file; give another folder\n")
    assert {each.name for each in tmp_path.iterdir()} == {"taken", "params.yaml"}


@pytest.mark.parametrize(
    ("device", "precision", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", "bf16", 312),
        ("NVIDIA A100 80GB PCIe", "tf32", 156),
        ("NVIDIA H100 80GB HBM3", "bf16", 989),
        ("NVIDIA H100 PCIe", "float32", 51),
        ("NVIDIA H200", "bf16", 989),
        ("NVIDIA H200 NVL", "bf16", None),
        ("NVIDIA H100 NVL", "bf16", None),
        ("NVIDIA GeForce RTX 3090", "bf16", None),
    ],
)
def test_peaks_of_gpus(device, precision, peak):
    assert peak_tflops(device, precision) == peak
