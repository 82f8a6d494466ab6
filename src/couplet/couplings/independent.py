"""Independent coupling (iCT)."""

from __future__ import annotations

from couplet.config.couplings import IndependentConfig
from couplet.couplings.base import Coupling, Setting


class Independent(Coupling):
    """Every image with the noise it was drawn with: ``p(x, z) = p(x) N(z; 0, I)``."""

    def __init__(self, config: IndependentConfig, setting: Setting) -> None:
        super().__init__()
