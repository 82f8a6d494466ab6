"""Crops against torchvision and against plain array arithmetic."""

from typing import get_args

import numpy as np
import pytest
from PIL import Image

from couplet.config.datasets import Crop
from couplet.data.sources.images import CROPS

SIZES = [(64, 64), (178, 218), (500, 375), (375, 500), (97, 61), (640, 64), (32, 33), (31, 30), (65, 64)]
"""Width and height."""


def noise(width, height, mode="RGB"):
    pixels = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def test_every_crop_has_code_and_words():
    assert set(CROPS) == set(get_args(Crop))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", get_args(Crop))
def test_result_is_square(name, size, mode):
    assert CROPS[name][0](noise(*size, mode), 64).size == (64, 64)


@pytest.mark.parametrize("name", get_args(Crop))
def test_an_image_of_the_size_stays_as_it_is(name):
    image = noise(64, 64)
    assert np.array_equal(np.asarray(CROPS[name][0](image, 64)), np.asarray(image))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["lanczos", "bicubic", "bilinear"])
def test_resize_center_crop_is_torchvisions(name, size):
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    image = noise(*size)
    theirs = Compose([Resize(64, interpolation=InterpolationMode(name)), CenterCrop(64)])(image)
    ours = CROPS[f"resize-center-crop-{name}"][0](image, 64)
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.mark.parametrize("size", SIZES)
def test_center_crop_resizes_the_central_square(size):
    image = noise(*size)
    pixels = np.asarray(image)
    side = min(size)
    above, before = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    square = pixels[above : above + side, before : before + side]
    wanted = Image.fromarray(square).resize((16, 16), Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(CROPS["center-crop"][0](image, 16)), np.asarray(wanted))


def test_dhariwal_halves_by_means_of_four_pixels():
    """From 64 to 16 are two exact halvings and no other resize: means along rows, then along columns,
    each rounded, as Pillow does it."""
    image = noise(80, 64, "L")
    pixels = np.asarray(image).astype(float)
    for _ in range(2):
        height, width = pixels.shape
        pixels = np.floor(pixels.reshape(height, width // 2, 2).mean(axis=2) + 0.5)
        pixels = np.floor(pixels.reshape(height // 2, 2, width // 2).mean(axis=1) + 0.5)
    found = np.asarray(CROPS["center-crop-dhariwal"][0](image, 16))
    assert np.array_equal(found, pixels[:, 2:18])


def test_dhariwal_ends_with_bicubic():
    """375 to 64: halved to 187 and 93, then by bicubic to 64; the longer side to round(125·64/93) = 86."""
    image = noise(500, 375)
    halved = image.resize((250, 187), Image.Resampling.BOX).resize((125, 93), Image.Resampling.BOX)
    wanted = np.asarray(halved.resize((86, 64), Image.Resampling.BICUBIC))[:, 11:75]
    assert np.array_equal(np.asarray(CROPS["center-crop-dhariwal"][0](image, 64)), wanted)


def test_crops_differ():
    """Another crop in the configuration gives other pixels."""
    image = noise(500, 375)
    results = {name: np.asarray(crop(image, 64)).tobytes() for name, (crop, _) in CROPS.items()}
    assert len(set(results.values())) == len(CROPS)
