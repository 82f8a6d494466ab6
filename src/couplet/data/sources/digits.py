"""scikit-learn's digits."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np

from couplet.config.datasets import DigitsConfig
from couplet.data.archive import Split
from couplet.data.sources.base import Source


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
