"""Images in an extractor's features: measured, saved as reference statistics, and compared with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import from_numpy

from couplet.config.cells import EvaluateConfig
from couplet.config.variants import build
from couplet.data.pixels import ImageArray
from couplet.errors import UserError
from couplet.metrics.extractor.base import Extractor
from couplet.ranks import ALONE, Ranks
from couplet.tensors import load_tensors, save_tensors, seed_of

MOST_FEATURES = 50_000
"""Largest number of features in memory, evenly spaced: CIFAR-10's training split, or a paper's samples."""


FloatArray = NDArray[np.float64]


def check_features(values: NDArray[Any], noun: str, *, least: int) -> None:
    """Check a matrix [n, d] of finite numbers with ``least`` rows or more, named ``noun`` in messages.

    Raises:
        UserError: too few rows, or NaN or infinite entries.
        ValueError: not a matrix, or one without columns.
    """
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(f"{noun}: expected a matrix [samples, features], got shape {values.shape}")
    if len(values) < least:
        raise UserError(f"{noun}: {len(values)} samples, at least {least} are needed")
    if not np.isfinite(values).all():
        raise UserError(f"{noun}: NaN or infinite entries")


def check_width(first: int, second: int) -> None:
    """Raise ValueError unless two sets of features have the same length d."""
    if first != second:
        raise ValueError(f"features of different lengths ({first} and {second})")


def check_pair(real: NDArray[Any], generated: NDArray[Any], *, least: int) -> None:
    """Apply :func:`check_features` and :func:`check_width` to two sets of features."""
    check_features(real, "real features", least=least)
    check_features(generated, "generated features", least=least)
    check_width(real.shape[1], generated.shape[1])


@dataclass(frozen=True, eq=False)
class Moments:
    """First two moments of a set of features."""

    mean: FloatArray
    """[d]."""
    covariance: FloatArray
    """[d, d], divided by ``count - 1`` as in clean-fid, torchmetrics and GC; StyleGAN and ECT divide by n."""
    count: int
    """Number of samples."""


class MomentsAccumulator:
    """Moments of features that arrive in batches; holds one [d, d] matrix, never the samples.

    Batches are merged by the pairwise update of Chan, Golub and LeVeque (1979), which keeps full float64
    accuracy where a running sum of x xᵀ would cancel.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean: FloatArray = np.zeros(0)
        self._scatter: FloatArray = np.zeros((0, 0))

    def add(self, batch: NDArray[Any]) -> Self:
        """Add features [n, d] of any real dtype, with the same d in every batch; returns itself.

        Raises:
            UserError: NaN or infinite entries.
            ValueError: not a matrix, or another d than before.
        """
        check_features(batch, "batch of features", least=0)
        if len(batch) == 0:
            return self
        features = np.asarray(batch, np.float64)
        mean = features.mean(axis=0)
        centred = features - mean
        scatter = centred.T @ centred
        if self.count == 0:
            self.count, self._mean, self._scatter = len(batch), mean, scatter
            return self
        check_width(self._mean.size, mean.size)
        total = self.count + len(batch)
        shift = mean - self._mean
        between = np.outer(shift, shift) * (self.count * len(batch) / total)
        self._mean = self._mean + shift * (len(batch) / total)
        self._scatter = self._scatter + scatter + between
        self.count = total
        return self

    def result(self) -> Moments:
        """Return the moments of all samples so far; UserError for fewer than two."""
        if self.count < 2:
            raise UserError(f"features: {self.count} samples, at least 2 are needed")
        return Moments(self._mean, self._scatter / (self.count - 1), self.count)


class Measured(NamedTuple):
    """Images in an extractor's features."""

    moments: Moments
    """Of all images."""
    features: NDArray[np.float32]
    """Of evenly spaced images [k, d]; none, k = 0, where only moments are known."""
    logits: NDArray[np.float32] | None = None
    """Of all images [n, c]; None unless they were asked for and the extractor has them."""
    described: Mapping[str, Any] = {}
    """Provenance of real images: split, number of images, name and digest of the extractor."""


