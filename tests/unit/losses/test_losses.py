"""Distances and weights against references in double precision."""

import math

import numpy as np
import pytest
import torch

from couplet.config import recipes as config
from couplet.config.variants import build
from couplet.losses import elementwise_pseudo_huber, ict_c, pseudo_huber, squared_l2

DISTANCES = {
    "squared_l2": squared_l2,
    "norm": lambda a, b: pseudo_huber(a, b, 0.0),
    "pseudo_huber": lambda a, b: pseudo_huber(a, b, 0.03),
    "elementwise": lambda a, b: elementwise_pseudo_huber(a, b, 0.03),
    "elementwise_l1": lambda a, b: elementwise_pseudo_huber(a, b, 0.0),
}


def reference(name, a, b):
    """The distances once more, image by image, in numpy's double precision."""
    found = []
    for x, y in zip(a.double().numpy(), b.double().numpy(), strict=True):
        d = (x - y).ravel()
        found.append(
            {
                "squared_l2": d @ d,
                "norm": np.sqrt(d @ d),
                "pseudo_huber": np.hypot(np.sqrt(d @ d), 0.03) - 0.03,
                "elementwise": sum(math.hypot(v, 0.03) - 0.03 for v in d),
                "elementwise_l1": np.abs(d).sum(),
            }[name]
        )
    return torch.tensor(found, dtype=torch.float64)


@pytest.fixture
def batches():
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 5, 3, 4, 4, generator=rng)
    b[0] = a[0] + 1e-3 * b[0]  # nearly equal images as well as different ones
    return a, b


@pytest.mark.parametrize("name", DISTANCES)
def test_value(name, batches):
    a, b = batches
    found = DISTANCES[name](a, b)
    assert found.shape == (5,)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), reference(name, a, b), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", DISTANCES)
def test_is_symmetric_and_positive(name, batches):
    a, b = (batch.double() for batch in batches)
    torch.testing.assert_close(DISTANCES[name](a, b), DISTANCES[name](b, a))
    assert (DISTANCES[name](a, b) > 0).all()


@pytest.mark.parametrize("name", DISTANCES)
def test_images_do_not_see_each_other(name, batches):
    a, b = batches
    whole = DISTANCES[name](a, b)
    for i in range(len(a)):
        torch.testing.assert_close(DISTANCES[name](a[i : i + 1], b[i : i + 1])[0], whole[i])


@pytest.mark.parametrize("name", DISTANCES)
def test_equal_images_have_distance_zero_and_no_gradient(name):
    a = torch.randn(2, 1, 3, 3, requires_grad=True)
    distance = DISTANCES[name](a, a.detach().clone())
    assert distance.tolist() == [0, 0]
    distance.sum().backward()
    assert torch.equal(a.grad, torch.zeros_like(a))


@pytest.mark.parametrize("name", DISTANCES)
def test_gradient_agrees_with_finite_differences(name):
    rng = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, 2, 1, 2, 3, generator=rng, dtype=torch.float64)
    assert torch.autograd.gradcheck(DISTANCES[name], (a.requires_grad_(), b))


def test_pseudo_huber_is_quadratic_near_and_linear_far():
    unit = torch.zeros(1, 4, dtype=torch.float64)
    unit[0, 0] = 1
    zero, c = torch.zeros_like(unit), 0.1
    near = pseudo_huber(1e-4 * unit, zero, c).item()
    assert near == pytest.approx(1e-8 / (2 * c), rel=1e-3)
    far = pseudo_huber(1e4 * unit, zero, c).item()
    assert far == pytest.approx(1e4 - c, rel=1e-8)
    assert elementwise_pseudo_huber(1e-4 * unit, zero, c).item() == pytest.approx(near)


def test_elementwise_version_is_another_distance():
    """For D equal differences d >> c: about D d against sqrt(D) d."""
    a, b = torch.ones(1, 4, 4, dtype=torch.float64), torch.zeros(1, 4, 4, dtype=torch.float64)
    ratio = elementwise_pseudo_huber(a, b, 1e-6) / pseudo_huber(a, b, 1e-6)
    assert ratio.item() == pytest.approx(4, rel=1e-4)


@pytest.mark.parametrize(
    ("values", "wanted"), [(3 * 32 * 32, 0.02993), (3 * 64 * 64, 0.05986), (28 * 28, 0.01512)]
)
def test_published_constants(values, wanted):
    assert ict_c(values) == pytest.approx(wanted, abs=5e-6)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (config.SquaredL2Config(), "squared_l2"),
        (config.PseudoHuberConfig(c=0.03), "pseudo_huber"),
        (config.PseudoHuberConfig(c=0.0), "norm"),
        (config.ElementwisePseudoHuberConfig(c=0.03), "elementwise"),
    ],
)
def test_configured_distance(settings, name, batches):
    found = build(settings, dimensions=48)(*batches)
    torch.testing.assert_close(found.double(), reference(name, *batches), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "function"),
    [
        (config.PseudoHuberConfig(), pseudo_huber),
        (config.ElementwisePseudoHuberConfig(), elementwise_pseudo_huber),
    ],
)
def test_default_constant_grows_with_the_image(settings, function, batches):
    for dimensions in (48, 3072):
        distance = build(settings, dimensions=dimensions)(*batches)
        assert torch.equal(distance, function(*batches, 0.00054 * math.sqrt(dimensions)))


T = torch.tensor([0.004, 0.5, 2.0, 80.0], dtype=torch.float64)
R = torch.tensor([0.002, 0.0, 1.5, 40.0], dtype=torch.float64)

INVERSE_GAP, KARRAS, UNIFORM = (
    build(config.WeightingConfig.parse(kind), sigma_data=0.5) for kind in ("inverse_gap", "karras", "uniform")
)


def test_weights_by_hand():
    assert INVERSE_GAP(T, R).tolist() == pytest.approx([500, 2, 2, 0.025])
    assert KARRAS(T, R).tolist() == pytest.approx([62504, 8, 4.25, 4 + 1 / 6400])
    assert UNIFORM(T, R).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("weighting", [INVERSE_GAP, KARRAS, UNIFORM])
def test_weights_are_positive_and_one_per_pair(weighting):
    t = torch.logspace(-2.7, 1.9, 50)
    weight = weighting(t, 0.9 * t)
    assert weight.shape == (50,)
    assert ((weight > 0) & torch.isfinite(weight)).all()


def test_karras_weight_is_the_inverse_square_of_c_out():
    """EDM: the weight makes the effective training target of unit weight at every level."""
    c_out = T * 0.5 / torch.sqrt(T**2 + 0.25)
    torch.testing.assert_close(KARRAS(T, R), 1 / c_out**2)


def test_penalty_scale():
    assert INVERSE_GAP.penalty_scale(80.0, 40.0) == pytest.approx(1 / 40)
    assert KARRAS.penalty_scale(80.0, 40.0) == 1
    assert UNIFORM.penalty_scale(80.0, 40.0) == 1


def test_karras_weight_takes_the_recipes_sigma_data():
    weighting = build(config.KarrasConfig(), sigma_data=0.7)
    torch.testing.assert_close(weighting(T, R), 1 / T**2 + 1 / 0.49)
