"""The values of an image as its features."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import torch
from torch import Tensor

from couplet.config.extractors import ValuesConfig
from couplet.data.loader import to_float
from couplet.errors import UserError
from couplet.metrics.extractor.base import Extractor, Pixels
from couplet.tensors import CPU


class ValuesExtractor(Extractor):
    """``x/127.5 - 1`` of every value, one channel after the other, without logits."""

    batch = 2000

    def __init__(self, config: ValuesConfig, folder: Path, device: torch.device) -> None:
        super().__init__(config, folder, device, digest=hashlib.sha256(b"").hexdigest())

    def prepare(self, images: Pixels) -> Tensor:
        """Convert to float32 [b, c h w] in [-1, 1]; UserError if images have too many values."""
        if math.prod(images.shape[1:]) > (most := ValuesConfig.most):
            size = "×".join(map(str, images.shape[1:]))
            allowed = f"values as features are for {most} at most: choose another extractor"
            raise UserError(f"extractor {self.config.kind}: images of {size} values; {allowed}")
        return to_float(images, CPU).flatten(1)

    def network(self, prepared: Tensor) -> tuple[Tensor, None]:
        return prepared, None
