"""One training step: the place where schedule, coupling, kernel, model and loss meet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from couplet import losses, schedules
from couplet.config.recipes import Boundary, Recipe
from couplet.couplings import Pair, Predictors
from couplet.kernels import Kernel
from couplet.model import ConsistencyModel
from couplet.tensors import default_stream, per_image
from couplet.training.masks import shared_masks

Phase = Callable[[str], AbstractContextManager[object]]
"""Called with the name of a part of a step, for a context that it runs in: a clock, a profiler's mark."""


@dataclass(frozen=True)
class Objective:
    """A recipe's loss, ready to be applied to images of one size."""

    kernel: Kernel
    schedule: schedules.Schedule
    distance: losses.Distance
    weighting: losses.Weighting
    boundary: Boundary
    ema_teacher: bool
    total_steps: int
    masks_once: bool = False
    """Whether the teacher is given the student's dropout masks instead of drawing them again."""


def build_objective(recipe: Recipe, kernel: Kernel, values: int) -> Objective:
    """The recipe's objective for images of ``values`` = c h w values."""
    return Objective(
        kernel=kernel,
        schedule=schedules.build(recipe, max_level=kernel.max_level),
        distance=losses.build_distance(recipe.distance, values),
        weighting=losses.build_weighting(recipe),
        boundary=recipe.boundary,
        ema_teacher=recipe.teacher == "ema",
        total_steps=recipe.steps,
    )


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
        """Those of some images, the ``number``-th part of the batch, with dropout masks of its own."""
        t, r, noise, uniform = (values[rows] for values in self[:4])
        return Draws(t, r, noise, uniform, self.dropout_seed + 2 * number)


class Terms(NamedTuple):
    """The loss and what it is made of."""

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


def consistency_loss(
    model: ConsistencyModel,
    ema: ConsistencyModel,
    frozen: ConsistencyModel | None,
    images: Tensor,
    labels: Tensor | None,
    draws: Draws,
    *,
    objective: Objective,
    step: int,
    phase: Phase = nullcontext,
) -> Terms:
    """The consistency-training loss of one batch, or of a part of one, at 0-based step k.

    ``mean_b( w(t, r) d( f(x_t, t), sg f(x_r, r) ) + scale penalty )`` (iCT, VCT): x_t
    and x_r are one coupled (data, noise) pair at two noise levels. The teacher is the model itself
    without gradient, sees the same dropout mask, and is replaced by the data where r = 0, as
    f(x, 0) = x.

    Args:
        model: the model in training, in training mode.
        ema: its running average; used by couplings, and as teacher if the objective says so.
        frozen: a pre-trained model for couplings that want one.
        images: clean images in [-1, 1], [b, c, h, w].
        labels: one-hot classes [b, k], or None.
        draws: the step's randomness.
        objective: the recipe's loss.
        step: k, which the curriculum depends on.
        phase: told what is going on.
    """
    t, r, device = draws.t, draws.r, images.device
    kernel = objective.kernel
    with phase("coupling"), default_stream(device, draws.dropout_seed + 1):
        pair = couple(
            model,
            ema,
            frozen,
            images,
            labels,
            draws.noise,
            level=objective.schedule.coupling_level(t, r),
            uniform=draws.uniform,
            objective=objective,
            step=step,
        )
    drawn, drawn_again = shared_masks(device, draws.dropout_seed, once=objective.masks_once)
    with phase("student"), drawn:
        x_t = kernel.noise(pair.data, pair.noise, t)
        student = model(x_t, t, pair.labels, boundary=objective.boundary.training)
    teacher = ema if objective.ema_teacher else model
    # An averaged teacher has the student's dropout too; otherwise it stays in evaluation mode.
    with phase("teacher"), drawn_again, _in_mode(teacher, model.training):
        target = _denoise(teacher, objective, pair.data, pair.noise, r, pair.labels)
    distance = objective.distance(student, target)
    weight = objective.weighting(t, r)
    scale = objective.weighting.penalty_scale(*objective.schedule.last_pair(step))
    loss = (weight * distance + scale * pair.penalty).mean()
    return Terms(loss, distance, weight, pair.penalty, scale)


def couple(
    model: ConsistencyModel,
    ema: ConsistencyModel,
    frozen: ConsistencyModel | None,
    images: Tensor,
    labels: Tensor | None,
    noise: Tensor,
    *,
    level: Tensor,
    uniform: Tensor,
    objective: Objective,
    step: int,
) -> Pair:
    """The pairs that the coupling of ``model`` makes of a batch at 0-based step k.

    Args:
        model: whose coupling it is; it predicts, where the coupling asks for it, in the mode that it is in.
        ema: its running average.
        frozen: a pre-trained model for couplings that want one.
        images: clean images in [-1, 1], [b, c, h, w].
        labels: one-hot classes [b, k], or None.
        noise: as the coupling arranged it, [b, c, h, w].
        level: noise levels at which a data end is made, [b].
        uniform: in [0, 1), for couplings that choose at random, [b].
        objective: the recipe's loss.
        step: k, which the share of generator-induced pairs depends on.
    """
    online, average = partial(_denoise, model, objective), partial(_denoise, ema, objective)
    pretrained = None if frozen is None else partial(_denoise, frozen, objective)
    pair: Pair = model.coupling(
        images,
        noise,
        labels,
        level=level,
        predictors=Predictors(online, average, pretrained),
        progress=step / objective.total_steps,
        uniform=uniform,
    )
    return pair


@contextmanager
def _in_mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Training or evaluation mode inside the block; walks the module only where that is a change."""
    if module.training == training:
        yield
        return
    module.train(training)
    try:
        yield
    finally:
        module.train(not training)


@torch.no_grad()
def _denoise(
    source: ConsistencyModel,
    objective: Objective,
    data: Tensor,
    noise: Tensor,
    level: Tensor,
    labels: Tensor | None,
) -> Tensor:
    """f(x_r, r), and the data itself where r = 0, without evaluating the network at ln 0."""
    clean = level == 0
    if clean.all():
        return data.detach()
    noisy = objective.kernel.noise(data, noise, level)
    level = torch.where(clean, torch.ones_like(level), level)
    answer = source(noisy, level, labels, boundary=objective.boundary.training)
    return torch.where(per_image(clean, answer), data.to(answer.dtype), answer)
