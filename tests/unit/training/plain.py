"""The training step written down the plain way: the reference for losses and speed of `couplet.training`.

Eager float32; one optimiser call and one average per parameter; the transport problem solved in the middle of
the step; every logged number fetched on its own; teacher and student each draw their dropout masks. It shares
the model's parts with `couplet.training`, but neither its step nor its loop nor its optimiser.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from couplet.config.cells import Training
from couplet.config.recipes import AdamConfig, LionConfig, OptimizerConfig, RAdamConfig
from couplet.config.variants import build
from couplet.couplings.base import Predictors
from couplet.data.loader import Loader
from couplet.model import ConsistencyModel
from couplet.tensors import default_stream, generator, seed_of
from couplet.training.optim import learning_rate_factor
from couplet.training.state import State
from couplet.training.step import Objective


def optimizer(config: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimiser, parameter by parameter."""
    settings = {"lr": config.lr, "betas": tuple(config.betas), "weight_decay": config.weight_decay}
    if isinstance(config, LionConfig):
        from lion_pytorch import Lion

        return Lion(model.parameters(), **settings)
    kinds = {RAdamConfig: torch.optim.RAdam, AdamConfig: torch.optim.Adam}
    return kinds[type(config)](model.parameters(), foreach=False, **settings)


def follow(average: nn.Module, model: nn.Module, beta: float) -> None:
    """Move an average towards the model, parameter by parameter."""
    for mean, parameter in zip(average.parameters(), model.parameters(), strict=True):
        mean.mul_(beta).add_(parameter, alpha=1 - beta)


def run(training: Training, state: State, loader: Loader) -> Iterator[float]:
    """Train like :func:`couplet.training.loop.run`, yielding the loss after each step."""
    recipe, seed = training.recipe, training.cell.seed
    model, average, frozen, teachers_average = state.models
    device = next(model.parameters()).device
    objective = Objective(recipe, model.kernel, math.prod(loader.split.images.shape[1:]))
    boundary, decay = recipe.boundary.training, build(recipe.ema)
    rate = learning_rate_factor(recipe.learning_rate, recipe.steps)
    update = optimizer(recipe.optimizer, model)

    def denoiser(source: ConsistencyModel):
        @torch.no_grad()
        def denoise(data: Tensor, noise: Tensor, level: Tensor, labels: Tensor | None) -> Tensor:
            clean = level == 0
            at = torch.where(clean, 1.0, level)
            answer = source(model.kernel.noise(data, noise, level), at, labels, boundary=boundary)
            return torch.where(clean[:, None, None, None], data, answer)

        return denoise

    predictors = Predictors(denoiser(model), denoiser(average), frozen and denoiser(frozen))
    for step in range(state.step, recipe.steps):
        with record_function("data"):
            images, labels = loader.at(step, device)
        noise = torch.randn(images.shape, generator=generator(device, seed, "noise", step), device=device)
        with record_function("arrange"):
            noise = model.coupling.arrange(images, noise)
        t, r = objective.schedule.draw_pair(step, len(images), generator(device, seed, "t", step))
        uniform = torch.rand(len(images), generator=generator(device, seed, "coupling", step), device=device)
        dropout = seed_of(seed, "dropout", step)
        model.normalize_weights_()
        with record_function("coupling"), default_stream(device, dropout + 1):
            pair = model.coupling(
                images,
                noise,
                labels,
                level=objective.schedule.coupling_level(t, r),
                predictors=predictors,
                progress=step / recipe.steps,
                uniform=uniform,
            )
        with record_function("student"), default_stream(device, dropout):
            student = model(model.kernel.noise(pair.data, pair.noise, t), t, pair.labels, boundary=boundary)
        teacher = {"online": model, "ema": average, "target": teachers_average}[recipe.teacher]
        with record_function("teacher"), default_stream(device, dropout):
            teacher.train()
            target = denoiser(teacher)(pair.data, pair.noise, r, pair.labels)
            if teacher is not model:
                teacher.eval()
        weight = objective.weighting(t, r)
        scale = objective.weighting.penalty_scale(*objective.schedule.last_pair(step))
        loss = (weight * objective.distance(student, target) + scale * pair.penalty).mean()
        update.zero_grad()
        with record_function("backward"):
            loss.backward()
        norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
            raise ValueError(f"step {step}: not finite")
        if recipe.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(model.parameters(), recipe.clip_norm, norm)
        for group in update.param_groups:
            group["lr"] = recipe.optimizer.lr * rate(step)
        with record_function("optimiser"):
            update.step()
        with record_function("ema"), torch.no_grad():
            follow(average, model, decay(step))
            if teachers_average is not None:
                exponent = recipe.schedule.s0 / objective.schedule.curriculum(step)
                follow(teachers_average, model, recipe.teacher_mu0**exponent)
        yield loss.item()
