"""Independent coupling (iCT)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from couplet.config.couplings import IndependentConfig
from couplet.couplings.base import Coupling, Pair, Setting


class Independent(Coupling):
    """Every image with the noise it was drawn with: ``p(x, z) = p(x) N(z; 0, I)``."""

    def __init__(self, config: IndependentConfig, setting: Setting) -> None:
        super().__init__()

    def forward(self, images: Tensor, noise: Tensor, labels: Tensor | None, **context: Any) -> Pair:
        return Pair(images, noise, labels, images.new_zeros(len(images)))
