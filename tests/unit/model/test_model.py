"""The model: preconditioning around a network, and the file that holds it."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from couplet.config.couplings import IndependentConfig
from couplet.config.designs import Imported, SamplerConfig
from couplet.config.networks import DDPMPlusPlusConfig, EDM2Config
from couplet.config.recipes import KernelConfig
from couplet.config.variants import build as build_variant
from couplet.couplings.base import Setting
from couplet.errors import UserError
from couplet.kernels import LinearInterpolation
from couplet.model import ConsistencyModel, ImageShape, Saved, build, load, resized, save
from couplet.networks.base import Network
from couplet.networks.edm2 import EDM2

SHAPE = ImageShape(channels=1, resolution=8, num_classes=3)
CPU = torch.device("cpu")
COUPLINGS = ["independent", "ot", "swaps", "vae", "generator", "vae_generator"]


class Remembering(nn.Module):
    """Doubles its input and remembers its arguments."""

    def forward(self, x, noise_labels, class_labels=None):
        self.seen = (x, noise_labels, class_labels)
        return 2 * x


def around(network, kernel):
    coupling = build_variant(IndependentConfig(), Setting(1, 0.5, None))
    levels = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5}
    return ConsistencyModel(network, coupling, build_variant(KernelConfig.parse(kernel), **levels))


@pytest.mark.parametrize("boundary", [True, False])
@pytest.mark.parametrize("kernel", ["ve", "li"])
def test_preconditioning(kernel, boundary):
    model = around(Remembering(), kernel)
    x, t, labels = torch.randn(3, 1, 4, 4), torch.tensor([0.01, 0.8, 30.0]), torch.eye(3)
    out = model(x, t, labels, boundary=boundary)
    c_skip, c_out, c_in = (c[:, None, None, None] for c in model.kernel.scalings(t, boundary=boundary))
    torch.testing.assert_close(out, c_skip * x + c_out * 2 * c_in * x)
    seen, noise_labels, class_labels = model.network.seen
    torch.testing.assert_close(seen, c_in * x)
    torch.testing.assert_close(noise_labels, t.log() / 4)
    assert class_labels is labels


@pytest.mark.parametrize("kernel", ["ve", "li"])
def test_is_the_identity_at_sigma_min(kernel):
    x = torch.randn(3, 1, 4, 4)
    out = around(Remembering(), kernel)(x, torch.tensor([0.002]), None, boundary=True)
    torch.testing.assert_close(out, x, rtol=0, atol=1e-8)


def test_computes_in_float32_whatever_it_is_given():
    model = around(Remembering(), "ve")
    x, t = torch.randn(2, 1, 4, 4).double(), torch.tensor([0.7], dtype=torch.float64)
    out = model(x, t, None, boundary=True)
    assert out.dtype == model.network.seen[0].dtype == model.network.seen[1].dtype == torch.float32
    assert torch.equal(out, model(x.float(), t.float(), None, boundary=True))


def test_one_level_serves_the_whole_batch():
    model, x = around(Remembering(), "ve"), torch.randn(4, 1, 2, 2)
    one = model(x, torch.tensor([0.3]), None, boundary=True)
    assert torch.equal(one, model(x, torch.full((4,), 0.3), None, boundary=True))


def test_weights_are_normalised_in_every_network_of_the_model():
    class Counting(Network):
        calls = 0

        def forward(self, x, noise_labels, class_labels=None):
            return x

        def normalize_weights_(self):
            self.calls += 1

    model = around(Counting(in_channels=1, out_channels=1, num_classes=0), "ve")
    model.coupling.encoder = Counting(in_channels=1, out_channels=2, num_classes=0)
    model.normalize_weights_()
    assert model.network.calls == model.coupling.encoder.calls == 1


def test_normalising_edm2_weights_twice_changes_nothing(make_training):
    network = {
        "kind": "edm2",
        "model_channels": 8,
        "channel_mult": [1],
        "num_blocks": 1,
        "channels_per_head": 8,
    }
    model = build(make_training(network=network).design, SHAPE)
    assert isinstance(model.network, EDM2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.normalize_weights_()
    once = {k: v.clone() for k, v in model.state_dict().items()}
    model.normalize_weights_()
    assert any(not torch.equal(before[k], once[k]) for k in once)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, once[name], rtol=1e-3, atol=0)  # EDM2 adds 1e-4 to norms


@pytest.mark.parametrize("conditional", [True, False])
def test_build_gives_classes_only_to_conditional_networks(make_training, conditional):
    model = build(make_training("vae", conditional=conditional).design, SHAPE)
    wanted = 3 if conditional else 0
    assert model.network.num_classes == model.coupling.encoder.num_classes == wanted
    assert (model.network.out_channels, model.coupling.encoder.out_channels) == (1, 2)


def test_build_takes_the_kernel_of_the_cell(make_training):
    model = build(make_training(kernel="li", sigma_min=0.01, sigma_max=9.0).design, SHAPE)
    assert isinstance(model.kernel, LinearInterpolation)
    assert (model.kernel.sigma_min, model.kernel.sigma_max, model.kernel.sigma_data) == (0.01, 9.0, 0.5)


def test_an_encoders_network_differs_from_the_main_one_in_size_only():
    config = DDPMPlusPlusConfig(num_blocks=(3, 5, 7), dropout=(0.0, 0.2, 0.2), attn_resolutions=())
    small = resized(config, model_channels=32, num_blocks=1)
    assert isinstance(small, DDPMPlusPlusConfig)
    assert (small.model_channels, small.num_blocks) == (32, 1)
    sizes = {"model_channels", "num_blocks"}
    assert small.model_dump(exclude=sizes) == config.model_dump(exclude=sizes)
    assert resized(EDM2Config(), model_channels=32, num_blocks=2).num_blocks == 2
    with pytest.raises(ValueError, match="num_blocks"):
        resized(config, model_channels=32, num_blocks=0)


def scrambled(model):
    """Weights that no initialisation would give."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


