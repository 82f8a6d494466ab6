"""Points of two Gaussians: distribution, storage and picture."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from couplet.config.base import Invalid, located
from couplet.config.datasets import DatasetConfig, MixtureConfig, is_plane
from couplet.data.archive import Archive
from couplet.data.loader import to_float
from couplet.data.sources.base import read
from couplet.reporting.pictures import scatter
from stage_functions import prepare

NOWHERE = Path("no-such-folder")


def drawn(**settings):
    with read(MixtureConfig(**settings), NOWHERE) as source:
        return source


def coordinates(split):
    """[n, 2], in [-1, 1]."""
    return to_float(split.images, "cpu").numpy().reshape(len(split), 2).astype("f8")


def test_splits_labels_and_shapes():
    source = drawn()
    assert {name: split.images.shape for name, split in source.splits.items()} == {
        "train": (5000, 1, 1, 2),
        "test": (1000, 1, 1, 2),
    }
    assert source.classes == ("(0, 0.5)", "(0, -0.5)")
    for split in source.splits.values():
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int64)
        # Each class with probability 1/2: four standard deviations of a binomial.
        assert abs(split.labels.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(split))


@pytest.mark.parametrize("std", [0.01, 0.1, 0.125])
def test_each_class_is_a_round_gaussian(std):
    split = drawn(std=std, points=40_000).splits["train"]
    points = coordinates(split)
    # Rounding to values 2/255 apart adds the variance of a uniform error.
    spread = np.sqrt(std**2 + (2 / 255) ** 2 / 12)
    for label, mean in enumerate(((0, 0.5), (0, -0.5))):
        own = points[split.labels == label]
        error = spread / np.sqrt(len(own))
        np.testing.assert_allclose(own.mean(0), mean, atol=4 * error)
        np.testing.assert_allclose(own.std(0), spread, atol=4 * error)
        assert abs(np.corrcoef(own.T)[0, 1]) < 4 / np.sqrt(len(own))


def test_what_lies_beyond_the_edge_is_put_on_it():
    split = drawn(std=0.125, points=400_000).splits["train"]
    heights = split.images[:, 0, 0, 1]
    upper, lower = heights[split.labels == 0], heights[split.labels == 1]
    assert (upper.max(), lower.min()) == (255, 0)
    # Far from the other edge: nothing has wrapped around.
    assert upper.min() > 64
    assert lower.max() < 191


def test_points_are_the_same_every_time_and_others_for_another_seed():
    first, again, other = (drawn(seed=seed).splits for seed in (3, 3, 4))
    for name in ("train", "test"):
        assert np.array_equal(first[name].images, again[name].images)
        assert np.array_equal(first[name].labels, again[name].labels)
        assert not np.array_equal(first[name].images, other[name].images)


def test_test_points_depend_on_nothing_of_the_training_split():
    few, many = (drawn(points=count).splits for count in (1000, 2000))
    assert np.array_equal(few["test"].images, many["test"].images)
    assert not np.array_equal(few["test"].images, few["train"].images)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"std": 0}, "std = 0: value should be greater than or equal to 0.01"),
        ({"std": 0.2}, "std = 0.2: value should be less than or equal to 0.125"),
        ({"points": 1}, "points = 1: value should be greater than or equal to 2"),
        ({"test_points": 0}, "test_points = 0: value should be greater than or equal to 2"),
        ({"seed": -1}, "seed = -1: value should be greater than or equal to 0"),
        ({"test_images": 3}, "test_images = 3: unknown key"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(Invalid) as caught, located():
        DatasetConfig.parse({"kind": "mixture", **settings})
    assert message in str(caught.value)


def test_archive_and_its_picture(tmp_path):
    """The picture has the axes, a dot in the class's colour at every point, and nothing else."""
    card = prepare("toy", MixtureConfig(points=300, test_points=20), out=tmp_path / "toy", raw=NOWHERE)
    assert (card.shape, card.counts) == ((1, 1, 2), {"train": 300, "test": 20})
    assert card.source == (
        "equal mixture of two Gaussians, means (0, 0.5) and (0, -0.5), standard deviation 0.1, seed 0"
    )
    train = Archive(tmp_path / "toy").train
    with Image.open(tmp_path / "toy/preview.png") as file:
        picture = np.asarray(file)
    assert np.array_equal(picture, scatter(train.images, train.labels))
    assert picture.shape == (512, 512, 3)
    coloured = np.ptp(picture, axis=2) > 0
    assert coloured.sum() == 4 * len(np.unique(train.images, axis=0))
    colours = {tuple(row) for row in picture[:256][coloured[:256]]}
    assert len(colours) == 1
    assert colours.isdisjoint({tuple(row) for row in picture[256:][coloured[256:]]})


def test_second_coordinate_points_up():
    """A point at (1, 0.5): right edge, a quarter from the top."""
    picture = scatter(np.array([255, 191], np.uint8).reshape(1, 1, 1, 2))
    rows, columns = np.nonzero(np.ptp(picture, axis=2))
    assert (set(rows.tolist()), set(columns.tolist())) == ({128, 129}, {510, 511})


@pytest.mark.parametrize(
    ("shape", "plane"),
    [((1, 1, 2), True), ((1, 1, 3), False), ((2, 1, 2), False), ((1, 2, 1), False), (None, False)],
)
def test_which_images_are_points(shape, plane):
    assert is_plane(shape) is plane
