"""The preview picture of a data set."""

import numpy as np

from couplet.data.archive import Split
from couplet.reporting.pictures import contact_sheet


def test_sheet_has_a_row_for_each_class():
    """Images of class k are constant at 10·k + 5: tiles in row k show that value."""
    labels = np.arange(60, dtype=np.int64) % 3
    images = np.broadcast_to((labels * 10 + 5)[:, None, None, None], (60, 8, 8, 1)).astype(np.uint8)
    sheet = np.asarray(contact_sheet(Split(images, labels), ("a", "b", "c")))
    assert sheet.shape == (4 + 3 * 68, 110 + 4 + 10 * 68, 3)
    for row in range(3):
        for column in range(10):
            y, x = 4 + row * 68, 114 + column * 68
            assert (sheet[y : y + 64, x : x + 64] == 10 * row + 5).all()


def test_sheet_shows_ten_classes_of_many_and_images_without_classes():
    images = np.zeros((1000, 64, 64, 3), np.uint8)
    classes = tuple(f"class {i}" for i in range(1000))
    many = contact_sheet(Split(images, np.arange(1000)), classes)
    assert np.asarray(many).shape == (4 + 10 * 68, 110 + 4 + 68, 3)
    plain = contact_sheet(Split(images, np.zeros(1000, np.int64)), ())
    assert np.asarray(plain).shape == (4 + 10 * 68, 4 + 10 * 68, 3)
