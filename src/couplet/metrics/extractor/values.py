"""The values of an image as its features."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from couplet.config.extractors import ValuesConfig
from couplet.data.archive import Archive
from couplet.data.loader import to_float
from couplet.errors import UserError
from couplet.metrics.extractor.base import Extractor, Pixels
from couplet.tensors import CPU

MOST = 4096
"""Largest number of values of an image: Fréchet distances decompose a matrix of as many rows."""


class ValuesExtractor(Extractor):
    """``x/127.5 - 1`` of every value, one channel after the other, without logits."""

    batch = 2000

    def __init__(self, config: ValuesConfig, folder: Path, device: torch.device) -> None:
        super().__init__(config, folder, device, digest=hashlib.sha256(b"").hexdigest())

    @classmethod
    def make(cls, config: ValuesConfig, data: Archive, out: Path) -> dict[str, Any]:
        """Check the shape of images; there is nothing to write."""
        _check(data.card.shape, f"{data.folder}: {data.card.dataset}")
        return {}

    def prepare(self, images: Pixels) -> Tensor:
        """Convert to float32 [b, c h w] in [-1, 1]."""
        _check(images.shape[1:], f"extractor {self.config.kind}")
        return to_float(images, CPU).flatten(1)

    def network(self, prepared: Tensor) -> tuple[Tensor, None]:
        return prepared, None


def _check(shape: tuple[int, ...], where: str) -> None:
    """Raise UserError for images [h, w, c] with too many values."""
    if math.prod(shape) > MOST:
        size = "×".join(map(str, shape))
        allowed = f"values as features are for {MOST} at most: choose another extractor"
        raise UserError(f"{where}: images of {size} values; {allowed}")
