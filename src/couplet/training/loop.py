"""The training loop: draws, steps, and hands out what happened. No files, no printing."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from couplet.config import Training
from couplet.data import Loader
from couplet.errors import UserError
from couplet.model import ConsistencyModel, ImageShape, build
from couplet.networks.initial import initialise
from couplet.ranks import ALONE, Ranks
from couplet.tensors import default_stream, generator, seed_of
from couplet.training.ema import averaged
from couplet.training.engine import check_compiled, computed, products
from couplet.training.optim import build_optimizer, learning_rate_factor
from couplet.training.state import State
from couplet.training.step import Draws, Objective, Phase, Terms, build_objective, consistency_loss


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
    ema_decay: float
    """Weight of the old average in this step's update; 1 where it left the average alone."""


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
    training: Training,
    state: State,
    loader: Loader,
    frozen: ConsistencyModel | None = None,
    *,
    ranks: Ranks = ALONE,
    ahead: int | None = None,
    phase: Phase = nullcontext,
) -> Iterator[Progress]:
    """Trains ``state`` in place to the recipe's last step, yielding after each.

    Every draw comes from a generator of (seed, purpose, step): a training that stops after any step
    and goes on from its state takes the same steps. Several processes take the steps of one: each draws for
    the whole batch, works on its rows, and has the mean of all gradients. Only dropout masks differ: they
    are those of one process whose ``train.microbatch`` is what a process has at once.

    Args:
        training: what to train.
        state: where to start; changed in place, alike in all processes.
        loader: the images; of the whole batch if the coupling wants `joint_images`, else of this rank.
        frozen: a pre-trained model for couplings that want one.
        ranks: the processes that share each batch.
        ahead: for how many steps in advance a thread arranges the noise (:meth:`Coupling.arrange`); 0
            does it within the step. By default 2 for a GPU and 0 for the CPU, whose cores are taken.
            Changes no number.
        phase: told which part of a step is going on: data, coupling, student, teacher, backward,
            optimiser, ema.

    Raises:
        UserError: loss or gradient is not finite and the recipe does not say to zero it; or the device
            cannot compute as `train` says.
    """
    recipe = training.recipe
    device = next(state.model.parameters()).device
    rows = ranks.part(recipe.batch)
    objective = replace(
        build_objective(recipe, state.model.kernel, math.prod(loader.split.images.shape[1:])),
        # Compiled networks draw their own, and without dropout there is nothing to give on.
        masks_once=device.type == "cpu" and not training.train.compile and recipe.network.has_dropout,
    )
    if ahead is None:
        ahead = 2 if device.type == "cuda" else 0
    models = [model for model in (state.model, state.averaged, frozen) if model is not None]
    with (
        computed(models, training.train, device),
        closing(_inputs(training, state, loader, device, rows, ahead)) as inputs,
    ):
        if training.train.compile and state.step < recipe.steps:
            _check_compiled(training, state, loader, device)
        batch_loss = _loss(state, frozen, objective, phase, ranks)
        while state.step < recipe.steps:
            began = time.perf_counter()
            with phase("data"):
                images, labels, arranged = next(inputs)
            with phase("coupling"):
                noise = arranged()
            draws = draws_of(training, objective, state.step, noise, state.step, rows=rows)
            with products(training.train, device):
                state.model.normalize_weights_()
                state.model.zero_grad(set_to_none=True)
                terms = _backward(training, state, batch_loss, images, labels, draws, phase, ranks)
            fineness = objective.schedule.fineness(state.step)
            progress = _update(training, state, terms, draws.t, fineness, phase, ranks)
            state.seconds += time.perf_counter() - began
            yield progress


def _check_compiled(training: Training, state: State, loader: Loader, device: torch.device) -> None:
    """Raises UserError where compiled student and teacher would not have the same dropout masks."""
    height, width, channels = loader.split.images.shape[1:]
    size = min(training.train.microbatch or loader.batch, loader.batch)
    x = torch.randn(size, channels, height, width, generator=torch.Generator().manual_seed(0)).to(device)
    labels = torch.eye(loader.num_classes, device=device)[:1].expand(size, -1) if loader.num_classes else None
    teacher = state.averaged if training.recipe.teacher == "ema" else state.model
    with products(training.train, device):
        check_compiled(state.model.network, teacher.network, x, labels)


