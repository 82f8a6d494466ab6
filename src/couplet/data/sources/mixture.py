"""Points of a mixture of two Gaussians, drawn."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np

from couplet.config.datasets import MixtureConfig
from couplet.data.archive import Split
from couplet.data.sources.base import Source, reads

MEANS = np.array([(0.0, 0.5), (0.0, -0.5)])
"""Of the classes, in their order."""


@reads(MixtureConfig)
def read_mixture(config: MixtureConfig, raw: Path, stack: ExitStack) -> Source:
    """``x = m_k + std z`` with ``k`` one of two classes at random and ``z ~ N(0, I)``, in [-1, 1]², as uint8
    ``round((x + 1) 127.5)``; nothing is read from ``raw``."""
    return Source(
        description="equal mixture of two Gaussians, means (0, 0.5) and (0, -0.5), "
        f"standard deviation {config.std:g}, seed {config.seed}",
        classes=tuple(f"({x:g}, {y:g})" for x, y in MEANS),
        splits={
            name: _drawn(count, config.std, (config.seed, number))
            for number, (name, count) in enumerate((("train", config.points), ("test", config.test_points)))
        },
    )


def _drawn(count: int, std: float, seed: tuple[int, int]) -> Split:
    """A split's points as images [n, 1, 1, 2]."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(len(MEANS), size=count)
    points = (MEANS[labels] + std * rng.standard_normal((count, 2))).clip(-1, 1)
    return Split(np.rint((points + 1) * 127.5).astype(np.uint8)[:, None, None], labels)
