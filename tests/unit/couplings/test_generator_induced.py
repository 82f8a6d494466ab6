"""Generator-induced coupling: which images are replaced, and by what."""

import pytest
import torch

from couplet.config.couplings import GeneratorInducedConfig
from couplet.config.variants import build
from couplet.couplings.base import Predictors, Setting

B = 2000


def make(**settings):
    return build(GeneratorInducedConfig(**settings), Setting(1, 0.5, None))


def forward(coupling, *, b=B, uniform=None, progress=0.0, predictors=None, labels=None):
    images, noise = torch.rand(b, 1, 2, 2), torch.randn(b, 1, 2, 2)
    pair = coupling(
        images,
        noise,
        labels,
        level=torch.linspace(0.1, 3, b),
        predictors=predictors or Predictors(nine, nine, nine),
        progress=progress,
        uniform=torch.rand(b) if uniform is None else uniform,
    )
    return images, noise, pair


def nine(data, noise, level, labels):
    return torch.full_like(data, 9.0)


def share(pair):
    replaced = (pair.data == 9).flatten(1)
    assert (replaced.all(1) == replaced.any(1)).all()  # whole images only
    return replaced[:, 0].double().mean().item()


def test_mu_zero_leaves_the_data_and_asks_no_model():
    images, noise, pair = forward(make(mu=0.0), predictors=Predictors(None, None, None))
    assert torch.equal(pair.data, images)
    assert torch.equal(pair.noise, noise)


def test_mu_one_replaces_all():
    _, noise, pair = forward(make(mu=1.0))
    assert share(pair) == 1
    assert torch.equal(pair.noise, noise)


@pytest.mark.parametrize("mu", [0.3, 0.7])
def test_mu_is_the_share_of_generated_images(mu):
    """As in the paper; the released code's option is 1 - mu."""
    _, _, pair = forward(make(mu=mu))
    assert share(pair) == pytest.approx(mu, abs=4 * (mu * (1 - mu) / B) ** 0.5)


def test_mu_moves_linearly_to_its_end():
    ramp = make(mu=0.2, mu_end=0.8)
    assert [ramp.mu_at(p) for p in (0.0, 0.25, 0.5)] == pytest.approx([0.2, 0.35, 0.5])
    uniform = torch.arange(B) / B
    for progress, wanted in ((0.0, 0.2), (0.5, 0.5), (0.99, 0.794)):
        _, _, pair = forward(ramp, uniform=uniform, progress=progress)
        assert share(pair) == pytest.approx(wanted, abs=1 / B)


def test_mu_is_constant_without_an_end():
    assert {make(mu=0.3).mu_at(p) for p in (0.0, 0.5, 0.99)} == {0.3}


def test_mu_may_end_at_zero():
    assert make(mu=0.5, mu_end=0.0).mu_at(0.5) == pytest.approx(0.25)


@pytest.mark.parametrize(("predictor", "value"), [("online", 1.0), ("ema", 2.0), ("frozen", 3.0)])
def test_the_configured_model_predicts(predictor, value):
    def constant(number):
        return lambda data, noise, level, labels: torch.full_like(data, number)

    predictors = Predictors(online=constant(1.0), ema=constant(2.0), frozen=constant(3.0))
    _, _, pair = forward(make(mu=1.0, predictor=predictor), predictors=predictors)
    assert (pair.data == value).all()


def test_only_chosen_images_are_evaluated_with_the_same_result():
    calls = []

    def predict(data, noise, level, labels):
        calls.append(len(data))
        signal = data + level[:, None, None, None] * noise
        return signal.tanh() * (1 + labels.argmax(1))[:, None, None, None]

    labels = torch.eye(4)[torch.arange(40) % 4]
    uniform = torch.rand(40)
    predictors = Predictors(None, predict, None)
    images, noise, pair = forward(make(mu=0.4), b=40, uniform=uniform, predictors=predictors, labels=labels)
    assert calls == [int((uniform < 0.4).sum())]
    full = predict(images, noise, torch.linspace(0.1, 3, 40), labels)
    chosen = (uniform < 0.4)[:, None, None, None]
    assert torch.equal(pair.data, torch.where(chosen, full, images))


def test_generated_images_are_constants_of_the_loss():
    weight = torch.tensor(2.0, requires_grad=True)

    def predict(data, noise, level, labels):
        return weight * data

    _, _, pair = forward(make(mu=1.0), b=4, predictors=Predictors(predict, predict, predict))
    assert not pair.data.requires_grad


def test_sampling_takes_noise_as_drawn():
    images, noise = torch.randn(2, 3, 1, 2, 2)
    assert torch.equal(make().renoise(images, noise, None), noise)
