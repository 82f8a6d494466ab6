"""Batches of training images for any step, without having drawn those before it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from couplet.data.archive import Split
from couplet.tensors import seed_of


def to_float(images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """uint8 [n, h, w, c] as float32 [n, c, h, w] in [-1, 1]: ``x/127.5 - 1``, without dequantisation."""
    pixels = torch.tensor(images, device=device)
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


class Loader:
    """An endless sequence of batches: epoch after epoch, each in an order of its own.

    Batches may straddle epochs, so that every batch is full and every image is seen equally often.
    """

    def __init__(self, split: Split, *, batch: int, seed: int, flip: bool, num_classes: int) -> None:
        self.split, self.batch, self.seed = split, batch, seed
        self.flip, self.num_classes = flip, num_classes
        # A batch touches two epochs at most, unless it is larger than the data set.
        self.order = lru_cache(maxsize=2)(self._order)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        rng = np.random.default_rng(seed_of(self.seed, "order", epoch))
        return rng.permutation(len(self.split))

    def indices(self, step: int) -> NDArray[np.int64]:
        """Which images the 0-based step sees, [batch]."""
        position = np.arange(step * self.batch, (step + 1) * self.batch)
        epoch, within = np.divmod(position, len(self.split))
        chosen = np.empty_like(position)
        for number in np.unique(epoch):
            here = epoch == number
            chosen[here] = self.order(int(number))[within[here]]
        return chosen

    def at(self, step: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Images float32 [b, c, h, w] in [-1, 1] and one-hot labels [b, k] (None without classes)."""
        chosen = self.indices(step)
        images = to_float(self.split.images[chosen], device)
        if self.flip:
            rng = np.random.default_rng(seed_of(self.seed, "flip", step))
            mirrored = torch.from_numpy(rng.random(len(images)) < 0.5).to(device)
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        if not self.num_classes:
            return images, None
        labels = torch.from_numpy(self.split.labels[chosen]).to(device)
        return images, F.one_hot(labels, self.num_classes).float()
