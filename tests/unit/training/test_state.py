"""The file from which a training goes on: whole, its own, or refused in one line."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from couplet.data.loader import Loader
from couplet.errors import UserError
from couplet.model import ImageShape
from couplet.training.loop import initial_state, run
from couplet.training.state import Damaged

CPU = torch.device("cpu")
KEY, DATA = "feedbeef", "c0ffee"


@pytest.fixture
def start(make_training):
    return lambda **recipe: initial_state(make_training(**recipe), ImageShape(1, 8, 3), CPU)


@pytest.fixture
def saved(make_training, random_split, tmp_path):
    """A state after a step, and its file."""
    training = make_training(steps=1, network=SMALL)
    state = initial_state(training, ImageShape(1, 8, 3), CPU)
    list(run(training, state, Loader(random_split, batch=4, seed=0, flip=False, num_classes=0)))
    path = tmp_path / "state-1.safetensors"
    state.save(path, key=KEY, data=DATA)
    return state, path


SMALL = {
    "kind": "ddpmpp",
    "model_channels": 4,
    "channel_mult": [1],
    "num_blocks": 1,
    "attn_resolutions": [],
}


def refused(start, path, kind=UserError, *, key=KEY, data=DATA):
    """The one line with which ``path`` is refused; the state that would have taken it over is as it was."""
    state = start(network=SMALL)
    before = [p.clone() for p in state.model.parameters()]
    with pytest.raises(kind) as caught:
        state.restore(path, key=key, data=data)
    assert all(torch.equal(a, b) for a, b in zip(before, state.model.parameters(), strict=True))
    assert state.step == 0
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("optimizer", ["radam", "adam", "lion"])
def test_everything_that_changes_is_saved(make_training, random_split, tmp_path, optimizer):
    if optimizer == "lion":
        pytest.importorskip("lion_pytorch")
    training = make_training("vae", steps=3, optimizer={"kind": optimizer, "lr": 1e-3})
    first, second = (initial_state(training, ImageShape(1, 8, 3), CPU) for _ in range(2))
    list(run(training, first, Loader(random_split, batch=4, seed=0, flip=False, num_classes=0)))
    first.replaced = 2
    first.save(tmp_path / "state", key=KEY, data=DATA)
    second.restore(tmp_path / "state", key=KEY, data=DATA)
    assert (second.step, second.seconds, second.replaced) == (3, first.seconds, 2)
    assert second.ema.updates == first.ema.updates == 3
    for one, other in ((first.model, second.model), (first.ema.module, second.ema.module)):
        found = other.state_dict()
        assert all(torch.equal(value, found[name]) for name, value in one.state_dict().items())
    moments = second.optimizer.state_dict()["state"]
    assert moments.keys() == first.optimizer.state_dict()["state"].keys()
    for index, fields in first.optimizer.state_dict()["state"].items():
        assert fields.keys() == moments[index].keys()
        assert all(torch.equal(value, moments[index][name]) for name, value in fields.items())


def test_file_is_plain_safetensors_with_a_description(saved):
    state, path = saved
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["couplet"])
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert about == {
        "key": KEY,
        "data": DATA,
        "step": 1,
        "seconds": state.seconds,
        "replaced": 0,
        "averaged": 1,
    }
    assert {name.partition(".")[0] for name in weights} == {"model", "ema", "optimizer"}


@pytest.mark.parametrize("kept", [0, 7, 100, 0.5, 0.99, -1])
def test_truncated_state_is_refused(saved, start, kept):
    _, path = saved
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    assert "damaged training state" in refused(start, path, Damaged)


@pytest.mark.parametrize("place", [0, 0.02, 0.1, 0.3, 0.5, 0.9, 1])
def test_flipped_bit_is_refused(saved, start, place):
    _, path = saved
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 0b100
    path.write_bytes(content)
    assert "damaged training state" in refused(start, path, Damaged)


def test_file_of_another_program_is_refused(start, tmp_path):
    path = tmp_path / "state"
    path.write_text("hello")
    assert "damaged" in refused(start, path, Damaged)
    torch.save({"step": 3}, path)
    assert "damaged" in refused(start, path, Damaged)
    save_file({"a": torch.zeros(2)}, path)
    assert "damaged" in refused(start, path, Damaged)


def test_file_that_is_not_there_is_not_called_damaged(start, tmp_path):
    assert "cannot be read" in refused(start, tmp_path / "absent")


def test_state_of_another_configuration_is_refused(saved, start):
    _, path = saved
    message = refused(start, path, key="12345678")
    assert f"run with key {KEY}, this is 12345678: other settings, code" in message


def test_state_on_another_data_set_is_refused(saved, start):
    _, path = saved
    assert f"data set {DATA}, this is 123" in refused(start, path, data="123")


def test_state_of_a_model_that_is_built_otherwise_now_is_refused(saved, start):
    _, path = saved
    with pytest.raises(UserError, match="does not fit the model as it is now") as caught:
        start(network={**SMALL, "model_channels": 8}).restore(path, key=KEY, data=DATA)
    assert "\n" not in str(caught.value)


def test_state_on_a_full_disk_is_refused_and_leaves_nothing(start, tmp_path, full_disk):
    path = tmp_path / "state"
    state = start()
    with full_disk(), pytest.raises(UserError, match="cannot be written") as caught:
        state.save(path, key=KEY, data=DATA)
    assert str(path) in str(caught.value)
    assert list(tmp_path.iterdir()) == []