class _Shared(nn.Module):
    """The loss as the forward pass of a module that owns the model: what DDP can synchronise."""

    def __init__(self, model: ConsistencyModel, loss: Callable[..., Terms]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, *arguments: Any, **options: Any) -> Terms:
        return self.loss(self.model, *arguments, **options)


def _loss(
    state: State, frozen: ConsistencyModel | None, objective: Objective, phase: Phase, ranks: Ranks
) -> Callable[..., Terms]:
    """The loss of images, labels and draws; its backward pass leaves the mean gradient of all ranks."""
    loss = partial(consistency_loss, ema=state.averaged, frozen=frozen, objective=objective, phase=phase)
    if ranks.size == 1:
        return partial(loss, state.model)
    return DistributedDataParallel(_Shared(state.model, loss))


Inputs = tuple[Tensor, Tensor | None, Callable[[], Tensor]]
"""Images, labels, and what returns the noise that the coupling has arranged for them."""


def _inputs(
    training: Training, state: State, loader: Loader, device: torch.device, rows: slice, ahead: int
) -> Generator[Inputs, None, None]:
    """What each step works on, from the state's step to the last; see `ahead` of :func:`run`."""
    start, stop, seed = state.step, training.recipe.steps, training.cell.seed
    arrange = state.model.coupling.arrange
    # Which of the loader's images are this rank's.
    own = rows if loader.world == 1 else slice(None)

    def drawn(step: int, like: Tensor) -> Tensor:
        shape = (training.recipe.batch, *like.shape[1:])
        return torch.randn(shape, generator=generator(device, seed, "noise", step), device=device)

    with closing(loader.batches(start, stop, device)) as batches:
        if not ahead:
            for step, (images, labels) in enumerate(batches, start):
                noise = partial(arrange, images, drawn(step, images), rows)
                yield images[own], None if labels is None else labels[own], noise
            return
        waiting: deque[Inputs] = deque()
        with ThreadPoolExecutor(1, "coupling") as thread:
            for step in range(start, stop + ahead):
                if step < stop:
                    images, labels = next(batches)
                    promise = thread.submit(arrange, images, drawn(step, images), rows)
                    own_labels = None if labels is None else labels[own]
                    waiting.append((images[own], own_labels, promise.result))
                if step >= start + ahead:
                    yield waiting.popleft()


def draws_of(
    training: Training,
    objective: Objective,
    step: int,
    noise: Tensor,
    *purpose: int | str,
    rows: slice = slice(None),
) -> Draws:
    """The step's randomness besides its noise, drawn for the whole batch, of the rows of ``noise``.

    ``purpose`` seeds it, with the cell's seed: in a training the step itself.
    """
    seed, count, device = training.cell.seed, training.recipe.batch, noise.device
    t, r = objective.schedule.draw_pair(step, count, generator(device, seed, "t", *purpose))
    uniform = torch.rand(count, generator=generator(device, seed, "coupling", *purpose), device=device)
    dropout_seed = seed_of(seed, "dropout", *purpose)
    return Draws(t=t[rows], r=r[rows], noise=noise, uniform=uniform[rows], dropout_seed=dropout_seed)


