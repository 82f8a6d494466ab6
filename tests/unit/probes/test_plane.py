"""Points of the plane: samples, training pairs, and the encoder's posterior."""

import pytest
import torch

from couplet.model import ImageShape
from couplet.probes.levels import Coupled
from couplet.probes.plane import plane
from couplet.training.loop import initial_state
from couplet.training.step import Batch, Models, Objective

CLASSES = torch.tensor([0, 0, 1, 1, 2, 2])


@pytest.fixture
def segments(make_training):
    """The segments of a coupling with random weights, and its model."""

    def draw(coupling):
        training = make_training(coupling, network={"kind": "mlp", "model_channels": 8, "num_blocks": 1})
        model = initial_state(training, ImageShape(2, 1, 0), torch.device("cpu")).model.eval()
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
        rng = torch.Generator().manual_seed(0)
        points, noise, start = torch.randn(3, 6, 2, 1, 1, generator=rng)
        objective = Objective(training.recipe, model.kernel, 2)
        coupled = Coupled(Batch(points, None), noise, torch.zeros(6))
        models = Models(model, model, None)
        drawn = list(plane(models, coupled, CLASSES, start, objective=objective, step=3))
        means = torch.stack([points[k == CLASSES].mean(0) for k in range(3)])
        return {part: [s for s in drawn if s.part == part] for part in ("sample", "pair", "posterior")}, (
            model,
            means,
            coupled,
        )

    return draw


def ends(segments):
    return torch.tensor([segment[2:] for segment in segments])


@pytest.mark.parametrize("coupling", ["vae", "vae_generator"])
def test_posterior_is_that_of_the_encoder_at_the_mean_of_each_class(segments, coupling):
    drawn, (model, means, _) = segments(coupling)
    mean, std = model.coupling.posterior(means, None)
    expected = torch.cat([mean.flatten(1), std.flatten(1)], dim=1).detach()
    torch.testing.assert_close(ends(drawn["posterior"]), expected)
    assert (expected - torch.tensor([0.0, 0.0, 1.0, 1.0])).abs().max() > 0.01
    assert [segment.component for segment in drawn["posterior"]] == [0, 1, 2]


@pytest.mark.parametrize("coupling", ["independent", "ot", "generator"])
def test_posterior_is_the_prior_where_noise_does_not_depend_on_the_point(segments, coupling):
    drawn, _ = segments(coupling)
    assert ends(drawn["posterior"]).tolist() == [[0, 0, 1, 1]] * 3


def test_pairs_are_points_with_their_noise(segments):
    drawn, (_, _, coupled) = segments("independent")
    expected = torch.cat([coupled.batch.images.flatten(1), coupled.noise.flatten(1)], dim=1)
    torch.testing.assert_close(ends(drawn["pair"]), expected)
    assert [segment.component for segment in drawn["pair"]] == CLASSES.tolist()
    assert len(drawn["sample"]) == 6
