"""The run that a probe measures: its snapshots, its data, and batches as its coupling is given them.

Everything is measured at the weights of EMA snapshots, the only ones that a run keeps: gradients too, though
the run took them at the raw weights. Only gradients have dropout, as in a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from couplet.config.cells import Training
from couplet.data.archive import Archive
from couplet.model import ConsistencyModel, load
from couplet.tensors import generator, seed_of
from couplet.training.loop import loader_of
from couplet.training.step import Batch, Models, Objective


@dataclass(frozen=True)
class Subject:
    """A finished run."""

    training: Training
    archive: Archive
    checkpoints: dict[int, Path]
    """Files of the snapshots by step, rising."""
    frozen: ConsistencyModel | None
    """The model of a frozen predictor."""
    device: torch.device
    advance: Callable[[int], None] = lambda images: None
    """Called with the number of images just measured."""

    def snapshot(self, step: int) -> Models:
        """A snapshot in evaluation mode, which is its own running average, also as the teacher."""
        average, _ = load(self.checkpoints[step], self.device)
        average.requires_grad_(False)
        return Models(average, average, self.frozen, average)

    @property
    def last(self) -> int:
        """The step of the last snapshot."""
        return max(self.checkpoints)

    def objective(self, models: Models) -> Objective:
        """The recipe's objective."""
        dimensions = math.prod(self.archive.card.shape)
        return Objective(self.training.recipe, models.online.kernel, dimensions)

    def arranged(self, models: Models, count: int) -> Iterator[tuple[Batch, Tensor]]:
        """``count`` batches of the run's size, each with noise as the coupling arranges it.

        Neither order nor noise are the run's own; both are the same for all snapshots and couplings.
        """
        seed = self.training.cell.seed
        loader = loader_of(self.training, self.archive, joint_images=True, seed=seed_of(seed, "probe"))
        for number, (images, labels) in enumerate(loader.batches(0, count, self.device)):
            stream = generator(self.device, seed, "noise", "probe", number)
            noise = torch.randn(images.shape, generator=stream, device=self.device)
            yield Batch(images, labels), models.online.coupling.arrange(images, noise)
