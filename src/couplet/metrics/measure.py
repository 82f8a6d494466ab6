"""Images in an extractor's features: measured, saved as reference statistics, and compared with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from couplet.config.cells import EvaluateConfig
from couplet.config.variants import build
from couplet.errors import UserError
from couplet.files import replacing
from couplet.metrics.extractor.base import Extractor, Pixels
from couplet.metrics.moments import Moments, MomentsAccumulator
from couplet.ranks import ALONE, Ranks
from couplet.tensors import seed_of

MOST_FEATURES = 50_000
"""Largest number of features in memory, evenly spaced; kernel distances draw their subsets from them.

It covers CIFAR-10's training split and the samples that the papers report on.
"""


class Measured(NamedTuple):
    """Images in an extractor's features."""

    moments: Moments
    """Of all images."""
    features: NDArray[np.float32]
    """Of evenly spaced images [k, d]."""
    logits: NDArray[np.float32] | None
    """Of all images [n, c]; None unless they were asked for and the extractor has them."""


class Reference(NamedTuple):
    """Real images of one split in an extractor's features."""

    moments: Moments
    """Of all images."""
    features: NDArray[np.float32]
    """Of evenly spaced images [k, d]."""
    described: dict[str, Any]
    """Provenance, for records and reports: split, number of images, name and digest of the extractor."""


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


def save_reference(path: Path, measured: Measured, *, split: str, extractor: Extractor) -> None:
    """Write features and moments of the images of a split as safetensors."""
    moments = measured.moments
    tensors = {"features": measured.features, "mean": moments.mean, "covariance": moments.covariance}
    described = {
        "split": split,
        "images": moments.count,
        "features": len(measured.features),
        "ddof": 1,
        "extractor": extractor.name,
        "extractor_sha256": extractor.digest,
    }
    with replacing(path) as temporary:
        contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        save_file(contiguous, temporary, {"couplet": json.dumps(described, sort_keys=True)})


def load_reference(path: Path, extractor: Extractor) -> Reference:
    """Read the file that :func:`save_reference` wrote.

    Raises:
        UserError: the file is missing or damaged, or was made with another extractor.
    """
    try:
        with safe_open(path, framework="np") as file:
            described = json.loads((file.metadata() or {})["couplet"])
            mean, covariance, features = map(file.get_tensor, ("mean", "covariance", "features"))
        name, digest = described["extractor"], described["extractor_sha256"]
        moments = Moments(mean, covariance, int(described["images"]))
    except (OSError, KeyError, TypeError, ValueError, SafetensorError):
        raise UserError(f"{path}: not reference statistics of `couplet reference`; run it again") from None
    if (name, digest) != (extractor.name, extractor.digest):
        raise UserError(
            f"{path}: made with extractor {name} ({digest[:16]}), this one is {extractor.name} "
            f"({extractor.digest[:16]}); run `couplet reference` again"
        )
    return Reference(moments, features, described)


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
