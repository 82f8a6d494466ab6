"""The values of an image themselves as its features."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from couplet.config.extractors import ValuesConfig
from couplet.data.archive import Archive
from couplet.data.loader import to_float
from couplet.errors import UserError
from couplet.metrics.extractor.base import Extractor, Pixels, extracts

MOST = 4096
"""Values of an image: Fréchet distances take the square root of a matrix of so many rows."""

NO_WEIGHTS = hashlib.sha256(b"").hexdigest()


@extracts(ValuesConfig)
class ValuesExtractor(Extractor):
    """``x/127.5 - 1`` of every value, one channel after the other; no logits, for nothing classifies."""

    batch = 2000

    @classmethod
    def make(cls, config: ValuesConfig, data: Archive, out: Path) -> dict[str, Any]:
        """Writes nothing.

        Raises:
            UserError: the images of ``data`` have too many values.
        """
        _check(data.card.shape, f"{data.folder}: {data.card.dataset}")
        return {}

    @classmethod
    def load(cls, config: ValuesConfig, folder: Path, device: torch.device) -> Self:
        return cls(config, NO_WEIGHTS, device)

    def prepare(self, images: Pixels) -> Tensor:
        """float32 [b, c h w] in [-1, 1].

        Raises:
            UserError: the images have too many values.
        """
        _check(images.shape[1:], f"extractor {self.kind}")
        return to_float(images, torch.device("cpu")).flatten(1)

    def network(self, prepared: Tensor) -> tuple[Tensor, None]:
        return prepared, None


def _check(shape: tuple[int, ...], where: str) -> None:
    height, width, channels = shape
    if height * width * channels > MOST:
        raise UserError(
            f"{where}: images of {height}×{width}×{channels} values; values as features are for "
            f"{MOST} at most: choose another extractor"
        )
