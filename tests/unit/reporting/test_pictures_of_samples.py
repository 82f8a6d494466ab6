"""Pictures of samples: images side by side, points of the plane as such."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from couplet.config.datasets import panel_size
from couplet.reporting.pictures import sample_grids, scatter, tile


def random_images(count, *shape):
    return np.random.default_rng(0).integers(0, 255, (count, *shape), dtype=np.uint8)


def test_images_stand_side_by_side_with_lines_between_them_only():
    images = random_images(5, 4, 4, 1)
    picture = tile(images, 3, side=4)
    assert picture.shape == (9, 14, 1)
    for index, image in enumerate(images):
        y, x = (5 * side for side in divmod(index, 3))
        assert np.array_equal(picture[y : y + 4, x : x + 4], image)
    assert (picture[5:, 10:] == 255).all()
    assert (picture[:, 4::5] == 255).all()


@pytest.mark.parametrize(("side", "enlarged"), [(8, 64), (28, 84), (32, 64), (64, 64), (256, 256)])
def test_small_images_are_enlarged_by_a_whole_number(side, enlarged):
    images = random_images(2, side, side, 3)
    picture = tile(images, 2)
    line = picture.shape[1] - 2 * enlarged
    assert picture.shape == (enlarged, 2 * enlarged + line, 3)
    times = enlarged // side
    for number, image in enumerate(images):
        x = number * (enlarged + line)
        assert np.array_equal(picture[:, x : x + enlarged], image.repeat(times, 0).repeat(times, 1))


def test_points_are_drawn_as_points():
    points = random_images(20, 1, 1, 2)
    assert np.array_equal(tile(points, 6), scatter(points))


@pytest.mark.parametrize(("shape", "most"), [((8, 8, 1), 36), ((8, 8, 3), 36), ((1, 1, 2), 1000)])
def test_panels_show_the_first_images_to_the_pixel_without_an_axis(shape, most):
    images, real, later = (
        random_images(1100, *shape),
        random_images(10, *shape)[::-1],
        random_images(8, *shape),
    )
    panels = {"NFE 1": {"variational": images, "real images": real}, "NFE 2": {"variational": later}}
    made = sample_grids(panels)
    assert panel_size(shape) == most
    first, second, below = (
        np.broadcast_to(panel, (*panel.shape[:2], 3))
        for panel in (tile(each, 4, side=32) for each in (images[:most], real, later))
    )
    with Image.open(BytesIO(made)) as file:
        picture = np.asarray(file)
    left = picture.shape[1] - first.shape[1] - second.shape[1] - 16
    top = picture.shape[0] - first.shape[0] - below.shape[0] - 16
    assert 40 < left < 80, "room for NFE 1"
    assert top == 30, "room for titles"
    assert np.array_equal(picture[top : top + first.shape[0], left : left + first.shape[1]], first)
    assert np.array_equal(picture[top : top + second.shape[0], left + first.shape[1] + 16 :], second)
    assert np.array_equal(picture[-below.shape[0] :, left : left + below.shape[1]], below)
    # Nothing but white between the panels and in the empty place, and letters only left and above.
    assert (picture[top:, left + first.shape[1] : left + first.shape[1] + 16] == 255).all()
    assert (picture[top + first.shape[0] + 16 :, left + first.shape[1] :] == 255).all()
    assert (picture[:top] < 128).any() and (picture[top:, :left] < 128).any()
