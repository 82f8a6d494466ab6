"""`couplet score`: any images, or those of a model, compared with real ones in one or more extractors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from couplet.config.cells import EvaluateConfig
from couplet.config.extractors import ExtractorConfig
from couplet.config.metrics import described, words
from couplet.config.variants import build, implementation, name_of, variants_in
from couplet.data.archive import ARRAYS, Archive
from couplet.data.pixels import ImageArray, is_npz, npz_array, npz_names, pixels_at
from couplet.errors import UserError
from couplet.files import write_json
from couplet.metrics.extractor.base import Extractor, load_extractor
from couplet.metrics.measure import MOST_FEATURES, Measured, Moments, evaluate, load_reference, measure
from couplet.plan.published import SCORE
from couplet.process import Context
from couplet.provenance.record import Digests, FreeRecorder, archive_digests, digests

STATISTICS = ("mu", "sigma")
"""Arrays of a file of moments, as clean-fid, EDM and OpenAI write it."""

ROUNDING = 1e-6
"""Negative eigenvalues of a covariance, as a fraction of its trace, that float32 explains."""


class Score(NamedTuple):
    """A number and the protocol without which it compares with no other."""

    metric: str
    extractor: ExtractorConfig
    value: float
    protocol: Mapping[str, Any]


def run(
    context: Context,
    settings: EvaluateConfig,
    *,
    samples: Path,
    reference: Path,
    extractors: Sequence[ExtractorConfig | Path],
    out: Path,
    split: str = "train",
    seed: int = 0,
    nfe: int = 0,
    origin: Digests | None = None,
    about: Mapping[str, Any] | None = None,
) -> list[Score]:
    """Write the numbers with their protocol to the file ``out``, and its record; return them.

    Args:
        settings: the metrics.
        samples: images, as in :func:`couplet.data.pixels.pixels_at`.
        reference: real images, equally; or an output folder of `couplet reference`, or an .npz file with
            the moments `mu` and `sigma`, which allow Fréchet distances alone.
        extractors: settings of published ones, or output folders of `couplet features`.
        split: of a reference with splits.
        seed, nfe: decide the random numbers of metrics, as in `couplet evaluate`; 0 for unknown NFE.
        origin: files with their SHA-256 that the samples come from, recorded in place of them.
        about: further facts about the samples, such as their model.

    Raises:
        UserError: there are no such images, too few, or they do not fit an extractor.
    """
    folders = [each for each in extractors if isinstance(each, Path)]
    inputs = {**(origin or _files(samples)), **_files(reference, split), **digests(*folders)}
    loaded = [_extractor(each, context) for each in extractors]
    metrics = {name: metric.model_dump(mode="json") for name, metric in settings.metrics.items()}
    chosen = {
        "extractors": [each.config.model_dump(mode="json") for each in loaded],
        "metrics": metrics,
        "split": split,
        "seed": seed,
        "nfe": nfe,
    }
    variants = [*(each.config for each in loaded), *variants_in(settings)]
    code = sorted({*SCORE, *map(name_of, variants)})
    record = FreeRecorder("score", chosen, out, context.device, inputs=inputs, numerics=code)
    named = {"path": str(samples), **(about or {})}
    scores: list[Score] = []
    with ExitStack() as stack:
        pixels = pixels_at(samples, "train", stack)
        real = _Reference(reference, split, stack)
        if real.of_one_extractor and len(loaded) > 1:
            names = " and ".join(each.config.label for each in loaded)
            raise UserError(
                f"{reference}: holds moments of one extractor, asked are {names}; give its --extractor"
            )
        widths = [_width(each, pixels, samples) for each in loaded]
        total = len(loaded) * (len(pixels) + real.to_measure)
        with context.counting(f"score {named['path']}", total) as advance:
            for extractor, width in zip(loaded, widths, strict=True):
                target = real.measured(extractor, width, context, advance)
                rows = evaluate(
                    extractor,
                    {nfe: pixels},
                    target,
                    settings,
                    seed=seed,
                    advance=advance,
                    ranks=context.ranks,
                )
                scores += [_score(row, extractor, settings, (len(pixels), target)) for row in rows]
        shape = list(pixels.shape)
    if not scores:
        asked = ", ".join(settings.metrics)
        raise UserError(f"{reference}: none of the metrics {asked} can be computed from it; choose others")
    content = {
        "key": record.key,
        "samples": {**named, "shape": shape},
        "reference": {"path": str(reference), **real.described},
        "extractors": {each.config.label: {"name": each.name, "sha256": each.digest} for each in loaded},
        "settings": chosen,
        "numbers": [
            {**score._asdict(), "extractor": score.extractor.label, "protocol": dict(score.protocol)}
            for score in scores
        ],
    }
    if context.ranks.first:
        write_json(out, content)
        record.finish(out)
    return scores


def _files(path: Path, split: str = "train") -> Digests:
    """The files that hold the images or statistics at ``path``, with their SHA-256."""
    if (path / ARRAYS[0]).exists():
        return archive_digests(Archive(path))
    if (statistics := path / f"{split}.safetensors").exists():
        return digests(statistics)
    return digests(path)


def _extractor(chosen: ExtractorConfig | Path, context: Context) -> Extractor:
    """The extractor of a folder, or a published one."""
    if isinstance(chosen, Path):
        return load_extractor(chosen, context.device)
    if implementation(chosen).make.__func__ is not Extractor.make.__func__:  # type: ignore[attr-defined]
        kind = f"--extractor {chosen.kind}"
        raise UserError(f"{kind}: is trained on a data set; give the output folder of `couplet features`")
    extractor: Extractor = build(chosen, Path(), context.device)
    return extractor


def _width(extractor: Extractor, pixels: ImageArray, path: Path) -> int:
    """Length of the features of images; UserError, with their path, if they do not suit the extractor."""
    try:
        return extractor(pixels[0:2]).values.shape[1]
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


class _Reference:
    """What is compared with: real images, measured in each extractor, or their statistics."""

    def __init__(self, path: Path, split: str, stack: ExitStack) -> None:
        self.path, self.described = path, dict[str, Any]()
        self.pixels: ImageArray | None = None
        self.moments: Moments | None = None
        self.statistics = path / f"{split}.safetensors"
        names = npz_names(path) if is_npz(path) else []
        if (path / ARRAYS[0]).exists() or self.statistics.exists():
            self.described["split"] = split
        if {*STATISTICS} <= {*names}:
            self.moments = _moments(path)
        if not self.statistics.exists() and (self.moments is None or "arr_0" in names):
            self.pixels = pixels_at(path, split, stack)
            self.described["shape"] = list(self.pixels.shape)

    @property
    def of_one_extractor(self) -> bool:
        """Whether moments are those in one extractor, which their file does not name."""
        return self.moments is not None

    @property
    def to_measure(self) -> int:
        """Number of images to pass through each extractor."""
        return 0 if self.pixels is None else len(self.pixels)

    def measured(self, extractor: Extractor, width: int, context: Context, advance: Any) -> Measured:
        """The reference in features of length ``width``."""
        known = self._known(extractor, width)
        if known is not None:
            own = known.moments.mean.size
        else:
            assert self.pixels is not None
            own = _width(extractor, self.pixels, self.path)
        if own != width:
            raise UserError(
                f"{self.path}: has {own} features in {extractor.name}, the samples have {width}; "
                "give images or statistics that fit"
            )
        if self.pixels is None:
            assert known is not None
            return known
        measured = measure(extractor, self.pixels, advance, ranks=context.ranks)
        return measured if known is None else measured._replace(moments=known.moments)

    def _known(self, extractor: Extractor, width: int) -> Measured | None:
        """What files say of the reference in these features."""
        if self.moments is not None:
            return Measured(self.moments, np.empty((0, width), np.float32))
        return load_reference(self.statistics, extractor) if self.pixels is None else None


def _moments(path: Path) -> Moments:
    """The moments `mu` and `sigma` in an .npz file, whose number of images is not stated."""
    found = [npz_array(path, name) for name in STATISTICS]
    if any(array.dtype.kind not in "fiu" for array in found):
        raise UserError(f"{path}: mu and sigma must be numbers, not {found[0].dtype} and {found[1].dtype}")
    mean, covariance = (array.astype(np.float64) for array in found)
    if mean.ndim != 1 or covariance.shape != (mean.size, mean.size):
        given = f"mu{list(mean.shape)} and sigma{list(covariance.shape)}"
        raise UserError(f"{path}: holds {given}, must be a vector and a square matrix of its length")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise UserError(f"{path}: mu or sigma has NaN or infinite entries")
    symmetric = np.allclose(covariance, covariance.T, rtol=ROUNDING)
    values, vectors = np.linalg.eigh(covariance)
    if not symmetric or values[0] < -ROUNDING * np.trace(covariance):
        raise UserError(f"{path}: sigma is no covariance: not symmetric, or with a negative eigenvalue")
    return Moments(mean, (vectors * values.clip(0)) @ vectors.T, 0)


def _score(
    row: Mapping[str, Any], extractor: Extractor, settings: EvaluateConfig, compared: tuple[int, Measured]
) -> Score:
    """A row of :func:`evaluate` with its protocol; ``compared``: number of samples, and the reference."""
    samples, target = compared
    counts = {"samples": samples, "images": target.moments.count, "features": len(target.features)}
    protocol = protocol_of(row["metric"], settings, extractor.config, extractor.name, **counts)
    return Score(row["metric"], extractor.config, row["value"], protocol)


def protocol_of(
    number: str,
    settings: EvaluateConfig,
    config: ExtractorConfig,
    name: str,
    *,
    samples: int,
    images: int,
    features: int,
) -> dict[str, Any]:
    """The protocol of a number.

    Args:
        number: its name, such as `fd`.
        settings: the metrics, one of which gives it.
        config: settings of the extractor.
        name: name of the extractor with its digest.
        samples: images generated.
        images: real images behind the moments; 0 if nobody stated their number.
        features: real images whose features are there one by one.
    """
    metric = next(
        metric
        for key, metric in settings.metrics.items()
        if number in [metric.name_of(each, key) for each in metric.numbers]
    )
    counts = [samples, images]
    if metric.needs_features:
        counts = [min(samples, MOST_FEATURES), features]
    return {"extractor": name, "resize": config.resize, **metric.protocol(counts[0], counts[1] or None)}


def lines(scores: Sequence[Score]) -> Iterator[tuple[str, str, str]]:
    """Heading, value and protocol of each number, for reading."""
    for score in scores:
        number = described(score.extractor.number(score.metric))
        arrow = "↓" if number.lower_is_better else "↑"
        yield f"{number.heading} {arrow}", number.text(score.value), words(score.protocol)