def measure(
    extractor: Extractor,
    images: ImageArray,
    advance: Callable[[int], None],
    *,
    most: int = MOST_FEATURES,
    logits: bool = False,
    ranks: Ranks = ALONE,
) -> Measured:
    """Pass ``images`` through ``extractor`` batch by batch; each of ``ranks`` returns the complete result.

    Args:
        advance: called with the size of each batch.
        most: largest number of features to return.
        logits: whether to return logits as well.

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


@dataclass(frozen=True, eq=False)
class Chosen:
    """Some of many images, read slice by slice."""

    images: NDArray[np.uint8]
    indices: NDArray[np.int64]
    """Rising."""

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.indices), *self.images.shape[1:])

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, part: slice) -> NDArray[np.uint8]:
        return self.images[self.indices[part]]


def real_images(images: NDArray[np.uint8], wanted: int | None, number: int) -> ImageArray:
    """The first ``wanted`` of shuffled images, in their own order; all of them for None.

    Each ``number`` is another shuffle, which depends on nothing else than the number of images.

    Raises:
        UserError: there are fewer images.
    """
    if wanted is not None and wanted > len(images):
        raise UserError(f"reference.images = {wanted}: there are {len(images)} training images; null is all")
    if wanted in (None, len(images)):
        return images
    shuffled = np.random.default_rng(seed_of("reference", number)).permutation(len(images))
    return Chosen(images, np.sort(shuffled[:wanted]))


def save_reference(
    path: Path,
    measured: Measured,
    *,
    split: str,
    extractor: Extractor,
    counts: Sequence[int] = (),
    **more: int,
) -> None:
    """Write features and moments of images of a split as safetensors.

    Args:
        counts: images of each class in the whole split; empty without classes.
        more: further facts to describe the images by.
    """
    moments = measured.moments
    arrays = {"features": measured.features, "mean": moments.mean, "covariance": moments.covariance}
    if counts:
        arrays["label_counts"] = np.array(counts, np.int64)
    described = {
        "split": split,
        "images": moments.count,
        **more,
        "features": len(measured.features),
        "ddof": 1,
        "extractor": extractor.name,
        "extractor_sha256": extractor.digest,
    }
    tensors = {name: from_numpy(array) for name, array in arrays.items()}
    save_tensors(path, tensors, couplet=json.dumps(described, sort_keys=True))


def load_reference(path: Path, extractor: Extractor) -> Measured:
    """Read the file that :func:`save_reference` wrote.

    Raises:
        UserError: the file is missing or damaged, or was made with another extractor.
    """
    try:
        texts, tensors = load_tensors(path)
        described = json.loads(texts["couplet"])
        mean, covariance, features = (tensors[name].numpy() for name in ("mean", "covariance", "features"))
        name, digest = described["extractor"], described["extractor_sha256"]
        moments = Moments(mean, covariance, int(described["images"]))
    except (OSError, KeyError, TypeError, ValueError, SafetensorError):
        raise UserError(f"{path}: not reference statistics of `couplet reference`; run it again") from None
    if (name, digest) != (extractor.name, extractor.digest):
        raise UserError(
            f"{path}: made with extractor {name} ({digest[:16]}), this one is {extractor.name} "
            f"({extractor.digest[:16]}); run `couplet reference` again"
        )
    return Measured(moments, features, described=described)


def label_counts(path: Path) -> list[int]:
    """The images of each class in the split of a file of :func:`save_reference`; UserError without them."""
    try:
        return [int(count) for count in load_tensors(path)[1]["label_counts"]]
    except (OSError, KeyError, SafetensorError):
        advice = "run `couplet reference` again, or set sample.labels: balanced"
        raise UserError(f"{path}: holds no numbers of images by class; {advice}") from None


def over_sets(sets: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Rows of :func:`evaluate` of several sets of samples of a model as one: their means.

    ``resampling_std`` is the standard deviation over sets; one set has none, and its rows stay as they are.
    """
    if len(sets) == 1:
        return sets[0]
    rows = []
    for same in zip(*sets, strict=True):
        values = [row["value"] for row in same]
        spread = {"value": float(np.mean(values)), "resampling_std": float(np.std(values, ddof=1))}
        rows.append({**same[0], **spread})
    return rows


def evaluate(
    extractor: Extractor,
    images: Mapping[int, ImageArray],
    reference: Measured,
    settings: EvaluateConfig,
    *,
    seed: int,
    advance: Callable[[int], None] = lambda batch: None,
    ranks: Ranks = ALONE,
) -> list[dict[str, Any]]:
    """Compare samples by NFE with real images; return a row of ``metric``, ``nfe`` and ``value`` per number.

    Args:
        seed: of the run; random metrics draw from a seed that depends on it, their kind and the NFE.
        advance: called with the size of each batch of images.

    Raises:
        UserError: too few samples or features for the settings.
    """
    rows: list[dict[str, Any]] = []
    logits = any(metric.needs_logits for metric in settings.metrics.values())
    for nfe, pixels in images.items():
        samples = measure(extractor, pixels, advance, logits=logits, ranks=ranks)
        for name, metric in settings.metrics.items():
            if metric.needs_logits and samples.logits is None:
                continue
            if metric.needs_features and not len(reference.features):
                continue
            numbers = build(metric, samples, reference, seed=seed_of(seed, metric.kind, nfe) % 2**32)
            rows += [
                {"metric": metric.name_of(number, name), "nfe": nfe, "value": value}
                for number, value in numbers.items()
            ]
    return rows
