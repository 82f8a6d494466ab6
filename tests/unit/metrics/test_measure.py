"""Many images through an extractor: moments, features in memory, and the statistics of a data set."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from metric_helpers import moments

from couplet.config.extractors import ClassifierConfig, DinoV2Config, ExtractorConfig, InceptionConfig
from couplet.data.archive import Archive, read_array
from couplet.errors import UserError
from couplet.metrics.extractor.base import Extractor, ahead, load_extractor
from couplet.metrics.measure import Measured, evenly_spaced, load_reference, measure, save_reference
from stage_functions import features, recorded, reference

CPU = torch.device("cpu")
SMALL = ClassifierConfig(channels=(4,), features=3, steps=5, batch=8)


class Channels(Extractor):
    """Features are the means of the channels, logits their doubles."""

    batch = 4

    def __init__(self, digest: str = "ab" * 32) -> None:
        super().__init__(SMALL, Path(), CPU, digest=digest)

    def prepare(self, images):
        return torch.from_numpy(images.astype("f4"))

    def network(self, prepared):
        means = prepared.mean((1, 2))
        return means, 2 * means


@pytest.fixture
def mapped(tmp_path):
    """uint8 [30, 5, 5, 3], on disk."""
    images = np.random.default_rng(0).integers(0, 256, (30, 5, 5, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    return read_array(tmp_path / "images.npy")


def ignore(done: int) -> None:
    pass


def test_moments_are_of_all_images_and_features_of_some(mapped):
    expected = mapped.mean((1, 2), dtype="f8")
    done = []
    result = measure(Channels(), mapped, done.append, most=7)
    np.testing.assert_allclose(result.moments.mean, expected.mean(0), rtol=1e-6)
    np.testing.assert_allclose(result.moments.covariance, np.cov(expected.T), rtol=1e-5)
    assert result.moments.count == 30
    np.testing.assert_allclose(result.features, expected[[0, 4, 8, 12, 17, 21, 25]], rtol=1e-6)
    assert result.logits is None
    assert done == [4] * 7 + [2]


def test_logits_are_kept_when_asked_for(mapped):
    result = measure(Channels(), mapped, ignore, logits=True)
    np.testing.assert_array_equal(result.logits, 2 * result.features)
    assert len(result.features) == 30


@pytest.mark.parametrize(("count", "most"), [(10, 3), (7, 7), (5, 9), (1_281_167, 50_000), (0, 4)])
def test_evenly_spaced(count, most):
    result = evenly_spaced(count, most)
    assert len(result) == min(count, most)
    if count:
        gaps = np.diff([*result, count])
        assert result[0] == 0
        assert gaps.min() >= count // len(result)
        assert gaps.max() <= -(-count // len(result))


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_than_two_batches_are_ever_prepared(mapped, workers):
    prepared, lock = [0], threading.Lock()

    def prepare(part):
        with lock:
            prepared[0] += len(part)
        return torch.from_numpy(np.array(part))

    used = 0
    for batch in ahead(np.split(mapped, range(4, 30, 4)), prepare, workers):
        assert prepared[0] - used <= 8
        used += len(batch)
        np.testing.assert_array_equal(batch, mapped[used - len(batch) : used])
    assert used == prepared[0] == 30


def test_what_goes_wrong_in_a_thread_is_raised(mapped):
    def prepare(part):
        raise UserError("bad image")

    with pytest.raises(UserError, match="bad image"):
        next(ahead([mapped[:4]], prepare, 2))


def test_reference_writes_each_split_that_there_is(make_archive, tmp_path, monkeypatch):
    monkeypatch.setattr("couplet.stages.reference.measure", lambda *a, **k: measure(*a, most=10, **k))
    data, folder, out = make_archive(train=41, test=12), tmp_path / "features", tmp_path / "out"
    features(SMALL, data, folder)
    shown = []

    @contextmanager
    def show(title, total):
        yield lambda done, words: shown.append((done, total))

    reference(data, folder, out, show)
    assert shown[-1] == (53, 53)
    extractor = load_extractor(folder, CPU)
    train = load_reference(out / "train.safetensors", extractor)
    everything = extractor(Archive(data).train.images).values
    np.testing.assert_allclose(train.moments.covariance, moments(everything).covariance, rtol=1e-5)
    np.testing.assert_array_equal(train.features, everything[evenly_spaced(41, 10)])
    assert train.described == {
        "split": "train",
        "images": 41,
        "features": 10,
        "ddof": 1,
        "extractor": extractor.name,
        "extractor_sha256": extractor.digest,
    }
    assert load_reference(out / "test.safetensors", extractor).moments.count == 12
    # the same folder for data without a test split
    reference(recorded(make_archive(name="other", train=20)), folder, out)
    assert [p.name for p in out.iterdir()] == ["train.safetensors"]


def test_statistics_of_another_extractor_are_refused(tmp_path):
    path = tmp_path / "train.safetensors"
    numbers = np.random.default_rng(0).normal(size=(9, 3)).astype("f4")
    measured = Measured(moments(numbers), numbers, None)
    save_reference(path, measured, split="train", extractor=Channels())
    assert load_reference(path, Channels()).described["split"] == "train"
    with pytest.raises(UserError, match=r"made with extractor classifier-abababab .*cdcdcdcd"):
        load_reference(path, Channels("cd" * 32))
    path.write_bytes(b"else")
    with pytest.raises(UserError, match="not reference statistics"):
        load_reference(path, Channels())


@pytest.mark.parametrize(
    ("config", "columns"),
    [
        (InceptionConfig(), ("fid", "kid", "is", "precision")),
        (
            InceptionConfig(mode="legacy_tensorflow"),
            ("fid_legacy_tensorflow", "kid_legacy_tensorflow", "is_legacy_tensorflow"),
        ),
        (
            InceptionConfig(sha256="0" * 64),
            ("fid_00000000", "kid_00000000", "is_00000000", "precision_00000000"),
        ),
        (InceptionConfig(mode="legacy_pytorch"), ("fid_legacy_pytorch", "kid_legacy_pytorch")),
        (ClassifierConfig(), ("fd_classifier", "kid_classifier", "is_classifier", "precision_classifier")),
        (DinoV2Config(), ("fd_dinov2", "kid_dinov2")),
        (DinoV2Config(sha256="1" * 64), ("fd_dinov2_11111111", "kid_dinov2_11111111")),
    ],
)
def test_numbers_of_different_extractors_never_share_a_column(config, columns):
    names = ("fd", "kid", "is", "precision")
    assert tuple(config.metric(name) for name in names[: len(columns)]) == columns


def test_where_weights_lie_is_in_no_key():
    here, there = InceptionConfig(weights="a/b.pt"), InceptionConfig(weights="c.pt")
    assert here.model_dump() == there.model_dump() == InceptionConfig().model_dump()
    assert "weights" in json.dumps(dict(here))
    assert ExtractorConfig.parse(dict(here)).weights == "a/b.pt"
