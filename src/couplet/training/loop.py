"""The training loop, which yields the scalars of every step. No files, no printing."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, nullcontext
from functools import partial
from itertools import chain, islice
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import record_function

from couplet.config.cells import Training
from couplet.config.recipes import Recipe
from couplet.config.variants import build as build_variant
from couplet.data.archive import Archive, prefetched
from couplet.data.loader import Loader
from couplet.errors import UserError
from couplet.model import ConsistencyModel, ImageShape, build
from couplet.networks.initial import initialise
from couplet.ranks import ALONE, Ranks
from couplet.schedules import Discretised
from couplet.tensors import CPU, SideStream, default_stream, generator, products, seed_of
from couplet.training.ema import Average, target
from couplet.training.engine import computed
from couplet.training.optim import build_optimizer, learning_rate_factor
from couplet.training.state import State
from couplet.training.step import Batch, Draws, Objective, Terms, consistency_loss, schedule_of


class Progress(NamedTuple):
    """The scalars of one step."""

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
    curriculum: int
    """Number of noise levels N(k), or the stage."""
    ema_decay: float
    """Weight of the old average in this step's update; 1 where it left the average alone."""


def initial_state(
    training: Training,
    shape: ImageShape,
    device: torch.device,
    *,
    weights: Mapping[str, Tensor] | None = None,
    frozen: ConsistencyModel | None = None,
) -> State:
    """A model with weights drawn from the cell's seed, its averages and its optimiser.

    ``weights`` by name replace those of the network.

    Raises:
        UserError: ``weights`` do not fit the network.
    """
    with default_stream(CPU, seed_of(training.cell.seed, "initial weights")):
        model = build(training.design, shape, at=f"recipes.{training.cell.recipe}.network")
    loaded = None if weights is None else initialise(model.network, weights)
    model.to(device).train()
    return State(
        model=model,
        ema=Average(model, build_variant(training.recipe.ema)),
        target=_target(training.recipe, model),
        optimizer=build_optimizer(training.recipe.optimizer, model.parameters()),
        frozen=frozen,
        loaded=loaded,
    )


def _target(recipe: Recipe, model: ConsistencyModel) -> Average | None:
    """CM's target average, where the recipe's teacher is one."""
    if recipe.teacher != "target":
        return None
    schedule = schedule_of(recipe, model.kernel)
    assert isinstance(schedule, Discretised)
    return Average(model, target(recipe.teacher_mu0, schedule))


def shape_of(archive: Archive) -> ImageShape:
    """Shape of an archive's images and its number of classes."""
    height, _, channels = archive.card.shape
    return ImageShape(channels, height, len(archive.card.classes))


def loader_of(
    training: Training, archive: Archive, *, joint_images: bool, ranks: Ranks = ALONE, seed: int | None = None
) -> Loader:
    """The training images in the order of ``seed``, by default the cell's.

    ``joint_images``: whether each rank needs the images of the whole batch (see :class:`Coupling`).
    """
    share = ALONE if joint_images else ranks
    return Loader(
        archive.train,
        batch=training.recipe.batch,
        seed=training.cell.seed if seed is None else seed,
        flip=training.recipe.flip,
        num_classes=len(archive.card.classes) if training.recipe.conditional else 0,
        rank=share.rank,
        world=share.size,
    )


