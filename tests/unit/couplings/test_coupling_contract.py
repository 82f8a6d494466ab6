"""What holds for every registered coupling."""

import copy

import pytest
import torch
from torch import nn

from couplet.config.couplings import CouplingConfig
from couplet.config.variants import build, implementation
from couplet.couplings.base import Coupling, Predictors, Setting

KINDS = sorted(CouplingConfig.family)
SIZE = (6, 3, 4, 4)


class Conv(nn.Module):
    """Stands in for an encoder's network: one convolution that sees level and labels."""

    def __init__(self, out_channels):
        super().__init__()
        self.conv = nn.Conv2d(3, out_channels, 3, padding=1)
        self.classes = nn.Linear(5, out_channels)

    def forward(self, x, levels, labels=None):
        out = self.conv(x) + levels[:, None, None, None]
        return out if labels is None else out + self.classes(labels)[:, :, None, None]


def make(kind):
    def network(*, out_channels, model_channels, num_blocks):
        return Conv(out_channels)

    settings = CouplingConfig.family[kind]()
    return build(settings, Setting(channels=3, sigma_data=0.5, make_network=network))


class Predicting:
    """A model that shrinks its noisy input, with a parameter that must stay without gradient."""

    def __init__(self):
        self.weight = torch.tensor(0.5, requires_grad=True)

    def __call__(self, data, noise, level, labels):
        return self.weight * (data + level[:, None, None, None] * noise)


@pytest.fixture
def call():
    def run(coupling, images, noise, labels, predictor=None, uniform=None):
        predictor = predictor or Predicting()
        return coupling(
            images,
            coupling.arrange(images, noise),
            labels,
            level=torch.linspace(0.1, 2, len(images)),
            predictors=Predictors(predictor, predictor, predictor),
            progress=0.25,
            uniform=torch.linspace(0, 0.99, len(images)) if uniform is None else uniform,
        )

    return run


def inputs(labelled=True):
    images = torch.rand(SIZE) * 2 - 1
    labels = nn.functional.one_hot(torch.arange(6) % 5, 5).float() if labelled else None
    return images, torch.randn(SIZE), labels


@pytest.mark.parametrize("kind", KINDS)
def test_implementation_is_a_coupling(kind):
    assert issubclass(implementation(CouplingConfig.family[kind]()), Coupling)


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_shapes_and_types(kind, labelled, call):
    pair = call(make(kind), *inputs(labelled))
    for value in (pair.data, pair.noise):
        assert (value.shape, value.dtype) == (SIZE, torch.float32)
    assert (pair.penalty.shape, pair.penalty.dtype) == (SIZE[:1], torch.float32)
    assert (pair.penalty >= 0).all()
    assert (pair.labels is not None) == labelled


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_are_not_modified(kind, call):
    given = inputs()
    before = copy.deepcopy(given)
    coupling = make(kind)
    call(coupling, *given)
    coupling.renoise(*given)
    for now, then in zip(given, before, strict=True):
        assert torch.equal(now, then)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_stay_with_their_images(kind, call):
    """Images are constant at a value of their class, and the model returns what it is given."""
    images, noise, labels = inputs()
    images = (labels.argmax(1).float() / 5)[:, None, None, None].expand(SIZE)

    def keep(data, z, level, classes):
        assert torch.equal(data[:, 0, 0, 0], classes.argmax(1).float() / 5)
        return data

    pair = call(make(kind), images, noise, labels, keep)
    assert torch.equal(pair.data[:, 0, 0, 0], pair.labels.argmax(1).float() / 5)


@pytest.mark.parametrize("kind", KINDS)
def test_predictors_get_no_gradient(kind, call):
    predictor = Predicting()
    pair = call(make(kind), *inputs(), predictor, uniform=torch.zeros(6))
    total = pair.data.sum() + pair.noise.sum() + pair.penalty.sum()
    if total.requires_grad:
        total.backward()
    assert predictor.weight.grad is None


@pytest.mark.parametrize("kind", KINDS)
def test_data_end_carries_no_gradient(kind, call):
    assert not call(make(kind), *inputs(), uniform=torch.zeros(6)).data.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_drawn_inside(kind, call):
    given, coupling = inputs(), make(kind)
    first = call(coupling, *given)
    state = torch.get_rng_state()
    again = call(coupling, *given)
    assert torch.equal(torch.get_rng_state(), state)
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)


