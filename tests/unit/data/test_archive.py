"""Archives: round trip, card, and refusal of damaged files."""

import hashlib
import json

import numpy as np
import pytest

from couplet.data.archive import Archive, Source, Split, write
from couplet.errors import UserError


@pytest.fixture
def splits(random_split):
    return {
        "train": random_split,
        "test": Split(random_split.images[:4].copy(), random_split.labels[:4].copy()),
    }


@pytest.fixture
def folder(tmp_path, splits):
    path = tmp_path / "archive"
    write(path, "noise", Source("a generator", ("a", "b", "c"), splits))
    return path


def refused(folder, split=None):
    """The one-line error message, which names a file of the folder."""
    with pytest.raises(UserError) as caught:
        Archive(folder).split(split)
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    return message


def test_round_trip(folder, splits):
    archive = Archive(folder)
    for name, split in (("train", archive.train), ("test", archive.split("test"))):
        assert np.array_equal(split.images, splits[name].images)
        assert np.array_equal(split.labels, splits[name].labels)
        assert len(split) == len(splits[name].images)
        assert split.images.dtype == np.uint8


def test_images_are_mapped_and_read_only(folder):
    images = Archive(folder).train.images
    assert isinstance(images, np.memmap)
    assert not images.flags.writeable


def test_card_describes_the_archive(folder):
    card = Archive(folder).card
    assert (card.dataset, card.source) == ("noise", "a generator")
    assert (card.shape, card.classes) == ((8, 8, 1), ("a", "b", "c"))
    assert card.counts == {"train": 10, "test": 4}
    assert set(card.files) | {"card.json"} == {path.name for path in folder.iterdir()}
    for name, digest in card.files.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def test_same_data_give_the_same_bytes(folder, tmp_path, splits):
    again = tmp_path / "again"
    write(again, "noise", Source("a generator", ("a", "b", "c"), splits))
    for path in folder.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes()


def test_missing_folder_is_refused(tmp_path):
    assert "card.json" in refused(tmp_path / "absent")


def test_archive_without_card_is_refused(folder):
    (folder / "card.json").unlink()
    assert "card.json" in refused(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "3", '{"dataset": "noise"}'])
def test_damaged_card_is_refused(folder, text):
    (folder / "card.json").write_text(text)
    assert "card.json" in refused(folder)


@pytest.mark.parametrize(
    "change",
    [{"shape": None}, {"shape": 5}, {"counts": None}, {"counts": {}}, {"counts": [4]}],
    ids=str,
)
def test_card_with_a_wrong_entry_is_refused(folder, change):
    content = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(content | change))
    refused(folder, "train")


@pytest.mark.parametrize("kept", [0, 5, 60, 0.5, 0.99])
@pytest.mark.parametrize("part", ["images", "labels"])
def test_truncated_array_is_refused(folder, part, kept):
    path = folder / f"train-{part}.npy"
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    assert path.name in refused(folder, "train")


def test_missing_array_is_refused(folder):
    (folder / "test-labels.npy").unlink()
    assert "test-labels.npy" in refused(folder, "test")


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((9, 8, 8, 1), np.uint8),
        np.zeros((10, 4, 4, 1), np.uint8),
        np.zeros((10, 8, 8, 1), np.float32),
    ],
    ids=["count", "shape", "type"],
)
def test_images_that_do_not_fit_the_card_are_refused(folder, images):
    np.save(folder / "train-images.npy", images)
    message = refused(folder, "train")
    assert "train-images.npy" in message
    assert "[10, 8, 8, 1]" in message


def test_labels_that_do_not_fit_the_images_are_refused(folder):
    np.save(folder / "train-labels.npy", np.zeros(9, np.int64))
    assert "9" in refused(folder, "train")


def test_pickled_objects_are_refused(folder):
    np.save(folder / "train-labels.npy", np.array([{}] * 10), allow_pickle=True)
    assert "train-labels.npy" in refused(folder, "train")
