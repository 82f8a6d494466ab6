"""The classifier: what it learns from, what it writes, and what it cannot do."""

from __future__ import annotations

import json
from typing import ClassVar

import numpy as np
import pytest
import torch

from couplet.config.datasets import DigitsConfig
from couplet.config.extractors import ClassifierConfig, ExtractorConfig
from couplet.data.archive import Archive, Split
from couplet.data.loader import to_float
from couplet.errors import UserError
from couplet.files import sha256
from couplet.metrics.extractor import classifier
from couplet.metrics.extractor.base import CARD, Extractor, load_extractor
from couplet.metrics.extractor.classifier import ClassifierExtractor, train_classifier
from couplet.plan.stages import Settings
from couplet.provenance.record import record_with
from stage_functions import features

CPU = torch.device("cpu")
SMALL = ClassifierConfig(channels=(4,), features=3, steps=60, batch=16)


def test_writes_a_classifier_and_its_card(make_archive, tmp_path):
    data = make_archive(train=60, test=20)
    card = features(SMALL, data, tmp_path / "out")
    assert json.loads(json.dumps(card)) == json.loads((tmp_path / "out" / CARD).read_text())
    assert card["kind"] == "classifier"
    assert card["sha256"] == sha256(tmp_path / "out" / "extractor.safetensors")
    assert card["test_accuracy"] == 1.0
    assert card["tested_on"] == "test"
    assert card["data"] == Archive(data).card.files
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [CARD, "extractor.safetensors"]


def test_features_have_unit_variance_and_no_logits(make_archive, tmp_path):
    archive = Archive(make_archive(train=60, test=20))
    features(SMALL, archive.folder, tmp_path / "out")
    extractor = load_extractor(tmp_path / "out", CPU)
    assert isinstance(extractor, ClassifierExtractor)
    assert extractor.name == f"classifier-{sha256(tmp_path / 'out' / 'extractor.safetensors')[:8]}"
    result = extractor(archive.train.images)
    assert result.values.shape == (60, 3)
    # the scale makes variances 1 on average over the features
    assert result.values.var(0, ddof=1).mean() == pytest.approx(1.0, rel=1e-4)
    assert result.logits is None
    with torch.no_grad():
        logits = extractor.model(to_float(archive.train.images, CPU))
    assert (logits.argmax(1).numpy() == archive.train.labels).all()


def test_without_a_test_split_training_images_are_held_out(make_archive, tmp_path):
    card = features(SMALL, make_archive(train=60), tmp_path / "out")
    assert card["tested_on"] == "every 10th image of train"
    assert card["test_accuracy"] == 1.0
    # mislabelled held-out images cost accuracy and change nothing else
    archive = Archive(make_archive(train=60))
    labels = np.array(archive.train.labels)
    labels[::10] = 1 - labels[::10]
    honest, _ = train_classifier(SMALL, archive.train, None, 2)
    misled, accuracy = train_classifier(SMALL, Split(archive.train.images, labels), None, 2)
    assert accuracy == 0.0
    for name, tensor in honest.state_dict().items():
        assert torch.equal(tensor, misled.state_dict()[name])


def test_images_are_converted_a_few_at_a_time(make_archive, monkeypatch):
    archive = Archive(make_archive(train=64, test=32))
    whole, accuracy = train_classifier(SMALL, archive.train, archive.split("test"), 2)
    sizes = []

    def spy(images, device):
        sizes.append(len(images))
        return to_float(images, device)

    monkeypatch.setattr(classifier, "to_float", spy)
    monkeypatch.setattr(classifier, "CHUNK", 10)
    parts, accuracy_of_parts = train_classifier(SMALL, archive.train, archive.split("test"), 2)
    assert max(sizes) == SMALL.batch
    assert accuracy_of_parts == accuracy
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(tensor, parts.state_dict()[name])


def test_data_without_classes(make_archive, tmp_path):
    data = make_archive(name="faces", classes=(), train=30)
    with pytest.raises(UserError, match=r"faces has no classes .*another extractor: dinov2, inception"):
        features(SMALL, data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_extractor_of_other_settings_is_refused(make_archive, tmp_path):
    folder = tmp_path / "out"
    features(SMALL, make_archive(train=60, test=20), folder)
    assert load_extractor(folder, CPU).config == SMALL
    other = Settings(DigitsConfig(), SMALL.model_copy(update={"seed": 1}))
    with pytest.raises(UserError, match="made with seed = 0, this needs 1"):
        record_with("features", folder, other)


def test_damaged_files(make_archive, tmp_path):
    folder = tmp_path / "out"
    features(SMALL, make_archive(train=60, test=20), folder)
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps({**card, "sha256": "0" * 64}))
    with pytest.raises(UserError, match=rf"SHA-256 {card['sha256']}, the card says {'0' * 64}"):
        load_extractor(folder, CPU)
    for broken in ({}, [], {**card, "config": {"kind": "classifierr"}}, {**card, "config": {"kind": 3}}):
        (folder / CARD).write_text(json.dumps(broken))
        with pytest.raises(UserError, match=r"card\.json: not a card of `couplet features`"):
            load_extractor(folder, CPU)
    (folder / CARD).write_text(json.dumps(card))
    (folder / "extractor.safetensors").write_bytes(b"else")
    with pytest.raises(UserError, match=r"extractor\.safetensors: not a classifier"):
        load_extractor(folder, CPU)
    (folder / CARD).unlink()
    with pytest.raises(UserError, match=r"card\.json: cannot be read"):
        load_extractor(folder, CPU)


class Mean(Extractor):
    """One feature: the mean of an image."""

    batch = 4

    def __init__(self, config, folder, device):
        super().__init__(config, folder, device, digest="ab" * 32)

    def prepare(self, images):
        return to_float(images, CPU)

    def network(self, prepared):
        return prepared.flatten(1).mean(1, keepdim=True), None


def test_an_extractor_from_elsewhere(make_archive, tmp_path, monkeypatch):
    monkeypatch.setattr(ExtractorConfig, "family", dict(ExtractorConfig.family))

    class MeanConfig(ExtractorConfig):
        implementation: ClassVar[str] = f"{__name__}:Mean"
        kind: str = "mean"

    data = make_archive(train=6)
    features(MeanConfig(), data, tmp_path / "out")
    extractor = load_extractor(tmp_path / "out", CPU)
    assert (extractor.name, extractor.config.metric("fd")) == ("mean-abababab", "fd_mean")
    expected = Archive(data).train.images.mean((1, 2, 3)) / 127.5 - 1
    np.testing.assert_allclose(extractor(Archive(data).train.images).values[:, 0], expected, rtol=1e-5)


def test_an_extractor_that_nothing_implements(make_archive, tmp_path, monkeypatch):
    monkeypatch.setattr(ExtractorConfig, "family", dict(ExtractorConfig.family))

    class NoneConfig(ExtractorConfig):
        kind: str = "none"

    with pytest.raises(UserError, match="NoneConfig names no implementation"):
        features(NoneConfig(), make_archive(train=6), tmp_path / "out")
