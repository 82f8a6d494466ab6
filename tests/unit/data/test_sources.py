"""scikit-learn's digits as a source of images."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from couplet.config.datasets import DatasetConfig, Digits
from couplet.data import read


@pytest.fixture(scope="module")
def digits():
    return read(Digits(test_images=300))


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
    """The two splits together are scikit-learn's images with their labels, each once."""

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
    again = read(Digits(test_images=300))
    for name, split in digits.splits.items():
        assert np.array_equal(split.images, again.splits[name].images)


@pytest.mark.parametrize("count", [10, 1000])
def test_size_of_the_test_split_is_configured(count):
    splits = read(Digits(test_images=count)).splits
    assert (len(splits["test"]), len(splits["train"])) == (count, 1797 - count)


def test_configuration_without_reader_is_refused():
    class Strange(DatasetConfig):
        """Sets no kind, so it joins no family."""

    with pytest.raises(TypeError, match="Strange"):
        read(Strange(kind="strange"))
