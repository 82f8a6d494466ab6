"""Transport cost and regulariser of pairs whose ends and velocities are known."""

import pytest
import torch

from couplet.config.recipes import KernelConfig, Recipe
from couplet.config.variants import build
from couplet.couplings.base import Coupling, Pair
from couplet.model import ImageShape
from couplet.probes.levels import Coupled, estimates, regulariser, transport_cost
from couplet.training.loop import initial_state
from couplet.training.step import Batch, Models, Objective

LEVELS = (0.1, 1.0, 8.0)
CPU = torch.device("cpu")


def batches(count=3, size=4, uniform=0.0):
    rng = torch.Generator().manual_seed(0)
    for _ in range(count):
        images, noise = torch.randn(2, size, 1, 8, 8, generator=rng)
        yield Coupled(Batch(images, None), noise, torch.full((size,), uniform))


def ends(**options):
    """Images and noise of the same batches."""
    return [(batch.images, noise) for batch, noise, _ in batches(**options)]


def signs(**options):
    """The same batches, of pixels that are 1 or -1."""
    return [
        coupled._replace(batch=Batch(coupled.batch.images.sign(), None)) for coupled in batches(**options)
    ]


def made(training):
    """A trained model, with weights that are not zero, and its objective."""
    model = initial_state(training, ImageShape(1, 8, 0), CPU).model.eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return model, Objective(training.recipe, model.kernel, 64)


def alone(model, frozen=None):
    """A finished model is its own average."""
    return Models(model, model, frozen)


def kernel_of(kind):
    return build(KernelConfig.parse(kind), sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)


def squared(a, b):
    return (a - b).flatten(1).square().sum(1).double()


def test_estimate_is_mean_and_standard_error_over_all_images(make_training):
    model, objective = made(make_training())
    found = estimates(transport_cost, alone(model), batches(), LEVELS, objective=objective, step=0)
    costs = torch.cat([squared(images, noise) for images, noise in ends()])
    assert [estimate.level for estimate in found] == list(LEVELS)
    for estimate in found:
        assert estimate.mean == pytest.approx(costs.mean().item(), rel=1e-5)
        assert estimate.std_error == pytest.approx((costs.var() / 12).sqrt().item(), rel=1e-5)


def test_cost_of_the_variational_coupling_is_that_of_its_own_noise(make_training):
    model, objective = made(make_training("vae"))
    found = estimates(transport_cost, alone(model), batches(), LEVELS, objective=objective, step=0)
    costs = []
    for images, noise in ends():
        mean, std = model.coupling.posterior(images, None)
        costs.append(squared(images, mean + std * noise))
    for estimate in found:
        assert estimate.mean == pytest.approx(torch.cat(costs).mean().item(), rel=1e-5)


@pytest.mark.parametrize("predictor", ["ema", "online", "frozen"])
def test_cost_of_generated_ends_is_that_of_the_level(make_training, predictor):
    """``||f(x + t z, t) - z||²``, where f is the model itself or the frozen one."""
    coupling = {"kind": "generator", "mu": 0.3, "predictor": predictor}
    training = make_training(coupling, frozen_from="x")
    model, objective = made(training)
    frozen, _ = made(training)
    frozen.requires_grad_(False)
    for parameter in frozen.parameters():
        parameter.mul_(0.5)
    source = frozen if predictor == "frozen" else model
    found = estimates(transport_cost, alone(model, frozen), batches(), LEVELS, objective=objective, step=3)
    for estimate, level in zip(found, LEVELS, strict=True):
        t = torch.full((4,), level)
        costs = [
            squared(source(images + level * noise, t, None, boundary=True), noise) for images, noise in ends()
        ]
        assert estimate.mean == pytest.approx(torch.cat(costs).mean().item(), rel=1e-4)
    # A draw above mu leaves the image, at every level.
    as_drawn = estimates(
        transport_cost, alone(model, frozen), batches(uniform=0.9), LEVELS, objective=objective, step=3
    )
    assert len({estimate.mean for estimate in as_drawn}) == 1


class Signs(torch.nn.Module):
    """The best denoiser of pixels that are 1 or -1 independently of their noise."""

    def __init__(self, kernel, coupling):
        super().__init__()
        self.kernel, self.coupling = kernel, coupling

    def forward(self, x, t, labels, *, boundary):
        t = t[:, None, None, None]
        return torch.tanh(self.kernel.signal(t) * x / t**2)


class Plain(Coupling):
    def forward(self, images, noise, labels, **context):
        return Pair(images, noise, labels, images.new_zeros(len(images)))


def objective_of(kernel):
    recipe = {"network": {"kind": "ddpmpp"}, "schedule": {"kind": "denoising"}, "steps": 10}
    return Objective(Recipe.model_validate(recipe), kernel, 64)


@pytest.mark.parametrize("name", ["ve", "li"])
def test_regulariser_is_the_distance_from_the_mean_velocity(name):
    """By its definition: dx_t/dt by differences, its mean from E[x | x_t] and E[z | x_t]."""
    kernel = kernel_of(name)
    model = Signs(kernel, Plain())
    coupled = signs(count=5, size=20)
    found = estimates(regulariser, alone(model), coupled, LEVELS, objective=objective_of(kernel), step=0)
    for estimate, level in zip(found, LEVELS, strict=True):
        values = []
        for batch, noise, _ in coupled:
            x, z = batch.images.double(), noise.double()

            def path(t, x=x, z=z):
                return kernel.signal(t) * x + t * z

            t = torch.tensor(level, dtype=torch.float64)
            noisy, velocity = path(t), (path(t + 1e-3) - path(t - 1e-3)) / 2e-3
            slope = 0.0 if name == "ve" else -1 / 80
            mean_x = torch.tanh(kernel.signal(t) * noisy / t**2)
            mean_z = (noisy - kernel.signal(t) * mean_x) / t
            values.append(squared(velocity, slope * mean_x + mean_z))
        assert estimate.mean == pytest.approx(torch.cat(values).mean().item(), rel=1e-3, abs=1e-9)


def test_regulariser_of_signs_falls_to_that_of_the_noise_alone():
    """At large t x_t says nothing of x: ``E||x||²/t²``."""
    kernel = kernel_of("ve")
    models = alone(Signs(kernel, Plain()))
    [estimate] = estimates(regulariser, models, signs(), [80.0], objective=objective_of(kernel), step=0)
    assert estimate.mean == pytest.approx(64 / 80**2, rel=1e-2)


def test_regulariser_counts_pairs_as_they_were_drawn(make_training):
    """With mu between 0 and 1 a pair may keep its image, as in the denoiser's training."""
    training = make_training(
        {"kind": "generator", "mu": 0.5, "predictor": "frozen"},
        frozen_from="x",
        schedule={"kind": "denoising"},
    )
    model, objective = made(training)
    models = alone(model, made(training)[0])
    one, other = (
        estimates(regulariser, models, batches(uniform=uniform), [1.0], objective=objective, step=0)[0].mean
        for uniform in (0.1, 0.9)
    )
    miss = [
        squared(model(images + noise, torch.ones(4), None, boundary=True).detach(), images)
        for images, noise in ends()
    ]
    assert other == pytest.approx(torch.cat(miss).mean().item(), rel=1e-4)
    assert one != pytest.approx(other, rel=1e-2)