class Antithetic(Coupling):
    """The second half of a batch has minus the noise of the first."""

    def arrange(self, images, noise, rows=slice(None)):
        half = noise[: len(noise) // 2]
        return torch.cat([half, -half])[rows]


@pytest.fixture(params=[*KINDS, "antithetic"])
def coupling(request):
    return Antithetic() if request.param == "antithetic" else make(request.param)


def test_arranged_noise_is_standard_normal_in_every_place(coupling):
    """Of images that are drawn anew as well, over many batches."""
    count = 600
    drawn = [coupling.arrange(torch.rand(SIZE) * 2 - 1, torch.randn(SIZE)) for _ in range(count)]
    noise = torch.stack(drawn).double().transpose(0, 1).flatten(1)  # a row for each place in the batch
    n = noise.shape[1]
    assert (noise.mean(1).abs() < 4.5 / n**0.5).all()
    assert ((noise**2).mean(1) - 1).abs().max() < 4.5 * (2 / n) ** 0.5
    assert ((noise**4).mean(1) - 3).abs().max() < 4.5 * (96 / n) ** 0.5


def test_arranging_depends_on_its_arguments_alone_and_has_no_gradient(coupling):
    images, noise, _ = inputs()
    arranged = coupling.arrange(images, noise)
    assert arranged.shape == noise.shape
    assert not arranged.requires_grad
    assert torch.equal(coupling.arrange(images, noise), arranged)
    rows = slice(2, 4)
    given = images if coupling.joint_images else images[rows]
    assert torch.equal(coupling.arrange(given, noise, rows), arranged[rows])


@pytest.mark.parametrize("kind", KINDS)
def test_renoise_keeps_shape(kind):
    images, noise, labels = inputs()
    assert make(kind).renoise(images, noise, labels).shape == SIZE


@pytest.mark.parametrize("kind", KINDS)
def test_state_dict_round_trip(kind, call):
    one, other = make(kind), make(kind)
    other.load_state_dict(one.state_dict())
    given = inputs()
    for mine, theirs in zip(call(one, *given), call(other, *given), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("kind", ["independent", "ot", "sinkhorn", "projected", "swaps"])
def test_marginals_are_preserved(kind, call):
    """Data stay as they are, noise is dealt out anew: each row is there once."""
    images, noise, labels = inputs()
    pair = call(make(kind), images, noise, labels)
    assert torch.equal(pair.data, images)
    assert torch.equal(pair.labels, labels)
    assert torch.equal(pair.penalty, torch.zeros(6))
    rows = [row.tolist() for row in pair.noise.flatten(1)]
    assert sorted(rows) == sorted(row.tolist() for row in noise.flatten(1))


@pytest.mark.parametrize("kind", ["independent", "ot", "sinkhorn", "projected", "swaps"])
def test_noise_stays_standard_normal(kind, call):
    noises = [
        call(make(kind), torch.rand(64, 1, 2, 2), torch.randn(64, 1, 2, 2), None).noise for _ in range(50)
    ]
    noise = torch.cat(noises).double()
    n = noise.numel()
    assert abs(noise.mean()) < 4 / n**0.5
    assert abs(noise.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs((noise**4).mean() - 3) < 4 * (96 / n) ** 0.5


def test_independent_coupling_changes_nothing(call):
    images, noise, labels = inputs()
    coupling = make("independent")
    pair = call(coupling, images, noise, labels)
    assert torch.equal(pair.data, images)
    assert torch.equal(pair.noise, noise)
    assert torch.equal(coupling.renoise(images, noise, labels), noise)


@pytest.mark.parametrize("kind", KINDS)
def test_posterior_is_that_of_the_noise(kind, call):
    """A coupling whose noise depends on the image emits mean + std noise; others have the prior's 0 and 1."""
    images, noise, labels = inputs()
    coupling = make(kind)
    mean, std = coupling.posterior(images, labels)
    assert mean.shape == std.shape == SIZE
    if kind in ("vae", "vae_generator"):
        torch.testing.assert_close(call(coupling, images, noise, labels).noise, mean + std * noise)
    else:
        assert not mean.any()
        assert (std == 1).all()
