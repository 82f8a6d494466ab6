"""Selection of a snapshot: each is scored, the lowest distance wins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from couplet.config.cells import Measurement, Training
from couplet.metrics.distances import frechet_distance
from couplet.metrics.extractor.base import Extractor
from couplet.metrics.measure import Measured, MomentsAccumulator
from couplet.model import ConsistencyModel, ImageShape
from couplet.ranks import ALONE, Ranks
from couplet.sampling import Images, samples_of


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
    **options: Any,
) -> dict[int, float]:
    """The Fréchet distance of a snapshot's samples to ``target``, by NFE.

    Seeds differ from those of the samples on which the run is reported. ``ranks`` share the work, and each
    has the result. ``advance`` is called with the size of each batch; ``options`` are those of
    :func:`samples_of`.

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
        **options,
    ):
        for nfe, values in batch.items():
            sums[nfe].add(values)
        advance(len(values))
    return {nfe: frechet_distance(moments.result(), target.moments) for nfe, moments in sums.items()}


def best(scores: Mapping[int, Mapping[int, float]], nfe: int) -> int:
    """The step whose snapshot has the lowest distance at ``nfe``, of distances by step and NFE.

    Of equals, the earliest step.
    """
    return min(scores, key=lambda step: (scores[step][nfe], step))
