"""Configurations of data sets: allowed values and `--from`."""

import pytest

from couplet.config.base import Invalid, located
from couplet.config.datasets import DatasetConfig, HeldOutConfig, ImagesConfig, from_path
from couplet.errors import UserError

KINDS = {
    "digits",
    "mixture",
    "mnist",
    "fashion_mnist",
    "cifar10",
    "celeba64",
    "church64",
    "imagenet32",
    "imagenet64",
    "ffhq64",
    "images",
}


def parsed(**settings):
    with located():
        return DatasetConfig.parse(settings)


def test_kinds():
    assert set(DatasetConfig.family) >= KINDS
    for kind in KINDS - {"images"}:
        config = parsed(kind=kind)
        assert config.kind == kind
        assert DatasetConfig.parse(config.model_dump(mode="json")) == config
        assert len(config.native) == 3


def test_named_kinds_hold_no_path():
    """A key of a run must not depend on where a machine keeps its files."""
    pixels = {"kind", "crop", "originals", "test_images", "std", "points", "test_points", "seed"}
    for kind in KINDS - {"images"}:
        assert set(DatasetConfig.family[kind].model_fields) <= pixels


@pytest.mark.parametrize(
    ("settings", "splits"),
    [
        ({"kind": "digits", "test_images": 200}, {"train": 1597, "test": 200}),
        ({"kind": "mixture", "points": 7, "test_points": 3}, {"train": 7, "test": 3}),
        ({"kind": "cifar10"}, {"train": None, "test": None}),
        ({"kind": "celeba64"}, {"train": None, "test": None}),
        ({"kind": "ffhq64"}, {"train": None}),
        ({"kind": "ffhq64", "test_images": 5}, {"train": None, "test": 5}),
        ({"kind": "imagenet64"}, {"train": None}),
        ({"kind": "imagenet64", "originals": "ilsvrc"}, {"train": None, "test": None}),
        ({"kind": "images", "path": "x", "resolution": 8}, None),
        ({"kind": "images", "path": "x", "resolution": 8, "test_path": "y"}, {"train": None, "test": None}),
        ({"kind": "images", "path": "x", "resolution": 8, "test_images": 5}, {"train": None, "test": 5}),
    ],
)
def test_splits_that_settings_tell(settings, splits):
    assert parsed(**settings).splits == splits


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "cifar"}, "kind = \"cifar\": did you mean 'cifar10'"),
        ({"kind": "mnist", "test_images": 3}, "test_images = 3: unknown key"),
        ({"kind": "celeba64", "crop": "center"}, "did you mean 'center-crop'"),
        ({"kind": "ffhq64", "test_images": -1}, "test_images = -1"),
        ({"kind": "images", "resolution": 8}, "path = null: this key is required"),
        ({"kind": "images", "path": "x"}, "resolution = null: this key is required"),
        ({"kind": "images", "path": "x", "resolution": 0}, "resolution = 0"),
        ({"kind": "images", "path": "x", "resolution": 8, "channels": 2}, "channels = 2"),
        (
            {"kind": "images", "path": "x", "resolution": 8, "test_path": "y", "test_images": 3},
            "test_images = 3: must be 0 if test_path is set",
        ),
        ({"kind": "imagenet64", "originals": "ilsvrc", "test_images": 9}, "test_images = 9: must be 0"),
        ({"kind": "imagenet64", "crop": "resize-center-crop-lanczos"}, "with originals: zip"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(Invalid) as caught:
        parsed(**settings)
    assert message in str(caught.value)


def test_images_stand_in_for_a_named_kind():
    config = from_path("cifar10", "cifar10-jpeg.tar.xz")
    assert config == ImagesConfig(path="cifar10-jpeg.tar.xz", resolution=32, channels=3)
    assert from_path("mnist", "t10k") == ImagesConfig(path="t10k", resolution=28, channels=1)
    celeba = from_path("celeba64", "faces", test_images=7, skip_corrupt=True)
    assert (celeba.crop, celeba.test_images) == ("resize-center-crop-lanczos", 7)
    assert celeba.skip_corrupt
    assert from_path("mnist", "t10k", resolution=16, channels=3).resolution == 16


def test_images_of_another_name_need_a_resolution():
    assert from_path("pets", "p", resolution=48) == ImagesConfig(path="p", resolution=48)
    with pytest.raises(UserError, match="data set pets: needs a resolution"):
        from_path("pets", "p")
    with pytest.raises(UserError, match="data set pets: resolution = -3"):
        from_path("pets", "p", resolution=-3)


def test_held_out_is_no_kind():
    assert HeldOutConfig.family is DatasetConfig.family
    assert "held_out" not in DatasetConfig.family