def run(
    training: Training, state: State, loader: Loader, *, ranks: Ranks = ALONE, ahead: int | None = None
) -> Generator[Progress, None, None]:
    """Train ``state`` in place to the recipe's last step, yielding after each.

    Every draw comes from a generator of (seed, purpose, step): a run that stops after any step and resumes
    from its state takes the same steps. Several processes take the steps of one: each draws for the whole
    batch, evaluates its rows, and gets the mean of all gradients. Only dropout masks differ: they are those
    of one process with ``train.microbatch`` set to the images that each process evaluates at once.

    Args:
        state: the state to start from; changed in place, alike in all processes.
        loader: see :func:`loader_of`.
        ahead: number of steps by which a thread arranges the noise in advance (:meth:`Coupling.arrange`); 0
            arranges it within the step. By default 2 for a GPU and 0 for the CPU, whose cores are busy.
            Changes no number.

    Raises:
        UserError: loss or gradient is not finite and the recipe does not replace it; or the device does not
            support the settings of `train`.
    """
    device = next(state.model.parameters()).device
    work = _Work(training, state, loader, ranks)
    if ahead is None:
        ahead = 2 if device.type == "cuda" else 0
    networks = [model for model in state.models if model is not None]
    with computed(networks, training.train, device), closing(work.inputs(device, ahead)) as inputs:
        while state.step < training.recipe.steps:
            began = perf_counter()
            batch, noise = next(inputs)
            draws = draws_of(training, work.objective, state.step, noise, rows=work.rows)
            with products(tf32=training.train.precision == "tf32"):
                state.model.normalize_weights_()
                state.model.zero_grad(set_to_none=True)
                terms = work.backward(batch, draws)
            progress = work.update(terms, draws.t)
            state.seconds += perf_counter() - began
            yield progress


class _Shared(nn.Module):
    """The loss as the forward pass of a module that owns the model, as DDP needs it."""

    def __init__(self, model: ConsistencyModel, loss: Callable[..., Terms]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, *arguments: Any, **options: Any) -> Terms:
        return self.loss(*arguments, **options)