def _backward(
    training: Training,
    state: State,
    batch_loss: Callable[..., Terms],
    images: Tensor,
    labels: Tensor | None,
    draws: Draws,
    phase: Phase,
    ranks: Ranks,
) -> Terms:
    """Leaves the batch's gradient, summed over its parts, and returns this rank's terms without theirs."""
    count = len(images)
    size = training.train.microbatch or count
    begins = range(0, count, size)
    parts = []
    for number, begin in enumerate(begins, ranks.rank * len(begins)):
        rows = slice(begin, begin + size)
        last = begin == begins[-1]
        # Ranks exchange gradients once per step.
        alone = nullcontext() if last or ranks.size == 1 else batch_loss.no_sync()  # type: ignore[attr-defined]
        with alone:
            terms = batch_loss(
                images=images[rows],
                labels=None if labels is None else labels[rows],
                draws=draws.part(number, rows),
                step=state.step,
            )
            # The part's share of the mean over this rank's images.
            loss = terms.loss * (len(terms.distance) / count)
            with phase("backward"):
                loss.backward()
        parts.append(
            Terms(
                loss.detach(),
                terms.distance.detach(),
                terms.weight,
                terms.penalty.detach(),
                terms.penalty_scale,
            )
        )
    return Terms(
        loss=torch.stack([part.loss for part in parts]).sum(),
        distance=torch.cat([part.distance for part in parts]),
        weight=torch.cat([part.weight for part in parts]),
        penalty=torch.cat([part.penalty for part in parts]),
        penalty_scale=parts[0].penalty_scale,
    )


INFINITY = {"zero": 0.0, "large": 1e5}
"""What an infinite gradient becomes under each of the recipe's `nonfinite_gradients`."""


def replace_nonfinite_(parameters: Iterable[nn.Parameter], infinity: float) -> None:
    """Puts 0 in place of every NaN of the gradients and ``±infinity`` in place of infinities."""
    for parameter in parameters:
        if parameter.grad is not None:
            torch.nan_to_num_(parameter.grad, nan=0.0, posinf=infinity, neginf=-infinity)


def _update(
    training: Training,
    state: State,
    terms: Terms,
    t: Tensor,
    fineness: int,
    phase: Phase,
    ranks: Ranks,
) -> Progress:
    """Optimiser and average; ``state.step`` goes up by one."""
    recipe, step = training.recipe, state.step
    parameters = [p for p in state.model.parameters() if p.grad is not None]
    norm = _norm(parameters)
    means = [(terms.weight * terms.distance).mean(), terms.distance.mean(), terms.penalty.mean()]
    shown = torch.cat([ranks.mean(torch.stack([terms.loss, *means])), norm[None]])
    # One transfer: a GPU's queue runs empty once per step, where the weights are not touched yet.
    loss, consistency, distance, penalty, size = shown.tolist()
    if not (math.isfinite(loss) and math.isfinite(size)):
        if recipe.nonfinite_gradients == "stop":
            levels = chain(*ranks.gather(t[~torch.isfinite(terms.distance)].tolist()))
            raise UserError(_diverged(training, levels, step, loss))
        replace_nonfinite_(parameters, INFINITY[recipe.nonfinite_gradients])
        norm = _norm(parameters)
        size = norm.item()
        state.replaced += 1
    if recipe.clip_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, recipe.clip_norm, norm)
    factor = learning_rate_factor(recipe.learning_rate, step, recipe.steps)
    for group in state.optimizer.param_groups:
        group["lr"] = recipe.optimizer.lr * factor
    with phase("optimiser"):
        state.optimizer.step()
    with phase("ema"):
        state.ema.update_parameters(state.model)
    state.step += 1
    return Progress(
        step=state.step,
        loss=loss,
        consistency=consistency,
        distance=distance,
        penalty=terms.penalty_scale * penalty,
        gradient_norm=size,
        learning_rate=recipe.optimizer.lr * factor,
        fineness=fineness,
        ema_decay=state.ema.decay(step),
    )


def _norm(parameters: list[nn.Parameter]) -> Tensor:
    """The global norm of the gradients."""
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def _diverged(training: Training, levels: Iterable[float], step: int, loss: float) -> str:
    named = ", ".join(f"{level:.3g}" for level in islice(levels, 5))
    return (
        f"{training.cell}: step {step}: loss {loss}, not finite in loss or gradient"
        + (f", at noise levels t = {named}" if named else "")
        + f" (coupling {training.cell.coupling}); lower recipe.optimizer.lr or set clip_norm"
    )
