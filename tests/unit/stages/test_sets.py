"""Sets of real images and of samples, classes as in the data, several extractors of the same samples."""

from types import SimpleNamespace

import numpy as np
import pytest

from couplet.config.base import validated
from couplet.config.params import Params
from couplet.data.archive import Archive, read_array
from couplet.errors import UserError
from couplet.files import read_json
from couplet.metrics.extractor.base import load_extractor
from couplet.metrics.measure import evaluate, load_reference, measure, real_images
from couplet.plan.layout import Layout
from couplet.provenance.verify import verify
from couplet.provenance.why import why
from couplet.tensors import CPU, seed_of

SETS = {
    "reference": {"images": 400, "sets": 2},
    "sample": {"samples": 40, "nfe": [1], "labels": "data", "repeats": 3},
}


def changed(content, **sections):
    """Parameters of one conditional cell, measured with two extractors."""
    content["table1"] |= {"seeds": [0], "extractors": ["classifier", "values"]}
    content["recipes"]["ict"]["conditional"] = True
    return {**content, **{key: {**content.get(key, {}), **value} for key, value in sections.items()}}


@pytest.fixture(scope="module")
def made(finish, tmp_path_factory):
    """A grid of one cell with two extractors, and its table."""
    layout = finish(tmp_path_factory.mktemp("sets") / "results", lambda content: changed(content, **SETS))
    (cell, _), (_, second) = layout.params.measured()
    return SimpleNamespace(layout=layout, root=layout.root, cell=cell, outputs=layout.outputs(cell, second))


def test_all_extractors_measure_the_same_samples_of_one_selection(made):
    first, second = (made.layout.outputs(made.cell, name) for name in ("classifier", "values"))
    for stage in ("train", "select", "sample"):
        assert first[stage] == second[stage]
    for stage in ("features", "reference", "evaluate"):
        assert first[stage] != second[stage]
    assert len([*made.root.glob("runs/*/select-*/selection.json")]) == 1
    assert read_json(first["select"])["extractor"].startswith("classifier")
    numbers = [read_json(each["evaluate"])["samples"]["sha256"] for each in (first, second)]
    assert numbers[0] == numbers[1]
    rows = (made.root / "table1.csv").read_text().splitlines()
    assert len(rows) == 3
    pictures = sorted(path.name for path in (made.root / "table1.figures").iterdir())
    assert [name.rpartition("-")[0] for name in pictures] == ["digits-ict-ve-classifier"] * 2


def test_both_rows_lead_back_to_the_selection_and_every_file_is_as_recorded(made):
    assert verify(made.root).problems == []
    for row in ("1", "2"):
        (run,) = why(made.root / "table1.csv", row).runs
        stages = [record.stage for record in run.chain]
        assert stages.count("select") == stages.count("sample") == 1
        assert stages.count("reference") == (2 if row == "2" else 1)


def test_real_images_are_the_first_of_another_shuffle_in_each_set():
    images = np.arange(1000, dtype=np.uint8).repeat(1).reshape(-1, 1, 1, 1)
    first, again, second = (real_images(images, 300, number) for number in (0, 0, 1))
    assert len(first) == 300
    assert first.shape == (300, 1, 1, 1)
    np.testing.assert_array_equal(first.indices, again.indices)
    assert (np.diff(first.indices) > 0).all()
    assert 50 < len(np.intersect1d(first.indices, second.indices)) < 150
    np.testing.assert_array_equal(first[10:20], images[first.indices[10:20]])
    assert real_images(images, None, 3) is real_images(images, 1000, 3) is images
    with pytest.raises(UserError, match=r"reference.images = 1001: there are 1000 training"):
        real_images(images, 1001, 0)


def test_statistics_are_those_of_the_sets(made):
    folder = made.outputs["reference"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "test.safetensors",
        "train-1.safetensors",
        "train.safetensors",
    ]
    extractor = load_extractor(made.outputs["features"], CPU)
    images = Archive(made.outputs["prepare"]).train.images
    for number, name in enumerate(("train", "train-1")):
        wanted = measure(extractor, real_images(images, 400, number), lambda batch: None)
        found = load_reference(folder / f"{name}.safetensors", extractor)
        np.testing.assert_array_equal(found.moments.mean, wanted.moments.mean)
        assert (found.described["images"], found.described["of"], found.described["sets"]) == (
            400,
            len(images),
            2,
        )
    table = (made.root / "table1.csv").read_text()
    assert f"train, 400 of {len(images)} images, 2 sets" in table


def test_numbers_are_means_over_sets_of_samples_each_with_its_set_of_real_images(made):
    extractor = load_extractor(made.outputs["features"], CPU)
    settings = made.layout.params.evaluate
    samples = read_array(made.outputs["sample"] / "nfe1.npy")
    assert len(samples) == 120
    values = []
    for number, real in enumerate(("train", "train-1", "train")):
        target = load_reference(made.outputs["reference"] / f"{real}.safetensors", extractor)
        seed = seed_of(0, "repeat", number) if number else 0
        part = {1: samples[40 * number : 40 * number + 40]}
        values.append([row["value"] for row in evaluate(extractor, part, target, settings, seed=seed)])
    content = read_json(made.outputs["evaluate"])
    assert (content["samples"]["count"], content["samples"]["repeats"]) == (40, 3)
    rows = content["numbers"]
    np.testing.assert_allclose([row["value"] for row in rows], np.mean(values, axis=0))
    np.testing.assert_allclose([row["resampling_std"] for row in rows], np.std(values, axis=0, ddof=1))
    flat = read_json(made.outputs["evaluate"].with_name("evaluation.metrics.json"))
    assert flat["fd_values_resampling_std_nfe1"] == rows[0]["resampling_std"]
    header = (made.root / "table1.csv").read_text().splitlines()[0].split(",")
    assert "fd_values_resampling_std" in header


def test_classes_are_dealt_by_the_counts_that_selection_passes_on(made, grid, tmp_path):
    labels = Archive(made.outputs["prepare"]).train.labels
    counts = np.bincount(labels, minlength=10).tolist()
    assert read_json(made.outputs["select"])["label_counts"] == counts
    # The first set is what a single one would be.
    alone = made.layout.params.model_copy(
        update={"sample": made.layout.params.sample.model_copy(update={"repeats": 1})}
    )
    settings = Layout(alone, made.root).settings(made.cell, "classifier")
    outputs = {**made.layout.outputs(made.cell, "classifier"), "sample": tmp_path / "samples"}
    grid.run_stage("sample", settings, outputs)
    single = read_array(tmp_path / "samples/nfe1.npy")
    np.testing.assert_array_equal(single, read_array(made.outputs["sample"] / "nfe1.npy")[:40])


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"reference": {"images": 5000}},
            r"reference.images = 5000: data set digits has 1497 training",
        ),
        ({"reference": {"images": 1}}, r"reference.images = 1: "),
        ({"reference": {"sets": 2}}, r"reference.sets = 2: must be 1 where `images` is null"),
        ({"sample": {"repeats": 0}}, r"sample.repeats = 0: "),
        ({"sample": {"labels": "even"}}, r"sample.labels = \"even\": .*allowed: balanced, data, uniform"),
    ],
)
def test_sets_that_cannot_be_are_refused(grid_content, sections, message):
    with pytest.raises(UserError, match=message):
        validated(Params, changed(grid_content, **sections), "params.yaml")
