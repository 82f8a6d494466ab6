"""The stages that compare: columns by extractor, the reference they name, and what they refuse."""

from __future__ import annotations

import json
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from metric_helpers import moments

from couplet.config.cells import EvaluateConfig, Measurement, SampleConfig, SelectConfig
from couplet.config.extractors import InceptionConfig
from couplet.data.archive import Archive
from couplet.errors import UserError
from couplet.files import sha256, write_json
from couplet.metrics.distances import frechet_distance
from couplet.metrics.extractor.base import load_extractor
from couplet.metrics.precision_recall import precision_recall
from couplet.plan.layout import in_folder
from couplet.plan.stages import RUN, STAGES, Settings
from couplet.process import Context, silent
from couplet.provenance.record import Recorder, archive_digests, digests
from couplet.stages import evaluate, select
from stage_functions import features, reference

CPU = torch.device("cpu")
COUNT = 24


@pytest.fixture
def place(make_archive, make_training, narrow_inception_file, tmp_path):
    """Features and statistics of colour images without a test split, samples of two NFE, and settings."""
    config = InceptionConfig(weights=str(narrow_inception_file), sha256=sha256(narrow_inception_file))
    data = make_archive("digits", train=30, channels=3, classes=())
    features(config, data, tmp_path / "features")
    reference(data, tmp_path / "features", tmp_path / "reference")
    (tmp_path / "samples").mkdir()
    for nfe in (1, 2):
        samples = np.random.default_rng(nfe).integers(0, 256, (COUNT, 8, 8, 3), dtype=np.uint8)
        np.save(tmp_path / "samples" / f"nfe{nfe}.npy", samples)
    (tmp_path / "selection.json").write_text('{"selected": {"step": 5, "checkpoint": "step-5"}}')
    measurement = Measurement(
        mid_sigmas=(0.8,),
        boundary=False,
        sample=SampleConfig(samples=COUNT, nfe=(1, 2)),
        select=SelectConfig(),
        evaluate=EvaluateConfig(
            metrics={"fd": {}, "kid": {"subsets": 2}, "is": {"splits": 4}, "precision_recall": {}}
        ),
    )
    training = make_training()
    write_json(tmp_path / "train" / "config.json", training.model_dump(mode="json"))
    settings = Settings.of(training, measurement=measurement, extractor=config)
    outputs = {stage: in_folder(tmp_path, stage) for stage in RUN} | {"prepare": data}
    config_file = digests(outputs["train"] / "config.json")
    made = {
        "train": config_file,
        "select": digests(outputs["select"]),
        "sample": digests(outputs["sample"]),
    }
    for stage, files in made.items():
        reads = {read: outputs[read] for read in STAGES[stage].reads}
        used = {"train": archive_digests(Archive(data)), "select": digests(outputs["reference"])}
        inputs = {**used.get(stage, {}), **(config_file if stage != "train" else {})}
        inputs |= digests(outputs["features"]) if stage == "select" else {}
        inputs |= digests(outputs["select"]) if stage == "sample" else {}
        # The training could not begin with a measurement that its data set does not allow.
        chosen = Settings.of(training) if stage == "train" else settings
        Recorder(stage, chosen, outputs[stage], CPU, reads=reads).write(inputs=inputs, outputs=files)
    return SimpleNamespace(folder=tmp_path, data=data, settings=settings, config=config)


def run(place, show=silent) -> dict[str, float]:
    paths = {STAGES[read].option: in_folder(place.folder, read) for read in STAGES["evaluate"].reads}
    evaluate.run(Context(show=show), place.settings, **paths, out=place.folder / "out" / "evaluation.json")
    return json.loads((place.folder / "out" / "evaluation.metrics.json").read_text())


def test_numbers_stand_in_columns_of_their_extractor(place):
    shown = []

    @contextmanager
    def show(title, total):
        yield lambda done, words: shown.append((done, total))

    metrics = run(place, show)
    suffix = place.config.sha256[:8]
    names = ("fid", "kid", "is", "is_std", "precision", "recall")
    assert set(metrics) == {f"{name}_{suffix}_nfe{nfe}" for name in names for nfe in (1, 2)}
    assert shown[-1] == (2 * COUNT, 2 * COUNT)

    extractor = load_extractor(place.folder / "features", CPU)
    real = extractor(Archive(place.data).train.images).values
    generated = extractor(np.load(place.folder / "samples" / "nfe2.npy")).values
    expected = frechet_distance(moments(generated), moments(real))
    assert metrics[f"fid_{suffix}_nfe2"] == pytest.approx(expected, rel=1e-6)
    fractions = metrics[f"precision_{suffix}_nfe2"], metrics[f"recall_{suffix}_nfe2"]
    assert fractions == precision_recall(real, generated, k=3)


def test_the_evaluation_lists_its_numbers(place):
    metrics = run(place)
    numbers = json.loads((place.folder / "out" / "evaluation.json").read_text())["numbers"]
    suffix = place.config.sha256[:8]
    assert {"metric", "extractor", "nfe", "seed", "value"} == set(numbers[0])
    assert {(row["extractor"], row["seed"]) for row in numbers} == {(f"inception_{suffix}", 0)}
    assert [row["nfe"] for row in numbers] == [1] * 6 + [2] * 6
    (fid,) = (row["value"] for row in numbers if (row["metric"], row["nfe"]) == ("fd", 2))
    assert fid == metrics[f"fid_{suffix}_nfe2"]
    assert len(metrics) == len(numbers)


def test_the_evaluation_says_what_it_compared_with(place):
    run(place)
    content = json.loads((place.folder / "out" / "evaluation.json").read_text())
    digest = place.config.sha256
    assert content["reference"] == {
        "split": "train",
        "images": 30,
        "features": 30,
        "ddof": 1,
        "extractor": f"inception-{digest[:8]}",
        "extractor_sha256": digest,
    }
    assert content["extractor"] == f"inception-{digest[:8]}"
    assert content["extractor_config"]["mode"] == "clean"
    assert "weights" not in content["extractor_config"]
    assert content["settings"]["metrics"]["is"] == {"kind": "is", "variant": "torchmetrics", "splits": 4}
    assert content["samples"]["sha256"]["nfe1.npy"] == sha256(place.folder / "samples" / "nfe1.npy")


def test_features_of_other_settings_are_refused(place):
    other = place.config.model_copy(update={"mode": "legacy_tensorflow"})
    place.settings = place.settings._replace(extractor=other)
    with pytest.raises(UserError, match="made with mode = clean, this needs legacy_tensorflow"):
        run(place)


def test_features_pin_the_weights_and_do_not_copy_them(place):
    folder = place.folder / "features"
    assert [path.name for path in folder.iterdir()] == ["card.json"]
    card = json.loads((folder / "card.json").read_text())
    assert card["sha256"] == place.config.sha256
    assert card["name"] == f"inception-{card['sha256'][:8]}"


def test_selection_on_a_split_that_is_not_there(place):
    paths = {STAGES[read].option: in_folder(place.folder, read) for read in STAGES["select"].reads}
    with pytest.raises(UserError, match=r"test\.safetensors: cannot be read .* set select\.split: train"):
        select.run(Context(), place.settings, **paths, out=place.folder / "out.json")
