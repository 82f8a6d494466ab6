"""Batches of training images for any step, independent of the batches before it."""

from __future__ import annotations

import mmap
from collections.abc import Generator
from contextlib import closing
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from couplet.data.archive import Split, prefetched
from couplet.errors import UserError
from couplet.tensors import seed_of

Labelled = tuple[Tensor, Tensor | None]
"""Images float32 [b, c, h, w] in [-1, 1] and one-hot labels float32 [b, k], or None without classes."""

Gathered = tuple[Tensor, Tensor, Tensor]
"""A batch in the host's memory: pixels uint8 [b, h, w, c], images to mirror bool [b], class indices int64
[b]. The device turns it into :data:`Labelled` images."""


def to_float(images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """uint8 [n, h, w, c] to float32 [n, c, h, w] in [-1, 1]: ``x/127.5 - 1``, without dequantisation."""
    return _scaled(torch.tensor(images, device=device))


def _scaled(pixels: Tensor) -> Tensor:
    # Channels stay last in memory: a CPU's convolutions are then faster, up to 30 % with gradient, and group
    # normalisation slower; a step takes as long within 3 % (tiny DDPM++, ECT's loss, 32 images of 3x16x16).
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


@dataclass(eq=False)
class Loader:
    """An endless sequence of batches, epoch after epoch, each epoch in its own order.

    A batch may cross the end of an epoch, so that every batch is full and no image is seen more often than
    another. Several processes share a batch: each has ``b = batch / world`` of its images; concatenated by
    rank they are the batch of a single process, including labels and flips.

    Raises:
        UserError: ``batch`` is no multiple of ``world``.
    """

    split: Split
    _: KW_ONLY
    batch: int
    """Images per step, summed over all processes."""
    seed: int
    """Decides order and flips."""
    flip: bool
    """Whether to mirror each image with probability 1/2."""
    num_classes: int
    """Width k of the one-hot labels; 0 for none."""
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank = {self.rank}: must be from 0 to below world = {self.world}")
        if self.batch % self.world:
            allowed = f"must be a multiple of world = {self.world}, the number of processes"
            raise UserError(f"batch = {self.batch}: {allowed}")
        size = self.batch // self.world
        self.part = slice(self.rank * size, (self.rank + 1) * size)
        # A batch no larger than the data set touches at most two epochs.
        self.order = lru_cache(maxsize=2)(self._order)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        rng = np.random.default_rng(seed_of(self.seed, "order", epoch))
        return rng.permutation(len(self.split))

    def indices(self, step: int) -> NDArray[np.int64]:
        """Indices of this rank's images in the 0-based step, [b]."""
        position = np.arange(step * self.batch, (step + 1) * self.batch)[self.part]
        epoch, within = np.divmod(position, len(self.split))
        chosen = np.empty_like(position)
        for number in np.unique(epoch):
            mask = epoch == number
            chosen[mask] = self.order(int(number))[within[mask]]
        return chosen

    def mirrored(self, step: int) -> NDArray[np.bool_]:
        """Whether each of these images is mirrored, [b]."""
        if not self.flip:
            return np.zeros(self.batch, dtype=np.bool_)[self.part]
        rng = np.random.default_rng(seed_of(self.seed, "flip", step))
        return (rng.random(self.batch) < 0.5)[self.part]

    def at(self, step: int, device: torch.device) -> Labelled:
        """The batch of the 0-based step."""
        return self._finished(self.gathered(step), device)

    def batches(
        self, start: int, stop: int, device: torch.device, ahead: int | None = None
    ) -> Generator[Labelled, None, None]:
        """The batches :meth:`at` ``start``, ``start + 1``, ..., ``stop - 1``.

        A thread gathers up to ``ahead`` batches in advance: by default 2 for a GPU, in pinned memory, and
        none for the CPU, where it gains nothing (`benchmarks/loader.py`).
        """
        gpu = device.type == "cuda"
        ahead = 2 * gpu if ahead is None else ahead
        gather = partial(self.gathered, pin=gpu)
        with closing(prefetched(gather, range(start, stop), threads=1, most=ahead)) as batches:
            for batch in batches:
                yield self._finished(batch, device)

    def gathered(self, step: int, *, pin: bool = False) -> Gathered:
        """The host's part of a batch, in pinned memory if a GPU copies it asynchronously."""
        chosen = self.indices(step)
        _announce(self.split.images, chosen)
        arrays = self.split.images[chosen], self.mirrored(step), self.split.labels[chosen]
        tensors = map(torch.from_numpy, arrays)
        pixels, mirrored, labels = (part.pin_memory() if pin else part for part in tensors)
        return pixels, mirrored, labels

    def _finished(self, gathered: Gathered, device: torch.device) -> Labelled:
        pixels, mirrored, labels = (part.to(device, non_blocking=True) for part in gathered)
        if self.flip:
            pixels = torch.where(mirrored[:, None, None, None], pixels.flip(2), pixels)
        one_hot = F.one_hot(labels, self.num_classes).float() if self.num_classes else None
        return _scaled(pixels), one_hot


def _announce(images: NDArray[np.uint8], chosen: NDArray[np.int64]) -> None:
    """Ask the system to read the chosen images of a mapped file, all at once and ahead of their use.

    Otherwise gathering waits for one page after another that is not in memory. Images no larger than a page
    gain nothing. A file truncated after it was mapped is refused: reading on would kill the process.
    """
    file = images.base
    if not isinstance(images, np.memmap) or not isinstance(file, mmap.mmap):
        return
    if file.size() < len(file):
        raise UserError(
            f"{images.filename}: truncated to {file.size()} bytes while in use, must have {len(file)}"
        )
    size = images[:1].nbytes
    if size <= mmap.PAGESIZE:
        return
    first = images.offset % mmap.ALLOCATIONGRANULARITY + chosen * size
    page = first - first % mmap.PAGESIZE
    for start, length in zip(page.tolist(), (first + size - page).tolist(), strict=True):
        file.madvise(mmap.MADV_WILLNEED, start, length)
