"""Features of many images: moments of all of them, and as many features as fit in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from couplet.metrics.extractor.base import Extractor, Pixels
from couplet.metrics.moments import Moments, MomentsAccumulator
from couplet.ranks import ALONE, Ranks

MOST_FEATURES = 50_000
"""Largest number of features in memory, evenly spaced; kernel distances draw their subsets from them.

It covers CIFAR-10's training split and the samples that the papers report on.
"""


class Measured(NamedTuple):
    """A set of images in an extractor's features."""

    moments: Moments
    """Of all images."""
    features: NDArray[np.float32]
    """Of evenly spaced images [k, d]."""
    logits: NDArray[np.float32] | None
    """Of all images [n, c]; None unless they were asked for and the extractor has them."""


def measure(
    extractor: Extractor,
    images: Pixels,
    advance: Callable[[int], None],
    *,
    most: int = MOST_FEATURES,
    logits: bool = False,
    ranks: Ranks = ALONE,
) -> Measured:
    """Pass ``images`` [n, h, w, c], possibly mapped from disk, through ``extractor`` batch by batch.

    Args:
        advance: called with the size of each batch.
        most: largest number of features to return.
        logits: whether to return logits as well.
        ranks: the processes that share the work; each returns the complete result.

    Raises:
        UserError: fewer than two images, or features that are not finite.
    """
    wanted = evenly_spaced(len(images), most)
    moments, features, scores, start = MomentsAccumulator(), [], [], 0
    for values, batch_logits in extractor.batches(images, ranks):
        moments.add(values)
        stop = start + len(values)
        inside = wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, stop)]
        features.append(values[inside - start])
        if logits and batch_logits is not None:
            scores.append(batch_logits)
        advance(len(values))
        start = stop
    result = moments.result()
    return Measured(result, np.concatenate(features), np.concatenate(scores) if scores else None)


def evenly_spaced(count: int, most: int) -> NDArray[np.int64]:
    """Return at most ``most`` positions in ``range(count)`` from 0 on, as evenly as integers can be."""
    few = min(count, most)
    return np.arange(few) * count // max(few, 1)
