"""Selection of a snapshot: each is scored, the lowest distance wins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from couplet.config.cells import Measurement, Training
from couplet.metrics.distances import frechet_distance
from couplet.metrics.extractor.base import Extractor
from couplet.metrics.measure import Measured, MomentsAccumulator
from couplet.model import ConsistencyModel, ImageShape
from couplet.ranks import ALONE, Ranks
from couplet.sampling import Images, samples_of


class Score(NamedTuple):
    """Quality of one snapshot."""

    step: int
    fd: Mapping[int, float]
    """Fréchet distance to the selection split for each NFE; lower is better."""


def score(
    training: Training,
    measurement: Measurement,
    network: ConsistencyModel,
    shape: ImageShape,
    *,
    extractor: Extractor,
    target: Measured,
    advance: Callable[[int], None],
    ranks: Ranks = ALONE,
) -> dict[int, float]:
    """The Fréchet distance of a snapshot's samples to ``target``, by NFE.

    Seeds differ from those of the samples on which the run is reported.

    Args:
        training: what was trained.
        measurement: how to sample and compare.
        network: the snapshot, in evaluation mode.
        shape: of its images.
        extractor: whose features are compared.
        target: the real images.
        advance: called with the size of each batch.
        ranks: the processes that share the work; each has the result.

    Raises:
        UserError: too few samples for the distance.
    """

    def features_of(images: Images) -> dict[int, NDArray[np.float32]]:
        return {nfe: extractor(batch).values for nfe, batch in images.items()}

    sums = {nfe: MomentsAccumulator() for nfe in measurement.selected_nfe}
    for batch in samples_of(
        training,
        measurement,
        network,
        shape,
        purpose="select",
        count=measurement.select.samples,
        nfe=measurement.selected_nfe,
        ranks=ranks,
        then=features_of,
    ):
        for nfe, values in batch.items():
            sums[nfe].add(values)
        advance(len(values))
    return {nfe: frechet_distance(moments.result(), target.moments) for nfe, moments in sums.items()}


def best(scores: Sequence[Score], nfe: int) -> Score:
    """The score with the lowest distance at ``nfe``; of equals, the earliest step.

    Raises:
        ValueError: there are no scores.
        KeyError: a snapshot has no score at ``nfe``.
    """
    return min(scores, key=lambda each: (each.fd[nfe], each.step))
