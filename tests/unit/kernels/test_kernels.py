"""Kernels: the noisy image and the preconditioning that belongs to it."""

import math

import pytest
import torch

from couplet.config.recipes import LinearInterpolationConfig, VarianceExplodingConfig
from couplet.config.variants import build
from couplet.kernels import LinearInterpolation, VarianceExploding, time_embedding_input

SIGMA_MIN, SIGMA_MAX, SIGMA_DATA = 0.002, 80.0, 0.5
KINDS = [VarianceExploding, LinearInterpolation]
LEVELS = torch.tensor([0.002, 0.01, 0.3, 0.821, 5.0, 40.0, 80.0], dtype=torch.float64)


CONFIGS = {VarianceExploding: VarianceExplodingConfig(), LinearInterpolation: LinearInterpolationConfig()}


def make(kind, sigma_data=SIGMA_DATA, *, sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX):
    return build(CONFIGS[kind], sigma_min=sigma_min, sigma_max=sigma_max, sigma_data=sigma_data)


def factor(kind, t):
    return 1.0 if kind is VarianceExploding else 1 - t / SIGMA_MAX


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_signal_times_image_plus_level_times_noise(kind):
    x, z = torch.randn(2, 7, 3, 4, 4, dtype=torch.float64)
    noisy = make(kind).noise(x, z, LEVELS)
    for i, t in enumerate(LEVELS.tolist()):
        torch.testing.assert_close(noisy[i], factor(kind, t) * x[i] + t * z[i])


@pytest.mark.parametrize("kind", KINDS)
def test_one_level_serves_the_whole_batch(kind):
    x, z = torch.randn(2, 5, 1, 2, 2)
    kernel = make(kind)
    one = kernel.noise(x, z, torch.tensor([0.7]))
    assert torch.equal(one, kernel.noise(x, z, torch.full((5,), 0.7)))
    assert one.shape == x.shape


@pytest.mark.parametrize("kind", KINDS)
def test_noise_at_level_zero_is_the_image(kind):
    x, z = torch.randn(2, 3, 1, 2, 2)
    assert torch.equal(make(kind).noise(x, z, torch.zeros(3)), x)


def test_linear_interpolation_has_no_signal_at_sigma_max():
    z = torch.randn(2, 1, 3, 3)
    kernel = make(LinearInterpolation)
    t = torch.tensor([SIGMA_MAX])
    near, far = (kernel.noise(torch.full_like(z, value), z, t) for value in (-1.0, 1.0))
    assert torch.equal(near, far)
    torch.testing.assert_close(near, SIGMA_MAX * z)


def test_largest_level():
    assert make(VarianceExploding).max_level == math.inf
    assert make(LinearInterpolation).max_level == SIGMA_MAX


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_shifted_model_is_the_identity_at_sigma_min(kind, dtype):
    t = torch.tensor([SIGMA_MIN, SIGMA_MIN], dtype=dtype)
    scale = make(kind).scalings(t, boundary=True)
    assert scale.c_skip.tolist() == [1, 1]
    # sigma_min itself is not a float32: the rounding of t is all that may be left.
    assert scale.c_out.abs().max() < 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_unshifted_model_is_not_the_identity_at_sigma_min(kind):
    scale = make(kind).scalings(torch.tensor([SIGMA_MIN], dtype=torch.float64), boundary=False)
    assert scale.c_out.item() == pytest.approx(SIGMA_MIN, rel=1e-3)


@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
@pytest.mark.parametrize("boundary", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_c_in_gives_the_network_unit_variance(kind, boundary, sigma_data):
    rng = torch.Generator().manual_seed(0)
    n = 200_000
    x = sigma_data * torch.randn(1, n, generator=rng, dtype=torch.float64)
    z = torch.randn(1, n, generator=rng, dtype=torch.float64)
    kernel = make(kind, sigma_data)
    for t in LEVELS.split(1):
        c_in = kernel.scalings(t, boundary=boundary).c_in
        seen = c_in * kernel.noise(x, z, t)
        assert seen.std().item() == pytest.approx(1, abs=0.01)


def test_unshifted_variance_exploding_is_edm():
    t, sd = LEVELS, SIGMA_DATA
    c_skip, c_out, c_in = make(VarianceExploding).scalings(t, boundary=False)
    torch.testing.assert_close(c_skip, sd**2 / (t**2 + sd**2))
    torch.testing.assert_close(c_out, t * sd / torch.sqrt(t**2 + sd**2))
    torch.testing.assert_close(c_in, 1 / torch.sqrt(t**2 + sd**2))


@pytest.mark.parametrize("kind", KINDS)
def test_unshifted_model_is_the_best_linear_denoiser_with_unit_target(kind):
    """EDM's principles: c_skip x_t is E[x|x_t] for Gaussian data, and the rest has unit variance."""
    kernel = make(kind)
    scale = kernel.scalings(LEVELS, boundary=False)
    a = torch.tensor([factor(kind, t) for t in LEVELS.tolist()], dtype=torch.float64)
    variance = a**2 * SIGMA_DATA**2 + LEVELS**2
    covariance = a * SIGMA_DATA**2
    torch.testing.assert_close(scale.c_skip, covariance / variance)
    residual = SIGMA_DATA**2 - covariance**2 / variance
    torch.testing.assert_close(scale.c_out**2, residual)


def test_shifted_coefficients_by_hand():
    """At t = 1 of sigma_min = 0.5, sigma_max = 2, sigma_data = 0.5."""
    t = torch.tensor([1.0], dtype=torch.float64)
    exploding, linear = (make(kind, 0.5, sigma_min=0.5, sigma_max=2) for kind in KINDS)
    c_skip, c_out, c_in = (s.item() for s in exploding.scalings(t, boundary=True))
    assert (c_skip, c_in) == pytest.approx((0.25 / 0.5, 1.25**-0.5))
    assert c_out == pytest.approx(0.5 * 0.5 * 1.25**-0.5)
    c_skip, c_out, c_in = (s.item() for s in linear.scalings(t, boundary=True))
    c_in_wanted = (0.25 * 0.25 + 1) ** -0.5  # the signal of c_in is not shifted
    assert c_in == pytest.approx(c_in_wanted)
    assert c_skip == pytest.approx(0.25 * (2 / 3) / (0.25 + 0.25 * 4 / 9))
    assert c_out == pytest.approx(0.5 * 0.5 * c_in_wanted)


@pytest.mark.parametrize("boundary", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1,), (5,)])
@pytest.mark.parametrize("kind", KINDS)
def test_scalings_have_shape_and_type_of_the_levels(kind, shape, dtype, boundary):
    for value in make(kind).scalings(torch.full(shape, 0.7, dtype=dtype), boundary=boundary):
        assert (value.shape, value.dtype) == (shape, dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_keeps_float32(kind):
    x, z = torch.randn(2, 3, 1, 2, 2)
    assert make(kind).noise(x, z, torch.rand(3)).dtype == torch.float32


def test_network_is_told_a_quarter_of_the_logarithm():
    t = torch.tensor([1.0, math.e**4, math.e**-2])
    torch.testing.assert_close(time_embedding_input(t), torch.tensor([0.0, 1.0, -0.5]))
