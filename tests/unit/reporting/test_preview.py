"""The preview picture of a data set."""

import numpy as np

from couplet.data.archive import Split
from couplet.reporting.pictures import contact_sheet


def test_sheet_has_a_row_for_each_class():
    """Images of class k are constant at 10·k + 5: tiles in row k show that value, up to the right edge."""
    labels = np.arange(60, dtype=np.int64) % 3
    images = np.broadcast_to((labels * 10 + 5)[:, None, None, None], (60, 8, 8, 1)).astype(np.uint8)
    sheet = np.asarray(contact_sheet(Split(images, labels), ("a", "b", "c")))
    left = sheet.shape[1] - (10 * 68 - 4)
    assert sheet.shape == (3 * 68 - 4, left + 10 * 68 - 4, 3)
    assert left < 30, "room for names of one letter"
    for row in range(3):
        assert (sheet[68 * row : 68 * row + 64, :left] < 128).any(), "its name"
        for column in range(10):
            y, x = row * 68, left + column * 68
            assert (sheet[y : y + 64, x : x + 64] == 10 * row + 5).all()


def test_sheet_shows_ten_classes_of_many_and_images_without_classes():
    images = np.zeros((1000, 64, 64, 3), np.uint8)
    classes = tuple(f"class {i}" for i in range(1000))
    many = np.asarray(contact_sheet(Split(images, np.arange(1000)), classes))
    assert many.shape[0] == 10 * 68 - 4
    assert (many[:, -64:].reshape(-1, 3).min(axis=1) == 0).sum() == 10 * 64 * 64
    plain = np.asarray(contact_sheet(Split(images, np.zeros(1000, np.int64)), ()))
    assert plain.shape == (10 * 68 - 4, 10 * 68 - 4, 3), "no room for names that are blank"
