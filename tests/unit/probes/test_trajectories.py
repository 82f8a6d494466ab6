"""The probability-flow ODE against its solution where that is known, and trajectories of pairs."""

import pytest
import torch

from couplet.config.recipes import KernelConfig
from couplet.config.variants import build
from couplet.model import ImageShape
from couplet.probes.levels import Coupled
from couplet.probes.trajectories import flow, trajectories, velocity
from couplet.training.loop import initial_state
from couplet.training.step import Batch, Models, Objective

LEVELS = [0.1, 0.5, 1.0, 2.0]
FALLING = LEVELS[::-1]
CLASSES = torch.tensor([0, 1, 1])


def kernel(kind):
    return build(KernelConfig.parse(kind), sigma_min=0.002, sigma_max=4.0, sigma_data=0.5)


@pytest.mark.parametrize("kind", ["ve", "li"])
def test_a_single_point_is_reached_on_a_straight_line(kind):
    """All noise belongs to the point: x_t = signal(t) x + t z for every start."""
    data, noise = torch.tensor([[0.3, -0.2]]).double(), torch.randn(5, 2).double()
    signal = kernel(kind).signal
    points = [signal(torch.tensor(t)) * data + t * noise for t in FALLING]
    for found, expected in zip(flow(kernel(kind), data, points[0], FALLING), points, strict=True):
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


def test_a_normal_distribution_is_scaled():
    """x_t = x_T sqrt((s² + t²)/(s² + T²)) for data of standard deviation s."""
    axis = torch.special.ndtri((torch.arange(120).double() + 0.5) / 120)
    data = 0.7 * torch.cartesian_prod(axis, axis)
    start = torch.tensor([[1.5, -0.4], [0.2, 2.0]]).double()
    scales = [((0.49 + t**2) / (0.49 + 4.0)) ** 0.5 for t in FALLING]
    for found, scale in zip(flow(kernel("ve"), data, start, FALLING), scales, strict=True):
        torch.testing.assert_close(found, scale * start, atol=0.01, rtol=0)


def test_velocity_points_from_the_weighted_mean():
    """At x = 0 between points at 0 and 1, t = 1: weights 1 and exp(-1/2)."""
    data, x = torch.tensor([[0.0, 0.0], [1.0, 0.0]]).double(), torch.zeros(1, 2).double()
    weight = 1 / (1 + torch.tensor(0.5).exp())
    found = velocity(kernel("ve"), data, x, torch.tensor(1.0).double())
    assert found[0, 0] == pytest.approx(-weight)
    assert found[0, 1] == 0


@pytest.mark.parametrize("coupling", ["independent", {"kind": "generator", "mu": 1.0}])
def test_trajectories_are_those_of_the_pairs_at_each_level(make_training, coupling):
    training = make_training(coupling, network={"kind": "mlp", "model_channels": 8, "num_blocks": 1})
    model = initial_state(training, ImageShape(2, 1, 0), torch.device("cpu")).model.eval()
    points, noise = torch.randn(2, 3, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    objective = Objective(training.recipe, model.kernel, 2)
    positions = list(
        trajectories(
            Models(model, model, None),
            Coupled(Batch(points, None), noise, torch.zeros(3)),
            CLASSES,
            data=points,
            levels=LEVELS,
            objective=objective,
            step=3,
        )
    )
    assert [(each.level, each.path) for each in positions] == [
        (t, path) for t in FALLING for path in range(3)
    ]
    assert [each.component for each in positions[:3]] == CLASSES.tolist()
    for number, level in enumerate(FALLING):
        t = torch.full((3,), level)
        ends = points
        if coupling != "independent":
            ends = model(points + level * noise, t, None, boundary=training.recipe.boundary.training).detach()
        found = torch.tensor([each[3:5] for each in positions[3 * number : 3 * number + 3]])
        x = (ends + level * noise).flatten(1)
        torch.testing.assert_close(found, x)
        field = velocity(model.kernel, points.flatten(1).double(), x.double(), torch.tensor(level).double())
        deviations = torch.tensor([each.deviation for each in positions[3 * number : 3 * number + 3]])
        torch.testing.assert_close(deviations, (noise.flatten(1) - field).square().sum(1).float())
    assert all(each[3:5] == pytest.approx(each[5:7]) for each in positions[:3])
    assert any(each[3:5] != pytest.approx(each[5:7], abs=0.01) for each in positions)
