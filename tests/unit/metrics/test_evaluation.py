"""All numbers of a run's samples, the settings that choose them, and how they are printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from metric_helpers import moments
from scipy.special import softmax

from couplet.config.base import validated
from couplet.config.cells import EvaluateConfig
from couplet.config.extractors import ClassifierConfig, InceptionConfig
from couplet.config.metrics import MetricConfig, Number, column, described
from couplet.config.params import merge
from couplet.config.variants import implementation
from couplet.errors import UserError
from couplet.metrics.distances import frechet_distance, kernel_distance
from couplet.metrics.extractor.base import Extractor
from couplet.metrics.inception_score import inception_score
from couplet.metrics.measure import Measured, evaluate
from couplet.metrics.precision_recall import precision_recall
from couplet.tensors import seed_of


class Means(Extractor):
    """Features are the means of the channels; logits are half of them."""

    batch = 7

    def __init__(self, classifies: bool = True) -> None:
        super().__init__(ClassifierConfig(), Path(), torch.device("cpu"), digest="ab" * 32)
        self.classifies = classifies

    def prepare(self, images):
        return torch.from_numpy(images.astype("f4"))

    def network(self, prepared):
        means = prepared.mean((1, 2))
        return means, means / 2 if self.classifies else None


REAL = np.random.default_rng(0).normal(128, 9, (60, 3)).astype("f4")
IMAGES = {nfe: np.random.default_rng(nfe).integers(0, 256, (50, 4, 4, 3), dtype=np.uint8) for nfe in (1, 2)}
FEATURES = {nfe: Means()(images).values for nfe, images in IMAGES.items()}
REFERENCE = Measured(moments(REAL), REAL)


def numbers(metrics: dict[str, Any], extractor: Extractor | None = None) -> dict[tuple[str, int], float]:
    settings = EvaluateConfig(metrics=metrics)
    rows = evaluate(extractor or Means(), IMAGES, REFERENCE, settings, seed=5)
    assert all(set(row) == {"metric", "nfe", "value"} for row in rows)
    return {(row["metric"], row["nfe"]): row["value"] for row in rows}


def test_distances():
    expected = {}
    for nfe, values in FEATURES.items():
        seed = seed_of(5, "kid", nfe) % 2**32
        expected["fd", nfe] = frechet_distance(moments(values), REFERENCE.moments)
        expected["kid", nfe] = kernel_distance(values, REAL, subsets=3, subset_size=20, seed=seed)
    assert numbers({"fd": None, "kid": {"subsets": 3, "subset_size": 20}}) == pytest.approx(
        expected, rel=1e-9
    )


@pytest.mark.parametrize("variant", ["torchmetrics", "ect"])
def test_inception_score(variant):
    result = numbers({"is": {"variant": variant, "splits": 7}})
    for nfe, values in FEATURES.items():
        probabilities = softmax(values.astype("f8") / 2, axis=1)
        expected = inception_score(probabilities, variant=variant, splits=7)
        assert (result["is", nfe], result["is_std", nfe]) == pytest.approx(expected, rel=1e-12)


def test_precision_and_recall_of_evenly_spaced_images():
    result = numbers({"precision_recall": {"k": 2, "images": 25}})
    expected = precision_recall(REAL[np.arange(25) * 60 // 25], FEATURES[1][::2], k=2)
    assert (result["precision", 1], result["recall", 1]) == expected


def test_metrics_that_need_class_scores_are_left_out_without_them():
    assert {name for name, _ in numbers({"fd": {}, "is": {}}, Means(classifies=False))} == {"fd"}
    assert {name for name, _ in numbers({"fd": {}, "is": {}})} == {"fd", "is", "is_std"}


def test_one_kind_under_two_names():
    kid = {"kind": "kid", "subsets": 2}
    result = numbers({"kid": {"subsets": 2}, "small": {**kid, "subset_size": 10}, "same": kid})
    assert {name for name, _ in result} == {"kid", "small_kid", "same_kid"}
    assert result["kid", 1] == result["same_kid", 1] != result["small_kid", 1]


def test_progress_is_that_of_all_samples():
    done: list[int] = []
    evaluate(Means(), IMAGES, REFERENCE, EvaluateConfig(), seed=0, advance=done.append)
    assert sum(done) == 100


def test_too_few_samples():
    with pytest.raises(UserError, match="splits = 51: must be at most the number of samples, 50"):
        numbers({"is": {"splits": 51}})


def test_a_metric_from_elsewhere(monkeypatch):
    monkeypatch.setattr(MetricConfig, "family", dict(MetricConfig.family))

    class Count(MetricConfig):
        implementation: ClassVar[str] = f"{__name__}:count"
        numbers: ClassVar = {"number_of_images": Number("images", 0, lower_is_better=False)}
        kind: str = "count"

    assert numbers({"count": {}}) == {("number_of_images", 1): 50, ("number_of_images", 2): 50}
    assert described("number_of_images").heading == "images"


def count(config, samples, reference, *, seed):
    return {"number_of_images": samples.moments.count}


def test_every_metric_has_an_implementation_and_names_that_end_no_other():
    names = [name for metric in MetricConfig.family.values() for name in metric.numbers]
    assert len(names) == len(set(names))
    for metric in MetricConfig.family.values():
        assert callable(implementation(metric()))


def test_numbers_are_described():
    assert described("kid") == Number("KID", 5, lower_is_better=True)
    assert described("is_std").is_spread
    assert not described("is").lower_is_better
    assert described("small_kid") == Number("KID, small", 5, lower_is_better=True)
    assert described("my_is_std") == described("is_std")._replace(heading="IS, spread over splits, my")
    with pytest.raises(KeyError):
        described("unheard_of")


def test_columns():
    assert column("fd", InceptionConfig(), 1) == "fid_nfe1"
    assert column("is_std", InceptionConfig(mode="legacy_tensorflow"), 2) == "is_std_legacy_tensorflow_nfe2"
    assert column("small_kid", ClassifierConfig(), 2) == "small_kid_classifier_nfe2"


def test_settings():
    assert list(EvaluateConfig().metrics) == ["fd", "kid", "is"]
    written = {"metrics": {"fd": None, "kid": {"subsets": 100, "subset_size": 500}}}
    scaled = merge(written, {"metrics": {"kid": {"subsets": 4}}})
    kid = EvaluateConfig.model_validate(scaled).metrics["kid"]
    assert (kid.subsets, kid.subset_size) == (4, 500)
    settings = EvaluateConfig.model_validate(written)
    assert EvaluateConfig.model_validate(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kid_subsets": 4}, "kid_subsets = 4: unknown key; allowed: metrics"),
        ({"metrics": {"kid": {"subset": 4}}}, "metrics.kid.subset = 4: unknown key; did you mean 'subsets'?"),
        ({"metrics": {"kid": {"subsets": 0}}}, "metrics.kid.subsets = 0: "),
        ({"metrics": {"kid": {"subset_size": 1}}}, "metrics.kid.subset_size = 1: "),
        ({"metrics": {"precision_recall": {"k": 0}}}, "metrics.precision_recall.k = 0: "),
        ({"metrics": {"is": {"splits": 0}}}, "metrics.is.splits = 0: "),
        (
            {"metrics": {"mine": {}}},
            "metrics.mine.kind = null: this key is required; allowed: fd, is, kid, ",
        ),
        ({"metrics": ["fd"]}, "must be a mapping from names to metric settings"),
    ],
)
def test_unusable_settings(settings, message):
    with pytest.raises(UserError) as caught:
        validated(EvaluateConfig, settings, "params.yaml")
    assert message in str(caught.value)
