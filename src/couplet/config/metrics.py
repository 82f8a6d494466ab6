"""Metrics: how samples are compared with real images, and how the numbers are printed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from couplet.config.base import Invalid, Variant
from couplet.config.extractors import ExtractorConfig


class Number(NamedTuple):
    """How tables and figures print a number."""

    heading: str
    decimals: int
    lower_is_better: bool
    is_spread: bool = False
    """Whether it is the spread of another number within one run; tables leave it out."""

    def text(self, value: float, *, signed: bool = False) -> str:
        """A value of it as people read it; what rounds to zero has no minus sign."""
        return f"{value:{'+' if signed else ''}z.{self.decimals}f}"


class MetricConfig(Variant):
    """How samples are compared with real images: a function that returns ``numbers``; its seed is < 2^32."""

    numbers: ClassVar[Mapping[str, Number]]
    needs_logits: ClassVar[bool] = False
    """Whether the metric applies only to extractors that classify."""
    needs_features: ClassVar[bool] = False
    """Whether it compares single images, not moments."""
    states_protocol: ClassVar[bool] = False
    """Whether tables print features, settings and counts beside its numbers."""

    @property
    def least_images(self) -> int:
        """Least number of samples and of training images; of samples alone for a metric that needs logits."""
        return 2

    def protocol(self, samples: int, reference: int | None) -> dict[str, Any]:
        """Facts that stand beside the number of so many images, without which it compares with no other.

        Args:
            samples: images generated, or for a metric that compares single images those in memory.
            reference: real images; None if nobody stated their number.
        """
        settings = self.model_dump(mode="json", exclude={"kind"})
        return {**settings, "samples": samples, "reference_images": reference}

    def name_of(self, number: str, name: str) -> str:
        """Name of ``number`` where the metric is listed as ``name``: `kid`, or `small_kid` under `small`."""
        return number if name == self.kind else f"{name}_{number}"


class FrechetDistanceConfig(MetricConfig):
    """Fréchet distance between Gaussians fitted to the features (Heusel et al. 2017)."""

    implementation: ClassVar[str] = "couplet.metrics.distances:fd"
    # `fid` is the name of `fd` in Inception's features.
    numbers: ClassVar[Mapping[str, Number]] = {
        "fd": Number("Fréchet distance", 3, lower_is_better=True),
        "fid": Number("FID", 3, lower_is_better=True),
    }
    kind: Literal["fd"] = "fd"

    def protocol(self, samples: int, reference: int | None) -> dict[str, Any]:
        return {**super().protocol(samples, reference), "ddof": 1}


class KernelDistanceConfig(MetricConfig):
    """Kernel distance of the features, averaged over random subsets (Bińkowski et al. 2018)."""

    implementation: ClassVar[str] = "couplet.metrics.distances:kid"
    numbers: ClassVar[Mapping[str, Number]] = {"kid": Number("KID", 5, lower_is_better=True)}
    needs_features: ClassVar[bool] = True
    kind: Literal["kid"] = "kid"
    subsets: int = Field(100, ge=1, le=100_000)
    """Number of random subsets."""
    subset_size: int = Field(1000, ge=2)
    """Largest number of images in a subset."""

    def protocol(self, samples: int, reference: int | None) -> dict[str, Any]:
        size = min(self.subset_size, samples, reference or samples)
        return {**super().protocol(samples, reference), "subset_size": size}


class InceptionScoreConfig(MetricConfig):
    """Inception Score of the class probabilities (Salimans et al. 2016)."""

    implementation: ClassVar[str] = "couplet.metrics.inception_score:scores"
    numbers: ClassVar[Mapping[str, Number]] = {
        "is": Number("IS", 3, lower_is_better=False),
        "is_std": Number("IS, spread over splits", 3, lower_is_better=True, is_spread=True),
    }
    needs_logits: ClassVar[bool] = True
    kind: Literal["is"] = "is"
    variant: Literal["torchmetrics", "ect"] = "torchmetrics"
    """Parts of ceil(n / splits) images and the unbiased standard deviation over them (torchmetrics, VCT), or
    parts of equal size and the biased one (StyleGAN, ECT)."""
    splits: int = Field(10, ge=1)
    """Parts of the samples, each scored on its own."""

    @property
    def least_images(self) -> int:
        return self.splits

    def protocol(self, samples: int, reference: int | None) -> dict[str, Any]:
        return {key: value for key, value in super().protocol(samples, None).items() if value is not None}


class PrecisionRecallConfig(MetricConfig):
    """Improved precision and recall (Kynkäänniemi et al. 2019)."""

    implementation: ClassVar[str] = "couplet.metrics.precision_recall:fractions"
    numbers: ClassVar[Mapping[str, Number]] = {
        "precision": Number("precision", 4, lower_is_better=False),
        "recall": Number("recall", 4, lower_is_better=False),
    }
    needs_features: ClassVar[bool] = True
    states_protocol: ClassVar[bool] = True
    kind: Literal["precision_recall"] = "precision_recall"
    k: int = Field(3, ge=1)
    """Neighbours that span the manifold; 3 in the paper."""
    images: int = Field(10_000, ge=2, le=1_000_000)
    """Largest number of images of each side, evenly spaced: the cost is its square."""

    @property
    def least_images(self) -> int:
        return self.k + 1

    def protocol(self, samples: int, reference: int | None) -> dict[str, Any]:
        used = super().protocol(min(samples, self.images), min(reference or self.images, self.images))
        return {key: value for key, value in used.items() if key != "images"}

    @model_validator(mode="after")
    def _more_images_than_neighbours(self) -> Self:
        if self.images <= self.k:
            raise Invalid(("images",), self.images, f"must be above k = {self.k}")
        return self


def described(name: str) -> Number:
    """How a number is printed: `kid`, or `small_kid` of a metric called `small`; KeyError if none has it."""
    family: dict[str, Any] = MetricConfig.family
    numbers: dict[str, Number] = {k: v for metric in family.values() for k, v in metric.numbers.items()}
    if name in numbers:
        return numbers[name]
    longest = max((each for each in numbers if name.endswith(f"_{each}")), key=len, default=name)
    heading = f"{numbers[longest].heading}, {name.removesuffix(f'_{longest}')}"
    return numbers[longest]._replace(heading=heading)


def words(protocol: Mapping[str, Any]) -> str:
    """A number's protocol for reading: ``samples 50000, reference images not stated``."""
    facts = {name.replace("_", " "): value for name, value in protocol.items()}
    return ", ".join(f"{name} {'not stated' if value is None else value}" for name, value in facts.items())


def column(number: str, extractor: ExtractorConfig, nfe: int, of: str = "") -> str:
    """Name of a number, or of its spread, in metrics.json: ``fid_nfe1``, ``fd_classifier_nfe2``."""
    return f"{extractor.metric(number)}{of}_nfe{nfe}"
