"""Pictures of samples: images side by side, points of the plane as such."""

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from couplet.reporting.pictures import panel_size, sample_grids, scatter, tile


@pytest.fixture
def shown(monkeypatch):
    """The pictures that are drawn, in order."""
    found = []
    draw = Axes.imshow

    def imshow(axis, picture, **options):
        found.append(np.array(picture))
        return draw(axis, picture, **options)

    monkeypatch.setattr(Axes, "imshow", imshow)
    return found


def random_images(count, *shape):
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def test_images_stand_side_by_side():
    images = random_images(5, 4, 4, 1)
    picture = tile(images, 3)
    assert picture.shape == (10, 15, 1)
    for index, image in enumerate(images):
        y, x = (5 * side for side in divmod(index, 3))
        assert np.array_equal(picture[y : y + 4, x : x + 4], image)
    assert (picture[5:, 10:] == 110).all()


def test_points_are_drawn_as_points():
    points = random_images(20, 1, 1, 2)
    assert np.array_equal(tile(points, 6), scatter(points))


@pytest.mark.parametrize(("shape", "most"), [((8, 8, 1), 36), ((8, 8, 3), 36), ((1, 1, 2), 1000)])
def test_panels_show_the_first_images(shape, most, shown, tmp_path):
    images, real = random_images(1100, *shape), random_images(10, *shape)
    sample_grids(tmp_path / "a.png", {"NFE 1": {"vae": images, "real images": real}})
    assert panel_size(shape) == most
    expected = [tile(images[:most], 6).squeeze(), tile(real, 6).squeeze()]
    assert all(np.array_equal(*pair) for pair in zip(shown, expected, strict=True))
    assert plt.imread(tmp_path / "a.png").ndim == 3