class _Work:
    """A run in one of the processes that share it."""

    def __init__(self, training: Training, state: State, loader: Loader, ranks: Ranks) -> None:
        recipe, model = training.recipe, state.model
        self.training, self.state, self.loader, self.ranks = training, state, loader, ranks
        self.rows = ranks.part(recipe.batch)
        self.rate = learning_rate_factor(recipe.learning_rate, recipe.steps)
        self.objective = Objective(recipe, model.kernel, math.prod(loader.split.images.shape[1:]))
        loss = partial(consistency_loss, state.models, objective=self.objective)
        # Its backward pass averages gradients over ranks.
        self.loss: Any = loss if ranks.size == 1 else DistributedDataParallel(_Shared(model, loss))

    def inputs(self, device: torch.device, ahead: int) -> Generator[tuple[Batch, Tensor], None, None]:
        """Yield each further step's batch and the noise that the coupling arranged for it, of this rank."""
        start, stop, rows = self.state.step, self.training.recipe.steps, self.rows
        arrange = self.state.model.coupling.arrange
        # This rank's share of the loader's images.
        own = rows if self.loader.world == 1 else slice(None)
        side = SideStream(device) if device.type == "cuda" and ahead else None

        def drawn() -> Iterator[tuple[Batch, Tensor, torch.cuda.Event | None]]:
            for step in range(start, stop):
                with record_function("data"):
                    batch = Batch(*next(batches))
                shape = (self.training.recipe.batch, *batch.images.shape[1:])
                stream = generator(device, self.training.cell.seed, "noise", step)
                noise = torch.randn(shape, generator=stream, device=device)
                yield batch, noise, side.now() if side else None

        def arranged(given: tuple[Batch, Tensor, torch.cuda.Event | None]) -> tuple[Batch, Tensor]:
            batch, noise, drawn = given
            with record_function("arrange"):
                work = partial(arrange, batch.images, noise, rows)
                return batch.rows(own), side.run(work, drawn) if side and drawn else work()

        with closing(self.loader.batches(start, stop, device)) as batches:
            yield from prefetched(arranged, drawn(), threads=1, most=ahead)

    def backward(self, batch: Batch, draws: Draws) -> Terms:
        """Accumulate the batch's gradient over its parts; return this rank's terms, detached."""
        count = len(batch.images)
        size = self.training.train.microbatch or count
        begins = range(0, count, size)
        parts = []
        for number, begin in enumerate(begins, self.ranks.rank * len(begins)):
            rows = slice(begin, begin + size)
            # Ranks exchange gradients once per step.
            last = begin == begins[-1] or self.ranks.size == 1
            with nullcontext() if last else self.loss.no_sync():
                terms = self.loss(batch.rows(rows), draws.part(number, rows), step=self.state.step)
                # The part's contribution to the mean over this rank's images.
                loss = terms.loss * (len(terms.distance) / count)
                with record_function("backward"):
                    loss.backward()
            parts.append(terms._replace(loss=loss.detach()))
        return Terms.joined(parts)

    def update(self, terms: Terms, t: Tensor) -> Progress:
        """Step the optimiser and the averages, and increment ``state.step``."""
        state, recipe, ranks = self.state, self.training.recipe, self.ranks
        step, rate = state.step, recipe.optimizer.lr * self.rate(state.step)
        gradients = [p.grad for p in state.model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        means = [(terms.weight * terms.distance).mean(), terms.distance.mean(), terms.penalty.mean()]
        scalars = torch.cat([ranks.mean(torch.stack([terms.loss, *means])), norm[None]])
        # One transfer for all scalars, before the weights are touched.
        loss, consistency, distance, penalty, size = scalars.tolist()
        if not (math.isfinite(loss) and math.isfinite(size)):
            if recipe.nonfinite_gradients == "stop":
                levels = chain(*ranks.gather(t[~torch.isfinite(terms.distance)].tolist()))
                named = ", ".join(f"{level:.3g}" for level in islice(levels, 5))
                raise UserError(
                    f"{self.training.cell}: step {step}: loss {loss}, not finite in loss or gradient"
                    + (f", at noise levels t = {named}" if named else "")
                    + f" (coupling {self.training.cell.coupling}); lower recipe.optimizer.lr or set clip_norm"
                )
            replace_nonfinite_(gradients, INFINITY[recipe.nonfinite_gradients])
            norm = nn.utils.get_total_norm(gradients)
            size = norm.item()
            state.replaced += 1
        if recipe.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(state.model.parameters(), recipe.clip_norm, norm)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        with record_function("optimiser"):
            state.optimizer.step()
        with record_function("ema"):
            for average in state.averages.values():
                average.update(state.model)
        state.step += 1
        return Progress(
            step=state.step,
            loss=loss,
            consistency=consistency,
            distance=distance,
            penalty=terms.penalty_scale * penalty,
            gradient_norm=size,
            learning_rate=rate,
            curriculum=self.objective.schedule.curriculum(step),
            ema_decay=state.ema.decay(step),
        )


def draws_of(
    training: Training,
    objective: Objective,
    step: int,
    noise: Tensor,
    *,
    purpose: tuple[int | str, ...] | None = None,
    rows: slice = slice(None),
) -> Draws:
    """Draw the randomness of a step besides its noise for the whole batch, and return that of ``rows``.

    The seed is derived from the cell's seed and ``purpose``: by default, the step.
    """
    purpose = (step,) if purpose is None else purpose
    seed, count, device = training.cell.seed, training.recipe.batch, noise.device
    t, r = objective.schedule.draw_pair(step, count, generator(device, seed, "t", *purpose))
    uniform = torch.rand(count, generator=generator(device, seed, "coupling", *purpose), device=device)
    dropout_seed = seed_of(seed, "dropout", *purpose)
    return Draws(t=t[rows], r=r[rows], noise=noise, uniform=uniform[rows], dropout_seed=dropout_seed)


INFINITY = {"zero": 0.0, "large": 1e5}
"""Replacement of an infinite gradient under each of the recipe's `nonfinite_gradients`."""


def replace_nonfinite_(gradients: Iterable[Tensor], infinity: float) -> None:
    """Replace every NaN of the gradients by 0 and infinities by ``±infinity``."""
    for gradient in gradients:
        torch.nan_to_num_(gradient, nan=0.0, posinf=infinity, neginf=-infinity)
