"""Small data sets without original files: scikit-learn's digits, and random points of the plane."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np

from couplet.config.datasets import DigitsConfig, MixtureConfig
from couplet.data.archive import Source, Split

MEANS = np.array([(0.0, 0.5), (0.0, -0.5)])
"""Mean of each class of the mixture."""


def read_digits(config: DigitsConfig, raw: Path, stack: ExitStack) -> Source:
    """Grey values 0 to 16, scaled to 0 to 255, split evenly over the classes; ``raw`` is not used."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int64)
    train, test = train_test_split(
        np.arange(len(images)), test_size=config.test_images, stratify=labels, random_state=0
    )
    return Source(
        description="sklearn.datasets.load_digits, UCI optical recognition of handwritten digits",
        classes=tuple(str(name) for name in digits.target_names),
        splits={
            name: Split(images[np.sort(chosen)], labels[np.sort(chosen)])
            for name, chosen in (("train", train), ("test", test))
        },
    )


def read_mixture(config: MixtureConfig, raw: Path, stack: ExitStack) -> Source:
    """Points ``x = m_k + std z``, clipped to [-1, 1]² and stored as uint8 ``round((x + 1) 127.5)``.

    The class ``k`` is one of two with equal probability, and ``z ~ N(0, I)``; ``raw`` is not used.
    """
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
    """Points of a split as images [n, 1, 1, 2]."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(len(MEANS), size=count)
    points = (MEANS[labels] + std * rng.standard_normal((count, 2))).clip(-1, 1)
    return Split(np.rint((points + 1) * 127.5).astype(np.uint8)[:, None, None], labels)
