"""All numbers of one run's samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from couplet.config.stages import EvaluateConfig
from couplet.config.variants import build
from couplet.metrics.extractor.base import Extractor, Pixels
from couplet.metrics.measure import Reference, measure
from couplet.ranks import ALONE, Ranks
from couplet.tensors import seed_of


def evaluate(
    extractor: Extractor,
    images: Mapping[int, Pixels],
    reference: Reference,
    settings: EvaluateConfig,
    *,
    seed: int,
    advance: Callable[[int], None] = lambda batch: None,
    ranks: Ranks = ALONE,
) -> list[dict[str, Any]]:
    """Compare samples with real images.

    Args:
        images: samples [n, h, w, c] by NFE.
        seed: of the run; random metrics draw from a seed that depends on it, their kind and the NFE.
        advance: called with the size of each batch of images.
        ranks: the processes that share the work; each returns all rows.

    Returns:
        Rows of ``metric``, ``nfe`` and ``value``, one for each number.

    Raises:
        UserError: too few samples or features for the settings.
    """
    rows = []
    logits = any(metric.needs_logits for metric in settings.metrics.values())
    for nfe, pixels in images.items():
        samples = measure(extractor, pixels, advance, logits=logits, ranks=ranks)
        for name, metric in settings.metrics.items():
            if metric.needs_logits and samples.logits is None:
                continue
            numbers = build(metric, samples, reference, seed=seed_of(seed, metric.kind, nfe) % 2**32)
            rows += [
                {"metric": metric.name_of(number, name), "nfe": nfe, "value": value}
                for number, value in numbers.items()
            ]
    return rows
