"""Archives written image by image: bytes, skipped images and replaced archives."""

import contextlib
import hashlib
import json
import threading

import numpy as np
import pytest

from couplet.data.archive import Archive, CorruptImage, Source, Split, Stream, write
from couplet.errors import UserError


def stream(n=200, *, corrupt=(), seed=0):
    """Noise of 6x5 pixels in three classes; images named in ``corrupt`` cannot be decoded."""
    images = np.random.default_rng(seed).integers(0, 256, (n, 6, 5, 3), dtype=np.uint8)

    def image(index):
        if index in corrupt:
            raise CorruptImage("cut off")
        return images[index]

    return Stream([f"{i}.png" for i in range(n)], np.arange(n) % 3, image), images


def wrote(folder, splits, *, originals=(), skip_corrupt=False, **more):
    source = Source("a generator", ("a", "b", "c"), splits, dict(originals), skip_corrupt)
    return write(folder, "noise", source, **more)


def test_bytes_are_those_of_numpy(tmp_path):
    split, images = stream()
    card = wrote(tmp_path / "a", {"train": split})
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "labels.npy", np.arange(200) % 3)
    for part in ("images", "labels"):
        found = (tmp_path / "a" / f"train-{part}.npy").read_bytes()
        assert found == (tmp_path / f"{part}.npy").read_bytes()
        assert card.files[f"train-{part}.npy"] == hashlib.sha256(found).hexdigest()


def test_streams_and_arrays_give_the_same_archive(tmp_path):
    split, images = stream()
    wrote(tmp_path / "stream", {"train": split})
    wrote(tmp_path / "array", {"train": Split(images, split.labels)})
    for path in (tmp_path / "stream").iterdir():
        assert path.read_bytes() == (tmp_path / "array" / path.name).read_bytes()


@pytest.mark.parametrize("workers", [2, 4, 9])
def test_bytes_do_not_depend_on_the_workers(tmp_path, workers):
    split, _ = stream(1000, corrupt={3, 64, 700})
    wrote(tmp_path / "one", {"train": split}, skip_corrupt=True)
    wrote(tmp_path / "many", {"train": split}, skip_corrupt=True, workers=workers)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "many" / path.name).read_bytes()


def test_several_threads_decode(tmp_path):
    both = threading.Barrier(2, timeout=10)
    split, images = stream(128)

    def image(index):
        if index in (0, 64):
            both.wait()  # breaks unless the two blocks are decoded at the same time
        return images[index]

    wrote(tmp_path / "a", {"train": Stream(split.names, split.labels, image)}, workers=2)


def test_corrupt_images_are_refused_by_name(tmp_path):
    train, _ = stream(corrupt={7, 9, 11, 12})
    test, _ = stream(20, corrupt={5, 6})
    with pytest.raises(UserError) as caught:
        wrote(tmp_path / "a", {"train": train, "test": test})
    message = str(caught.value)
    assert "6 images cannot be decoded" in message
    assert "train: 7.png (cut off)" in message
    assert "test: 5.png" in message
    assert "test: 6.png" not in message, "the first few, not all"
    assert "\n" not in message
    assert not list((tmp_path / "a").iterdir())


def test_skipped_images_are_counted_and_named(tmp_path):
    split, images = stream(corrupt={0, 150})
    card = wrote(tmp_path / "a", {"train": split}, skip_corrupt=True)
    assert card.counts == {"train": 198}
    assert card.skipped == {"train": ("0.png", "150.png")}
    archive = Archive(tmp_path / "a")
    kept = np.delete(np.arange(200), [0, 150])
    assert np.array_equal(archive.train.images, images[kept])
    assert np.array_equal(archive.train.labels, kept % 3)
    np.save(tmp_path / "images.npy", images[kept])
    found = (tmp_path / "a" / "train-images.npy").read_bytes()
    assert found == (tmp_path / "images.npy").read_bytes()
    assert card.files["train-images.npy"] == hashlib.sha256(found).hexdigest()


def test_split_of_corrupt_images_only_is_refused(tmp_path):
    split, _ = stream(3, corrupt={0, 1, 2})
    with pytest.raises(UserError, match="no image of split train can be decoded"):
        wrote(tmp_path / "a", {"train": split}, skip_corrupt=True)


def test_refusal_leaves_an_older_archive_whole(tmp_path):
    good, _ = stream()
    wrote(tmp_path / "a", {"train": good, "test": good})
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    bad, _ = stream(corrupt={199}, seed=1)
    with pytest.raises(UserError):
        wrote(tmp_path / "a", {"train": stream(seed=2)[0], "test": bad})
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before


def test_full_disk_leaves_an_older_archive_whole(tmp_path, full_disk):
    wrote(tmp_path / "a", {"train": stream(20)[0]})
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    with full_disk(), pytest.raises(UserError, match="cannot be written") as caught:
        wrote(tmp_path / "a", {"train": stream(500)[0]})
    assert str(tmp_path / "a") in str(caught.value)
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before


def test_nothing_is_left_of_an_older_archive(tmp_path):
    split, _ = stream()
    wrote(tmp_path / "a", {"train": split, "test": split})
    (tmp_path / "a/preview.png").write_bytes(b"a picture of the older images")
    wrote(tmp_path / "a", {"train": split})
    assert {path.name for path in (tmp_path / "a").iterdir()} == {
        "card.json",
        "train-images.npy",
        "train-labels.npy",
    }


def test_archive_without_test_split_says_what_to_set(tmp_path):
    wrote(tmp_path / "a", {"train": stream()[0]})
    archive = Archive(tmp_path / "a")
    assert set(archive.card.counts) == {"train"}
    with pytest.raises(UserError, match=r"noise has no test split.*select\.split: train") as caught:
        archive.split("test")
    assert str(tmp_path / "a" / "card.json") in str(caught.value)


def test_digest_is_that_of_the_arrays(tmp_path):
    split, images = stream()
    card = wrote(tmp_path / "a", {"train": split})
    assert wrote(tmp_path / "b", {"train": split}, originals={"x": "md5:0"}).digest == card.digest
    lines = "".join(
        f"{name} {hashlib.sha256((tmp_path / 'a' / name).read_bytes()).hexdigest()}\n"
        for name in ("train-images.npy", "train-labels.npy")
    )
    assert card.digest == hashlib.sha256(lines.encode()).hexdigest()
    other = images.copy()
    other[3, 0, 0, 0] ^= 1
    assert wrote(tmp_path / "c", {"train": Split(other, split.labels)}).digest != card.digest
    assert json.loads((tmp_path / "b" / "card.json").read_text())["originals"] == {"x": "md5:0"}


def test_progress_counts_every_image(tmp_path):
    seen = []

    @contextlib.contextmanager
    def counting(title, total):
        done = []
        yield done.append
        seen.append((title, total, sum(done)))

    splits = {"train": stream(100, corrupt={5})[0], "test": stream(30)[0]}
    wrote(tmp_path / "a", splits, skip_corrupt=True, counting=counting)
    assert seen == [("noise: train", 100, 100), ("noise: test", 30, 30)]
