"""The values of an image as its features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from metric_helpers import moments

from couplet.config.datasets import MixtureConfig
from couplet.config.extractors import ExtractorConfig, ValuesConfig
from couplet.data.archive import Archive, Source, Split, write
from couplet.data.sources.base import read
from couplet.errors import UserError
from couplet.metrics.distances import frechet_distance
from couplet.metrics.extractor.base import load_extractor
from couplet.metrics.extractor.values import ValuesExtractor
from couplet.metrics.measure import load_reference
from stage_functions import features, prepare, reference

CPU = torch.device("cpu")


@pytest.fixture
def extractor(tmp_path):
    return ValuesExtractor(ValuesConfig(), tmp_path, CPU)


def test_features_are_the_pixels(extractor):
    images = np.random.default_rng(0).integers(0, 256, (2300, 3, 2, 3), dtype=np.uint8)
    found = extractor(images)
    assert found.logits is None
    assert found.values.dtype == np.float32
    expected = images.transpose(0, 3, 1, 2).reshape(2300, 18).astype("f8") / 127.5 - 1
    np.testing.assert_allclose(found.values, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("first", "second"), [((0.05, 0), (0.125, 0)), ((0.1, 0), (0.1, 1)), ((0.05, 1), (0.12, 0))]
)
def test_distance_of_two_gaussians(extractor, first, second):
    """|m1 - m2|² + 2 (s1 - s2)² for the plane's N(m, s² I): here the classes of mixtures of other widths."""
    found = []
    for std, label in (first, second):
        with read(MixtureConfig(std=std, points=200_000), None) as source:
            split = source.splits["train"]
        found.append(moments(extractor(split.images[split.labels == label]).values))
    (s1, k1), (s2, k2) = first, second
    # Means of 100,000 points err by about 0.0003 in each coordinate.
    assert frechet_distance(*found) == pytest.approx((k1 - k2) ** 2 + 2 * (s1 - s2) ** 2, rel=0.02)


def test_stages_write_a_card_and_the_moments_of_the_points(tmp_path):
    prepare("toy", MixtureConfig(points=60, test_points=20), out=tmp_path / "toy", raw=tmp_path)
    card = features(ValuesConfig(), tmp_path / "toy", tmp_path / "made")
    assert (card["kind"], card["name"], card["config"]) == ("values", "values-e3b0c442", {"kind": "values"})
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["card.json"]
    made = load_extractor(tmp_path / "made", CPU)
    reference(tmp_path / "toy", tmp_path / "made", tmp_path / "out")
    statistics = load_reference(tmp_path / "out/train.safetensors", made)
    points = Archive(tmp_path / "toy").train.images.reshape(60, 2) / 127.5 - 1
    np.testing.assert_allclose(statistics.moments.mean, points.mean(0), atol=1e-6)
    np.testing.assert_allclose(statistics.moments.covariance, np.cov(points.T), atol=1e-6)


def test_columns_carry_the_name():
    assert [ValuesConfig().metric(name) for name in ("fd", "kid")] == ["fd_values", "kid_values"]


def test_images_of_too_many_values_are_refused(extractor, tmp_path):
    assert extractor(np.zeros((2, 64, 64, 1), np.uint8)).values.shape == (2, 4096)
    large = np.zeros((2, 64, 64, 3), np.uint8)
    message = r"images of 64×64×3 values; values as features are for 4096 at most: choose another extractor$"
    with pytest.raises(UserError, match=f"^extractor values: {message}"):
        extractor(large)
    split = Split(large, np.zeros(2, np.int64))
    write(tmp_path / "faces", "faces", Source("none", (), {"train": split}))
    refusal = (
        "data set faces has images of 12288 values, values as features are for 4096 at most; choose another"
    )
    with pytest.raises(UserError, match=refusal):
        features(ValuesConfig(), tmp_path / "faces", tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_classifier_learns_points(tmp_path):
    """Images of one pixel go through convolutions too."""
    prepare("toy", MixtureConfig(points=500, test_points=100), out=tmp_path / "toy", raw=tmp_path)
    settings = ExtractorConfig.parse({"kind": "classifier", "steps": 100})
    card = features(settings, tmp_path / "toy", tmp_path / "made")
    assert card["test_accuracy"] > 0.95
    images = Archive(tmp_path / "toy").split("test").images
    assert load_extractor(tmp_path / "made", CPU)(images).values.shape == (100, 64)
