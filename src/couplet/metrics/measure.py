"""Features of many images: moments of all of them, and as many features as fit in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from couplet.metrics.extractor import Extractor, Pixels
from couplet.metrics.moments import Moments, MomentsAccumulator
from couplet.ranks import ALONE, Ranks

FEATURES_KEPT = 50_000
"""Features kept of one set of images, evenly spaced; kernel distances draw their subsets from them.

All of CIFAR-10's training split, and all samples that the papers report on. Moments are of all images.
"""


class Measured(NamedTuple):
    """What an extractor makes of a set of images."""

    moments: Moments
    """Of all images, divided by n - 1 as clean-fid does."""
    features: NDArray[np.float32]
    """Of evenly spaced images [k, d]."""
    logits: NDArray[np.float32] | None
    """Of all images [n, c], where they were asked for and the extractor has them."""


def measure(
    extractor: Extractor,
    images: Pixels,
    advance: Callable[[int], None],
    *,
    keep: int = FEATURES_KEPT,
    logits: bool = False,
    ranks: Ranks = ALONE,
) -> Measured:
    """Passes ``images`` [n, h, w, c], possibly mapped from disk, through ``extractor`` batch by batch.

    Args:
        advance: called with the size of each batch.
        keep: most features that are kept.
        logits: whether logits are kept as well.
        ranks: the processes that share the work; each has the whole result.

    Raises:
        UserError: fewer than two images, or features that are not finite.
    """
    wanted = evenly_spaced(len(images), keep)
    sums, kept, scores, start = MomentsAccumulator(), [], [], 0
    for values, found in extractor.batches(images, ranks):
        sums.add(values)
        stop = start + len(values)
        inside = wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, stop)]
        kept.append(values[inside - start])
        if logits and found is not None:
            scores.append(found)
        advance(len(values))
        start = stop
    result = sums.result()
    return Measured(result, np.concatenate(kept), np.concatenate(scores) if scores else None)


def evenly_spaced(count: int, most: int) -> NDArray[np.int64]:
    """Positions of at most ``most`` of ``count`` things, as evenly spaced as whole numbers are, from 0 on."""
    few = min(count, most)
    return np.arange(few) * count // max(few, 1)