@pytest.mark.parametrize("kind", COUPLINGS)
def test_file_round_trip_is_exact(make_training, tmp_path, kind):
    training = make_training(kind, conditional=True)
    model = scrambled(build(training.design, SHAPE))
    path = tmp_path / "deep" / "model.safetensors"
    save(path, model, Saved(training, SHAPE, 17))
    loaded, saved = load(path, CPU)
    assert saved == Saved(training, SHAPE, 17)
    assert not loaded.training
    assert type(loaded.kernel) is type(model.kernel)
    assert vars(loaded.kernel) == vars(model.kernel)
    mine, theirs = model.state_dict(), loaded.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert any(name.startswith("coupling.") for name in theirs) == (kind in ("vae", "vae_generator"))


def test_a_model_of_others_is_a_file_of_the_same_kind(make_training, tmp_path):
    design = make_training("vae", conditional=True, sigma_min=0.01).design
    sampler = SamplerConfig(levels=(80.0, 1.5), boundary=False, clip=True, renoise="reduced")
    model, path = scrambled(build(design, SHAPE)), tmp_path / "model.safetensors"
    save(path, model, Saved(Imported(design=design, sampler=sampler, source={"family": "ours"}), SHAPE))
    loaded, saved = load(path, CPU)
    assert (saved.training, saved.step, saved.conditional, saved.sampler) == (None, 0, True, sampler)
    assert saved.of.source == {"family": "ours"}
    assert vars(loaded.kernel) == vars(model.kernel)
    assert all(
        torch.equal(a, b) for a, b in zip(*(m.state_dict().values() for m in (model, loaded)), strict=True)
    )


def test_same_model_gives_the_same_bytes(make_training, tmp_path):
    training = make_training("vae")
    model = build(training.design, SHAPE)
    for name in ("one", "two"):
        save(tmp_path / name, model, Saved(training, SHAPE, 1))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def refused(path):
    with pytest.raises(UserError) as caught:
        load(path, CPU)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.fixture
def saved_file(make_training, tmp_path):
    training = make_training()
    path = tmp_path / "model.safetensors"
    save(path, build(training.design, SHAPE), Saved(training, SHAPE, 1))
    return path


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, 0.99])
def test_truncated_file_is_refused(saved_file, kept):
    content = saved_file.read_bytes()
    size = int(kept * len(content)) if isinstance(kept, float) else kept
    saved_file.write_bytes(content[:size])
    refused(saved_file)


def test_file_of_garbage_is_refused(tmp_path):
    (tmp_path / "noise").write_bytes(bytes(range(256)) * 10)
    refused(tmp_path / "noise")


def test_missing_file_is_refused(tmp_path):
    refused(tmp_path / "absent.safetensors")


def test_folder_is_refused(tmp_path):
    refused(tmp_path)


@pytest.mark.parametrize(
    "header",
    [
        None,
        {"other": "1"},
        {"couplet": "no json"},
        {"couplet": "[]"},
        {"couplet": '{"training": {}, "shape": {}, "step": 1}'},
    ],
)
def test_foreign_file_is_refused(tmp_path, header):
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, path, header)
    refused(path)


@pytest.mark.parametrize(
    "edit",
    [
        lambda header: header["training"]["recipe"].update(stepz=3),
        lambda header: header["training"]["coupling"].update(kind="unheard-of"),
        lambda header: header["shape"].update(depth=3),
        lambda header: header.update(step="last"),
        lambda header: header["training"]["recipe"]["network"].update(model_channels=16),
    ],
)
def test_header_that_does_not_fit_is_refused(make_training, tmp_path, edit):
    training = make_training()
    header = {"training": training.model_dump(mode="json"), "shape": SHAPE._asdict(), "step": 1}
    edit(header)
    path = tmp_path / "edited.safetensors"
    save_file(build(training.design, SHAPE).state_dict(), path, {"couplet": json.dumps(header)})
    refused(path)


def test_missing_weight_is_named(make_training, tmp_path):
    training = make_training()
    header = {"training": training.model_dump(mode="json"), "shape": SHAPE._asdict(), "step": 1}
    weights = build(training.design, SHAPE).state_dict()
    gone = sorted(weights)[0]
    del weights[gone]
    path = tmp_path / "thin.safetensors"
    save_file(weights, path, {"couplet": json.dumps(header)})
    assert gone in refused(path)


def test_full_disk_is_refused_and_leaves_nothing(make_training, tmp_path, full_disk):
    training = make_training()
    path = tmp_path / "model.safetensors"
    with full_disk(), pytest.raises(UserError, match="cannot be written") as caught:
        save(path, build(training.design, SHAPE), Saved(training, SHAPE, 1))
    assert str(path) in str(caught.value)
    assert list(tmp_path.iterdir()) == []
