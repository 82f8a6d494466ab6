"""scikit-learn's digits as a source of images, and data sets of plug-ins."""

import sys
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pytest
from sklearn.datasets import load_digits

from couplet.config.datasets import DatasetConfig, DigitsConfig, ImagesConfig, MnistConfig
from couplet.data.archive import Archive, Split
from couplet.data.sources.base import Source, read
from couplet.errors import UserError
from stage_functions import prepare

NOWHERE = Path("no-such-folder")


@pytest.fixture(scope="module")
def digits():
    return digits_of(300)


def digits_of(test_images):
    with read(DigitsConfig(test_images=test_images), NOWHERE) as source:
        return source


def test_counts_and_shapes(digits):
    assert {name: len(split) for name, split in digits.splits.items()} == {
        "train": 1497,
        "test": 300,
    }
    assert digits.classes == tuple("0123456789")
    for split in digits.splits.values():
        assert split.images.shape == (len(split), 8, 8, 1)
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int64)


def test_grey_values_span_the_whole_range(digits):
    images = np.concatenate([split.images for split in digits.splits.values()])
    assert set(np.unique(images)) == {round(255 * grey / 16) for grey in range(17)}


def test_splits_are_disjoint_and_complete(digits):
    """The two splits together contain each of scikit-learn's images once, with its label."""

    def rows(images, labels):
        flat = images.reshape(len(images), 64).astype(int)
        return sorted(map(tuple, np.column_stack([flat, labels]).tolist()))

    source = load_digits()
    whole = rows(np.rint(source.images * 255 / 16), source.target)
    train, test = (
        rows(split.images, split.labels) for split in (digits.splits["train"], digits.splits["test"])
    )
    assert sorted(train + test) == whole
    # No two of scikit-learn's images are equal, so nothing of the test split is in training.
    assert not set(train) & set(test)


def test_test_images_are_drawn_evenly_from_the_classes(digits):
    counts = np.bincount(digits.splits["test"].labels)
    shares = np.bincount(load_digits().target) * 300 / 1797
    assert np.abs(counts - shares).max() < 1


def test_split_is_the_same_every_time(digits):
    again = digits_of(300)
    for name, split in digits.splits.items():
        assert np.array_equal(split.images, again.splits[name].images)


@pytest.mark.parametrize("count", [10, 1000])
def test_size_of_the_test_split_is_configured(count):
    splits = digits_of(count).splits
    assert (len(splits["test"]), len(splits["train"])) == (count, 1797 - count)


def test_configuration_without_reader_is_refused():
    class Strange(DatasetConfig):
        """Sets no kind, so it joins no family."""

    message = "dataset strange: Strange names no implementation"
    with pytest.raises(UserError, match=message), read(Strange(kind="strange"), NOWHERE):
        pass


def read_ramp(config, raw, stack):
    images = np.arange(config.images * 64, dtype=np.uint8).reshape(-1, 8, 8, 1)
    return Source("a ramp", (), {"train": Split(images, np.zeros(config.images, np.int64))})


def test_one_function_adds_a_kind(tmp_path, monkeypatch):
    """A plug-in needs a configuration class and a function that returns arrays."""
    monkeypatch.setattr(DatasetConfig, "family", dict(DatasetConfig.family))

    class Ramp(DatasetConfig):
        implementation: ClassVar[str] = f"{__name__}:read_ramp"
        kind: Literal["ramp"] = "ramp"
        images: int = 5

    card = prepare(
        "ramp", DatasetConfig.parse({"kind": "ramp", "images": 3}), out=tmp_path / "a", raw=NOWHERE
    )
    assert (card.counts, card.shape, card.source) == ({"train": 3}, (8, 8, 1), "a ramp")
    assert Archive(tmp_path / "a").train.images.flatten().tolist() == list(range(192))


def test_digits_archive_keeps_its_bytes(tmp_path):
    """The digests are those of the first version."""
    card = prepare("digits", DigitsConfig(), out=tmp_path, raw=NOWHERE)
    assert {name: digest[:16] for name, digest in card.files.items()} == {
        "train-images.npy": "c2fef9269c844278",
        "train-labels.npy": "e436347a49fad5a3",
        "test-images.npy": "4711c2f005284b08",
        "test-labels.npy": "df285b60c422a149",
    }


@pytest.mark.parametrize(
    ("absent", "config", "package"),
    [
        (["sklearn", "sklearn.datasets"], DigitsConfig(), "scikit-learn"),
        (["torchvision", "torchvision.datasets"], MnistConfig(), "torchvision"),
        (["PIL"], ImagesConfig(path="x", resolution=8), "pillow"),
    ],
)
def test_missing_package_is_named(monkeypatch, absent, config, package):
    """Whether the reader imports it or its module."""
    for name in [name for name in sys.modules if name.startswith("couplet.data.sources.")]:
        monkeypatch.delitem(sys.modules, name)
    for name in absent:
        monkeypatch.setitem(sys.modules, name, None)
    message = f"^dataset {config.kind}: {package} is not installed; pip install {package}$"
    with pytest.raises(UserError, match=message), read(config, NOWHERE):
        pass


def test_missing_module_of_an_installed_package_is_a_bug(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ModuleNotFoundError), read(DigitsConfig(), NOWHERE):
        pass
