"""Time of a training step, measured by turns: the load of the machine weighs on all trainings alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from time import process_time

import torch

from couplet.config.cells import Training
from couplet.data.archive import Archive
from couplet.model import ConsistencyModel
from couplet.ranks import ALONE, Ranks
from couplet.training.loop import initial_state, loader_of, run, shape_of

WARM_UP, STEPS = 1, 2
"""Steps of a turn: the first do not count, the others do."""

Clock = Callable[[Callable[[], object]], float]
"""Seconds that a function takes."""


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of this process, all its threads together: other processes add little to it."""
    began = process_time()
    work()
    return process_time() - began


def cuda_seconds(work: Callable[[], object]) -> float:
    """Time between two events on the current GPU, which is idle before the first and after the second."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return 1e-3 * begin.elapsed_time(end)


CLOCKS: dict[str, tuple[str, Clock]] = {
    "cpu": ("CPU time", cpu_seconds),
    "cuda": ("time between events on the GPU", cuda_seconds),
}
"""Name and function of the clock of each kind of device."""


def step_times(
    trainings: Sequence[tuple[Training, ConsistencyModel | None]],
    archive: Archive,
    device: torch.device,
    *,
    rounds: int,
    ranks: Ranks = ALONE,
    clock: Clock | None = None,
    advance: Callable[[int], None] = lambda steps: None,
) -> list[list[float]]:
    """Seconds of a step of each training in each round, [trainings][rounds].

    In a round every training has a turn, in every other round in reverse order: :data:`WARM_UP` steps that do
    not count and :data:`STEPS` whose mean does. A turn takes the first steps of the training, with batches of
    the data set, from the weights that the turn before it left. A later step costs the same: neither the
    curriculum nor the share of generated pairs changes the operations of a step.

    Args:
        trainings: each with its frozen predictor, if it has one.
        archive: the data set of all of them.
        clock: by default that of the device, see :data:`CLOCKS`.
        advance: called with the number of steps after each turn.
    """
    clock = CLOCKS[device.type][1] if clock is None else clock
    turn_of = partial(_turn, archive=archive, device=device, ranks=ranks, clock=clock)
    turns = [turn_of(training, frozen) for training, frozen in trainings]
    seconds: list[list[float]] = [[] for _ in turns]
    for number in range(rounds):
        for index in range(len(turns))[:: -1 if number % 2 else 1]:
            seconds[index].append(turns[index]())
            advance(WARM_UP + STEPS)
    return seconds


def _turn(
    training: Training,
    frozen: ConsistencyModel | None,
    *,
    archive: Archive,
    device: torch.device,
    ranks: Ranks,
    clock: Clock,
) -> Callable[[], float]:
    """A training's turn: seconds of a step, each time it is called."""
    count = max(training.recipe.steps, WARM_UP + STEPS)
    training = training.model_copy(update={"recipe": training.recipe.model_copy(update={"steps": count})})
    state = initial_state(training, shape_of(archive), device, frozen=frozen)
    loader = loader_of(training, archive, joint_images=state.model.coupling.joint_images, ranks=ranks)

    def turn() -> float:
        state.step = 0
        # Closed at the end of a turn, for a thread that arranges noise ahead would work in another's turn.
        with closing(run(training, state, loader, ranks=ranks)) as steps:
            list(islice(steps, WARM_UP))
            return clock(lambda: list(islice(steps, STEPS))) / STEPS

    return turn
