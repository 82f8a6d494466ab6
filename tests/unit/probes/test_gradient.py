"""The gradient's variance against all gradients held at once."""

import math

import numpy as np
import pytest
import torch

from couplet.model import ImageShape
from couplet.probes import gradient
from couplet.probes.gradient import GradientStatistics, gradient_statistics
from couplet.tensors import default_stream
from couplet.training.loop import initial_state
from couplet.training.step import Batch, Draws, Models, Objective, Terms, consistency_loss

SHAPE = ImageShape(1, 8, 0)
LEVELS = torch.tensor([0.5, 1.0, 5.0, 40.0])


def made(training):
    """The model in training with its average, and the objective; no weight is zero."""
    state = initial_state(training, SHAPE, torch.device("cpu"))
    for part in state.models[:2]:
        for parameter in part.parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return state.models, Objective(training.recipe, state.model.kernel, 64)


def batches(count, images=None):
    rng = torch.Generator().manual_seed(0)
    for number in range(count):
        drawn = torch.randn(2, 4, 1, 8, 8, generator=rng)
        draws = Draws(
            t=2 * LEVELS, r=LEVELS, noise=drawn[1], uniform=torch.rand(4, generator=rng), dropout_seed=number
        )
        yield Batch(drawn[0], None), draws


def one_by_one(models, objective, count, step):
    """Every batch's gradient by the network's parameters, and by its images; both with ``count`` rows."""
    rows, images = [], []
    for batch, draws in batches(count):
        models.online.zero_grad()
        batch.images.requires_grad_()
        consistency_loss(models, batch, draws, objective=objective, step=step).loss.backward()
        rows.append(torch.cat([p.grad.flatten() for p in models.online.network.parameters()]).double())
        images.append(batch.images.grad.flatten().double())
    return torch.stack(rows).numpy(), torch.stack(images).numpy()


COUPLINGS = pytest.mark.parametrize("coupling", ["independent", "vae", {"kind": "generator", "mu": 0.5}])


@COUPLINGS
def test_trace_and_mean_are_those_of_all_gradients(make_training, coupling):
    """Also where the coupling has parameters: only the network's count."""
    models, objective = made(make_training(coupling, network={**NETWORK, "dropout": 0.3}))
    found = gradient_statistics(models, batches(5), objective=objective, step=2)
    gradients, _ = one_by_one(models, objective, 5, step=2)
    assert found.covariance_trace == pytest.approx(gradients.var(axis=0, ddof=1).sum(), rel=1e-4)
    assert found.mean_norm2 == pytest.approx(np.square(gradients.mean(axis=0)).sum(), rel=1e-4)
    assert found.ratio == pytest.approx(found.covariance_trace / found.mean_norm2)


@COUPLINGS
def test_variances_and_norm_are_those_of_vct(make_training, coupling):
    models, objective = made(make_training(coupling, network={**NETWORK, "dropout": 0.3}))
    found = gradient_statistics(models, batches(5), objective=objective, step=2)
    gradients, images = one_by_one(models, objective, 5, step=2)
    assert found.grad_variance == pytest.approx(gradients.var(axis=1).mean(), rel=1e-4)
    assert found.x_grad_variance == pytest.approx(images.var(axis=1, ddof=1).mean(), rel=1e-4)
    assert found.grad_norm == pytest.approx(np.linalg.norm(gradients, axis=1).mean(), rel=1e-4)


def test_numbers_of_a_linear_loss(monkeypatch):
    """``mean_b w·x_b`` with w = (1, 3): its gradients are (2, 5) and (0, 1) by w, and w/2 by each image."""
    online = torch.nn.Module()
    online.network = torch.nn.Linear(2, 1, bias=False)
    online.network.weight.data = torch.tensor([[1.0, 3.0]])

    def linear(models, batch, draws, *, objective, step):
        distance = models.online.network(batch.images)[:, 0]
        return Terms(distance.mean(), distance, distance, distance, penalty_scale=0.0)

    monkeypatch.setattr(gradient, "consistency_loss", linear)
    draws = Draws(*torch.zeros(4, 2), dropout_seed=0)
    images = torch.tensor([[[1.0, 2.0], [3.0, 8.0]], [[0.0, 0.0], [0.0, 2.0]]])
    expected = (1.25, 1 / 3, (29**0.5 + 1) / 2, 10.0, 10.0)
    for microbatch in (None, 1):
        minibatches = [(Batch(each, None), draws) for each in images]
        found = gradient_statistics(
            Models(online, online, None), minibatches, objective=None, step=0, microbatch=microbatch
        )
        assert tuple(found) == pytest.approx(expected)
        assert found.ratio == pytest.approx(1.0)


NETWORK = {
    "kind": "ddpmpp",
    "model_channels": 8,
    "channel_mult": [1],
    "num_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.0,
}


def test_parts_of_a_batch_have_the_gradient_of_the_whole(make_training):
    models, objective = made(make_training("vae", network=NETWORK))
    whole, parts = (
        gradient_statistics(models, batches(3), objective=objective, step=0, microbatch=microbatch)
        for microbatch in (None, 3)
    )
    assert parts == pytest.approx(whole, rel=1e-3)


def test_same_batch_again_has_no_variance(make_training):
    models, objective = made(make_training(network=NETWORK))
    [batch] = batches(1)
    found = gradient_statistics(models, [batch] * 3, objective=objective, step=0)
    assert found.covariance_trace < 1e-9 * found.mean_norm2


def test_curriculum_is_that_of_the_step(make_training):
    """mu from 0 to 1: the coupling's predictor decides the gradient at the end of training only."""
    coupling = {"kind": "generator", "mu": 0.0, "mu_end": 1.0, "predictor": "frozen"}
    training = make_training(coupling, network=NETWORK, frozen_from="x", steps=10)
    models, objective = made(training)
    with default_stream(torch.device("cpu"), 3):
        frozen = [made(training)[0].online.requires_grad_(False) for _ in range(2)]
    for parameter in frozen[1].parameters():
        parameter.mul_(2)
    for step, same in ((0, True), (9, False)):
        one, other = (
            gradient_statistics(models._replace(frozen=model), batches(2), objective=objective, step=step)
            for model in frozen
        )
        assert (one == other) is same


def test_one_batch_has_no_variance(make_training):
    models, objective = made(make_training(network=NETWORK))
    with pytest.raises(ValueError, match="1 batches"):
        gradient_statistics(models, batches(1), objective=objective, step=0)


def test_ratio_of_no_gradient_is_not_a_number():
    assert math.isnan(GradientStatistics(0.0, 0.0, 0.0, 0.0, 0.0).ratio)
