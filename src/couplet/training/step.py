"""The loss of one training step, from schedule, coupling, kernel and model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from couplet.config.recipes import Recipe
from couplet.config.variants import build
from couplet.couplings.base import Pair, Predictor, Predictors
from couplet.kernels import Kernel
from couplet.losses import Distance, Weighting
from couplet.model import ConsistencyModel
from couplet.schedules import Schedule
from couplet.tensors import default_stream, per_image


class Models(NamedTuple):
    """The models that a step evaluates."""

    online: ConsistencyModel
    """In training."""
    ema: ConsistencyModel
    """Its running average, which samples come from: a predictor for couplings."""
    frozen: ConsistencyModel | None
    """A finished model, for couplings whose predictor is frozen."""
    target: ConsistencyModel | None = None
    """Its running average for the teacher alone, where the recipe has `teacher: target` (CM)."""


class Batch(NamedTuple):
    """Training images."""

    images: Tensor
    """Clean images in [-1, 1], [b, c, h, w]."""
    labels: Tensor | None
    """One-hot classes [b, k], or None."""

    def rows(self, chosen: slice) -> Batch:
        """Some of the images, with their labels."""
        return Batch(self.images[chosen], None if self.labels is None else self.labels[chosen])


def schedule_of(recipe: Recipe, kernel: Kernel) -> Schedule:
    """The recipe's schedule for the noise levels of ``kernel``."""
    schedule: Schedule = build(
        recipe.schedule,
        sigma_min=recipe.sigma_min,
        sigma_max=recipe.sigma_max,
        max_level=kernel.max_level,
        total_steps=recipe.steps,
    )
    return schedule


class Objective:
    """A recipe's loss for images of D = ``dimensions`` = c h w."""

    def __init__(self, recipe: Recipe, kernel: Kernel, dimensions: int) -> None:
        self.recipe, self.kernel = recipe, kernel
        self.schedule = schedule_of(recipe, kernel)
        self.distance: Distance = build(recipe.distance, dimensions=dimensions)
        self.weighting: Weighting = build(recipe.weighting, sigma_data=recipe.sigma_data)


class Draws(NamedTuple):
    """All randomness of a step."""

    t: Tensor
    """Student's noise levels, [b]."""
    r: Tensor
    """Teacher's noise levels, t > r >= 0, [b]."""
    noise: Tensor
    """Standard normal as the coupling arranged it, [b, c, h, w]."""
    uniform: Tensor
    """In [0, 1), for couplings that choose at random, [b]."""
    dropout_seed: int
    """Student and teacher draw their dropout masks from this seed, the coupling from the next."""

    def part(self, number: int, rows: slice) -> Draws:
        """The draws of the rows of the ``number``-th part of the batch, with dropout masks of its own."""
        t, r, noise, uniform = (tensor[rows] for tensor in (self.t, self.r, self.noise, self.uniform))
        return Draws(t, r, noise, uniform, dropout_seed=self.dropout_seed + 2 * number)


class Terms(NamedTuple):
    """The loss and its terms, which have no gradient."""

    loss: Tensor
    """Scalar, with gradient."""
    distance: Tensor
    """Unweighted distance per image, [b]."""
    weight: Tensor
    """Weight of each pair of noise levels, [b]."""
    penalty: Tensor
    """The coupling's penalty per image before ``penalty_scale``, [b]."""
    penalty_scale: float
    """Factor on the penalty at this step."""

    @classmethod
    def joined(cls, parts: Sequence[Terms]) -> Terms:
        """The terms of a batch from those of its parts, whose losses add up to the mean."""
        loss = torch.stack([part.loss for part in parts]).sum()
        distance, weight, penalty = map(torch.cat, zip(*(part[1:4] for part in parts), strict=True))
        return cls(loss, distance, weight, penalty, penalty_scale=parts[0].penalty_scale)


def consistency_loss(models: Models, batch: Batch, draws: Draws, *, objective: Objective, step: int) -> Terms:
    """Compute the consistency-training loss of a batch, or of a part of one, at 0-based step k.

    ``mean_b( w(t, r) d( f(x_t, t), sg f(x_r, r) ) + scale penalty )`` (iCT, VCT): x_t
    and x_r are one coupled (data, noise) pair at two noise levels. The teacher is the model itself, or the
    recipe's average of it, without gradient and under the same dropout mask; at r = 0 it is replaced by the
    data, since f(x, 0) = x.
    """
    t, r, device = draws.t, draws.r, batch.images.device
    with record_function("coupling"), default_stream(device, draws.dropout_seed + 1):
        level = objective.schedule.coupling_level(t, r)
        pair = couple(
            models, batch, draws.noise, level=level, uniform=draws.uniform, objective=objective, step=step
        )
    teacher: ConsistencyModel = getattr(models, objective.recipe.teacher)
    # First, while no activations are kept; an averaged teacher has the student's dropout masks as well.
    with (
        record_function("teacher"),
        default_stream(device, draws.dropout_seed),
        _in_mode(teacher, models.online.training),
    ):
        if objective.schedule.always_zero:
            target = pair.data.detach()
        else:
            target = _predictor(teacher, objective)(pair.data, pair.noise, r, pair.labels)
    with record_function("student"), default_stream(device, draws.dropout_seed):
        x_t = objective.kernel.noise(pair.data, pair.noise, t)
        student = models.online(x_t, t, pair.labels, boundary=objective.recipe.boundary.training)
    distance = objective.distance(student, target)
    weight = objective.weighting(t, r)
    scale = objective.weighting.penalty_scale(*objective.schedule.last_pair(step))
    loss = (weight * distance + scale * pair.penalty).mean()
    return Terms(loss, distance.detach(), weight, penalty=pair.penalty.detach(), penalty_scale=scale)


def couple(
    models: Models,
    batch: Batch,
    noise: Tensor,
    *,
    level: Tensor,
    uniform: Tensor,
    objective: Objective,
    step: int,
) -> Pair:
    """Pair a batch with noise by the coupling of the online model, at 0-based step k.

    The predictors are ``models``, each in its present mode; the rest is as in :meth:`Coupling.forward`.
    """
    online, average = (_predictor(model, objective) for model in models[:2])
    frozen = None if models.frozen is None else _predictor(models.frozen, objective)
    return models.online.coupling(
        batch.images,
        noise,
        batch.labels,
        level=level,
        predictors=Predictors(online, average, frozen),
        progress=step / objective.recipe.steps,
        uniform=uniform,
    )


@contextmanager
def _in_mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Set training or evaluation mode inside the block, without a traversal if it is set already."""
    if module.training == training:
        yield
        return
    module.train(training)
    try:
        yield
    finally:
        module.train(not training)


def _predictor(model: ConsistencyModel, objective: Objective) -> Predictor:
    """f(x_r, r) of ``model`` without gradient; the data itself where r = 0, since ln(r)/4 has no value."""
    boundary = objective.recipe.boundary.training

    @torch.no_grad()
    def predict(data: Tensor, noise: Tensor, level: Tensor, labels: Tensor | None) -> Tensor:
        noisy = objective.kernel.noise(data, noise, level)
        if not objective.schedule.reaches_zero:
            return model(noisy, level, labels, boundary=boundary)
        clean = level == 0
        # A GPU evaluates images at level 0 with the others: to look at its levels is to wait for it.
        if not level.is_cuda and clean.all():
            return data.detach()
        level = torch.where(clean, torch.ones_like(level), level)
        answer = model(noisy, level, labels, boundary=boundary)
        return torch.where(per_image(clean, answer), data.to(answer.dtype), answer)

    return predict
