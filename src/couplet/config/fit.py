"""Whether data set, recipe, measurement and extractor fit together: one check, before any work.

It is made when parameters are resolved, with what the settings of a data set tell, and by every stage that
reads a prepared data set, with what its card tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from couplet.config.base import Invalid, located
from couplet.config.cells import Measurement, Training
from couplet.config.datasets import DatasetConfig
from couplet.config.extractors import ExtractorConfig
from couplet.config.metrics import MetricConfig


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a data set; None where only its files tell."""

    name: str
    resolution: int | None
    channels: int | None
    classes: int | None
    """Number of classes; 0 without labels."""
    splits: Mapping[str, int | None] | None
    """Number of images of each split."""
    empty_classes: tuple[str, ...] = ()
    """Classes without a training image."""

    @classmethod
    def of(cls, name: str, config: DatasetConfig) -> Facts:
        """What the settings tell."""
        resolution, channels = config.size
        return cls(
            name=name,
            resolution=resolution,
            channels=channels,
            classes=config.num_classes,
            splits=config.splits,
        )

    def count(self, split: str) -> int | None:
        """Number of images of a split."""
        return None if self.splits is None else self.splits.get(split)


def check_fit(
    data: Facts,
    training: Training | None = None,
    measurement: Measurement | None = None,
    extractor: ExtractorConfig | None = None,
) -> None:
    """Check all that is given against the data set.

    Raises:
        Invalid: a setting does not fit.
    """
    if training is not None:
        with located("recipes", training.cell.recipe):
            _check_recipe(data, training)
    if measurement is not None:
        _check_measurement(data, measurement, extractor)
    if extractor is not None:
        _check_extractor(data, extractor)


def _check_recipe(data: Facts, training: Training) -> None:
    recipe = training.recipe
    if recipe.conditional and data.classes == 0:
        raise Invalid(("conditional",), True, f"must be false: data set {data.name} has no labels")
    if recipe.conditional and data.empty_classes:
        problem = f"class {data.empty_classes[0]} of data set {data.name} has no training image"
        raise Invalid(
            ("conditional",),
            True,
            f"{problem}, but samples are drawn of all; number labels 0, 1, …, or set false",
        )
    if data.resolution is not None and (misfit := recipe.network.misfit(data.resolution)):
        raise Invalid(("network", "kind"), recipe.network.kind, f"data set {data.name}: {misfit}")


def _check_extractor(data: Facts, extractor: ExtractorConfig) -> None:
    if problem := extractor.misfit(data):
        others = ", ".join(sorted({*ExtractorConfig.family} - {extractor.kind}))
        raise Invalid(
            ("extractor",),
            extractor.kind,
            f"data set {data.name} {problem}; choose another extractor: {others}",
        )
    for split, count in (data.splits or {}).items():
        if count == 1:
            raise Invalid(("datasets", data.name), split, "has 1 image, statistics need 2 or more")


def _check_measurement(data: Facts, measurement: Measurement, extractor: ExtractorConfig | None) -> None:
    split = measurement.select.split
    if data.splits is not None and split not in data.splits:
        raise Invalid(
            ("select", "split"),
            split,
            f"data set {data.name} has no {split} split; set train, as the papers do, or "
            f"datasets.{data.name}.test_images",
        )
    images, count = measurement.reference.images, data.count("train")
    if images is not None and count is not None and images > count:
        expected = f"data set {data.name} has {count} training images; null takes all"
        raise Invalid(("reference", "images"), images, expected)
    metrics: Mapping[str, MetricConfig] = measurement.evaluate.metrics
    for name, metric in metrics.items():
        counts = {"sample.samples": measurement.sample.samples}
        if not metric.needs_logits:
            what = f"number of training images of data set {data.name}"
            counts["reference.images" if images else what] = images or count or metric.least_images
        elif extractor is None or not extractor.has_logits:
            continue
        for what, count in counts.items():
            if count < (least := metric.least_images):
                expected = f"needs {least} images or more with its settings; {what} is {count}"
                raise Invalid(("evaluate", "metrics", name), metric.kind, expected)
