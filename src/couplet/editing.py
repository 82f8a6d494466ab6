"""Images made from others without training (CM, section 4.4 and Algorithm 4).

An edit keeps what is known of an image and lets the model make the rest. What is known is an orthogonal
projection P of the image: some pixels, the grey value of each, the mean of each block. After every
evaluation the known part of the result is put back: ``x + P(y - x)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from couplet.errors import UserError
from couplet.library import Labels, Model
from couplet.schedules import karras_level

Projection = Callable[[Tensor], Tensor]
"""Orthogonal projection of images [n, c, h, w] to what is known of them."""

LUMA = (0.2989, 0.5870, 0.1140)
"""Weights of red, green and blue in a grey value (ITU-R BT.601; CM, Algorithm 4)."""


def inpaint(
    model: Model,
    images: ArrayLike,
    known: ArrayLike,
    *,
    steps: int = 20,
    seed: int = 0,
    labels: Labels | None = None,
) -> NDArray[np.uint8]:
    """Fill in the pixels that are not known.

    Args:
        images: uint8 [n, h, w, c], or [h, w, c] for one; the unknown pixels may hold anything.
        known: bool [h, w] or [n, h, w], true where the pixel is kept.
        steps: network evaluations; one more than the number of re-noisings.
        seed: decides the noise; image i has that of sample i.
        labels: classes for a conditional model, as in :meth:`Model.sample`.

    Returns:
        uint8 [n, h, w, c]; known pixels are those of ``images``.

    Raises:
        UserError: the shapes do not fit the model.
    """
    given = model.tensor(images)
    mask = np.asarray(known)
    shapes = given.shape[2:], (given.shape[0], *given.shape[2:])
    if mask.dtype != np.bool_ or mask.shape not in shapes:
        allowed = " or ".join(str(list(shape)) for shape in shapes)
        raise UserError(f"known: {mask.dtype}{list(mask.shape)}, must be bool of shape {allowed}")
    kept = torch.from_numpy(mask).to(given.device).reshape(-1, 1, *given.shape[2:])
    return _restore(model, given, lambda x: x * kept, steps=steps, seed=seed, labels=labels)


def colourise(
    model: Model, images: ArrayLike, *, steps: int = 20, seed: int = 0, labels: Labels | None = None
) -> NDArray[np.uint8]:
    """Give colours to grey images, uint8 [n, h, w] or [h, w]; other arguments as in :func:`inpaint`.

    Raises:
        UserError: the model does not make colour images, or the shapes do not fit it.
    """
    if model.channels != 3:
        raise UserError(f"{model.source}: makes images of {model.channels} channels; colours need 3")
    grey = np.asarray(images)
    given = model.tensor(np.repeat(grey[..., None], 3, axis=-1))
    weights = torch.tensor(LUMA, dtype=given.dtype, device=given.device).reshape(1, 3, 1, 1)
    direction = weights / weights.norm()
    # Weights sum to 1 up to 1e-4: a grey value v has the coordinate v sum(w)/|w| along the direction.
    return _restore(
        model,
        given,
        lambda x: (x * direction).sum(1, keepdim=True) * direction,
        steps=steps,
        seed=seed,
        labels=labels,
    )


def super_resolve(
    model: Model, images: ArrayLike, *, steps: int = 20, seed: int = 0, labels: Labels | None = None
) -> NDArray[np.uint8]:
    """Make images of the model's resolution whose block means are ``images``, but for rounding and clamping.

    Args:
        model, steps, seed, labels: as in :func:`inpaint`.
        images: uint8 [n, h, w, c] or [h, w, c]; the model's resolution is a multiple of h = w.

    Raises:
        UserError: it is not, or the channels differ.
    """
    small = np.asarray(images)
    small = small[None] if small.ndim == 3 else small
    side = small.shape[1] if small.ndim == 4 else 0
    if small.ndim != 4 or side < 1 or small.shape[2] != side or model.resolution % side:
        given, allowed = f"{small.dtype}{list(small.shape)}", f"of a side that divides {model.resolution}"
        raise UserError(f"images: {given}, must be square, {allowed}")
    block = model.resolution // side
    large = model.tensor(small.repeat(block, axis=1).repeat(block, axis=2))

    def means(x: Tensor) -> Tensor:
        return F.interpolate(F.avg_pool2d(x, block), scale_factor=block)

    return _restore(model, large, means, steps=steps, seed=seed, labels=labels)


def interpolate(
    model: Model, first: int, second: int, count: int = 8, *, seed: int = 0, labels: Labels | None = None
) -> NDArray[np.uint8]:
    """Images between two samples of one evaluation, uint8 [count, h, w, c].

    The noises of the samples ``first`` and ``second`` of :meth:`Model.sample` with the same ``seed`` are
    interpolated spherically (CM, section 4.4): ``sin((1 - a) w)/sin(w) z1 + sin(a w)/sin(w) z2``.

    Raises:
        UserError: a number is negative, or ``count`` below 2.
    """
    if min(first, second) < 0 or count < 2:
        raise UserError(f"first, second, count = {first}, {second}, {count}: must be >= 0, >= 0 and >= 2")
    ends = torch.cat([model.noise(seed, range(each, each + 1)) for each in (first, second)]).double()
    one, two = ends.flatten(1)
    angle = torch.arccos((one @ two / (one.norm() * two.norm())).clamp(-1, 1))
    a = torch.linspace(0, 1, count, dtype=torch.float64, device=ends.device)
    if angle.sin().abs() < 1e-6:  # the same sample twice
        weights = torch.stack([1 - a, a])
    else:
        weights = torch.stack([torch.sin((1 - a) * angle), torch.sin(a * angle)]) / torch.sin(angle)
    noise = torch.einsum("en,echw->nchw", weights, ends)
    level = model.levels[0]
    return model.pixels(model.denoise(level * noise, level, labels))


def _levels(model: Model, steps: int) -> Iterator[float]:
    """Noise levels from sigma_max down, without sigma_min."""
    if steps < 1:
        raise UserError(f"steps = {steps}: must be at least 1")
    return (karras_level(i, steps + 1, model.sigma_min, model.levels[0]) for i in range(steps))


def _restore(
    model: Model, given: Tensor, project: Projection, *, steps: int, seed: int, labels: Labels | None
) -> NDArray[np.uint8]:
    """Images whose projection is that of ``given`` [n, c, h, w], from alternate noising and denoising."""
    known = project(given)
    images = known
    for number, level in enumerate(_levels(model, steps)):
        noise = model.noise(seed, range(len(given)), evaluation=number)
        # CM adds up to the noise that is left at sigma_min; without it in the first step.
        scale = level if number == 0 else math.sqrt(level**2 - model.sigma_min**2)
        images = model.denoise(model.signal(level) * images + scale * noise, level, labels)
        images = images + project(known - images)
    return model.pixels(images)
