"""The training loop: draws, steps, and hands out what happened. No files, no printing."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from typing import NamedTuple

import torch
from torch import Tensor, nn

from couplet.config import Training
from couplet.data import Loader
from couplet.errors import UserError
from couplet.model import ConsistencyModel, ImageShape, build
from couplet.networks.initial import initialise
from couplet.tensors import default_stream, generator, seed_of
from couplet.training.ema import averaged
from couplet.training.optim import build_optimizer, learning_rate_factor
from couplet.training.state import State
from couplet.training.step import Draws, Terms, build_objective, consistency_loss


class Progress(NamedTuple):
    """What one step did."""

    step: int
    """Steps done, this one included."""
    loss: float
    consistency: float
    """Batch mean of the weighted distance."""
    distance: float
    """Batch mean of the unweighted distance."""
    penalty: float
    """Batch mean of the coupling's scaled penalty."""
    gradient_norm: float
    learning_rate: float
    fineness: int
    """N(k), or the stage."""


def initial_state(
    training: Training,
    shape: ImageShape,
    device: torch.device,
    weights: Mapping[str, Tensor] | None = None,
) -> State:
    """A model with weights drawn from the cell's seed, its average and its optimiser.

    ``weights``, where given, then replace those of the network by name.

    Raises:
        UserError: ``weights`` do not fit the network.
    """
    with default_stream(torch.device("cpu"), seed_of(training.cell.seed, "initial weights")):
        model = build(training, shape)
    loaded = None if weights is None else initialise(model.network, weights)
    model.to(device).train()
    return State(
        model=model,
        ema=averaged(model, training.recipe.ema),
        optimizer=build_optimizer(training.recipe.optimizer, model.parameters()),
        loaded=loaded,
    )


def run(
    training: Training, state: State, loader: Loader, frozen: ConsistencyModel | None = None
) -> Iterator[Progress]:
    """Trains ``state`` in place to the recipe's last step, yielding after each.

    Every draw comes from a generator of (seed, purpose, step): a training that stops after any step
    and goes on from its state takes the same steps.

    Raises:
        UserError: loss or gradient is not finite and the recipe does not say to zero it.
    """
    recipe, seed = training.recipe, training.cell.seed
    device = next(state.model.parameters()).device
    objective = build_objective(recipe, state.model.kernel, math.prod(loader.split.images.shape[1:]))
    with closing(loader.batches(state.step, recipe.steps, device)) as batches:
        while state.step < recipe.steps:
            began, step = time.perf_counter(), state.step
            images, labels = next(batches)
            t, r = objective.schedule.draw_pair(step, len(images), generator(device, seed, "t", step))
            draws = Draws(
                t=t,
                r=r,
                noise=torch.randn(
                    images.shape, generator=generator(device, seed, "noise", step), device=device
                ),
                uniform=torch.rand(
                    len(images), generator=generator(device, seed, "coupling", step), device=device
                ),
                dropout_seed=seed_of(seed, "dropout", step),
            )
            state.model.normalize_weights_()
            terms = consistency_loss(
                state.model,
                state.averaged,
                frozen,
                images,
                labels,
                draws,
                objective=objective,
                step=step,
            )
            progress = _update(training, state, terms, t, objective.schedule.fineness(step))
            state.seconds += time.perf_counter() - began
            yield progress


INFINITY = {"zero": 0.0, "large": 1e5}
"""What an infinite gradient becomes under each of the recipe's `nonfinite_gradients`."""


def replace_nonfinite_(parameters: Iterable[nn.Parameter], infinity: float) -> None:
    """Puts 0 in place of every NaN of the gradients and ``±infinity`` in place of infinities."""
    for parameter in parameters:
        if parameter.grad is not None:
            torch.nan_to_num_(parameter.grad, nan=0.0, posinf=infinity, neginf=-infinity)


def _update(training: Training, state: State, terms: Terms, t: Tensor, fineness: int) -> Progress:
    """Backward pass, optimiser and average; ``state.step`` goes up by one."""
    recipe, step = training.recipe, state.step
    state.optimizer.zero_grad(set_to_none=True)
    terms.loss.backward()
    parameters = [p for p in state.model.parameters() if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if not (math.isfinite(loss := terms.loss.item()) and torch.isfinite(norm)):
        if recipe.nonfinite_gradients == "stop":
            raise UserError(_diverged(training, terms, t, step, loss))
        replace_nonfinite_(parameters, INFINITY[recipe.nonfinite_gradients])
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        state.replaced += 1
    if recipe.clip_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, recipe.clip_norm, norm)
    factor = learning_rate_factor(recipe.learning_rate, step, recipe.steps)
    for group in state.optimizer.param_groups:
        group["lr"] = recipe.optimizer.lr * factor
    state.optimizer.step()
    state.ema.update_parameters(state.model)
    state.step += 1
    return Progress(
        step=state.step,
        loss=loss,
        consistency=(terms.weight * terms.distance).mean().item(),
        distance=terms.distance.mean().item(),
        penalty=terms.penalty_scale * terms.penalty.mean().item(),
        gradient_norm=float(norm),
        learning_rate=recipe.optimizer.lr * factor,
        fineness=fineness,
    )


def _diverged(training: Training, terms: Terms, t: Tensor, step: int, loss: float) -> str:
    levels = ", ".join(f"{level:.3g}" for level in t[~torch.isfinite(terms.distance)][:5].tolist())
    return (
        f"{training.cell}: step {step}: loss {loss}, not finite in loss or gradient"
        + (f", at noise levels t = {levels}" if levels else "")
        + f" (coupling {training.cell.coupling}); lower recipe.optimizer.lr or set clip_norm"
    )
