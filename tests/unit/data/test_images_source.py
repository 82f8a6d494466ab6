"""Images of the user: every container, labels, splits, colours and refusals."""

import gzip
import io
import json
import os
import struct
import sys
import tarfile
import zipfile
import zlib
from contextlib import ExitStack

import lmdb
import numpy as np
import pytest
from PIL import Image, ImageFile

from couplet.config.datasets import ImagesConfig
from couplet.data.archive import Archive, Stream
from couplet.data.sources.base import with_held_out
from couplet.data.sources.containers import images_at
from couplet.errors import UserError
from stage_functions import prepare


def pixels(seed, height=8, width=8, channels=3):
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def grown(folder, files):
    """Write files, relative names with bytes, below ``folder``."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def prepared(tmp_path, path, *, workers=1, **settings):
    config = ImagesConfig(path=str(path), **{"resolution": 8, **settings})
    card = prepare("mine", config, out=tmp_path / "archive", raw=tmp_path / "raw", workers=workers)
    return card, Archive(tmp_path / "archive")


def refused(tmp_path, path, **settings):
    """The one-line error message; no archive is left."""
    with pytest.raises(UserError) as caught:
        prepared(tmp_path, path, **settings)
    assert "\n" not in str(caught.value)
    out = tmp_path / "archive"
    assert not out.exists() or not list(out.iterdir())
    return str(caught.value)


TREE = {f"{kind}/{i}.png": (k, i) for k, kind in enumerate(["ape", "bee", "cow"]) for i in range(4)}
"""Names with class and number."""


def tree(prefix=""):
    return {f"{prefix}{name}": png(pixels(k * 10 + i)) for name, (k, i) in TREE.items()}


WANTED = np.stack([pixels(k * 10 + i) for k, i in TREE.values()])
LABELS = [k for k, _ in TREE.values()]


@pytest.mark.parametrize("name", ["BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP"])
def test_a_format_with_a_mark_is_opened_at_the_first_attempt(name, tmp_path, monkeypatch):
    attempts = []
    begin = ImageFile.ImageFile.__init__

    def noted(self, *arguments):
        attempts.append(type(self).format)
        begin(self, *arguments)

    monkeypatch.setattr(ImageFile.ImageFile, "__init__", noted)
    Image.fromarray(pixels(0)).save(tmp_path / "0.png", name)
    with ExitStack() as stack:
        assert images_at(tmp_path, stack).splits["train"].image(0).format == name
    assert attempts == [name]


def zipped(path, files, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(path, files, mode):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture(params=["folder", "zip", "deflated.zip", "tar", "tar.gz", "tar.xz", "tar.bz2", "noname"])
def container(request, tmp_path):
    """Returns a function that packs files; the name of `noname` does not tell its format."""

    def make(files):
        path = tmp_path / f"images.{request.param}"
        if request.param == "folder":
            return grown(path, files)
        if request.param.endswith("zip"):
            packing = zipfile.ZIP_DEFLATED if "deflated" in request.param else zipfile.ZIP_STORED
            return zipped(path, files, compression=packing)
        compression = request.param.partition(".")[2]
        return tarred(path, files, f"w:{compression}")

    return make


def test_classes_are_the_first_folders(container, tmp_path):
    card, archive = prepared(tmp_path, container(tree() | {"ape/notes.txt": b"x", "._bee.png": b"x"}))
    assert card.classes == ("ape", "bee", "cow")
    assert card.counts == {"train": 12}
    assert card.shape == (8, 8, 3)
    assert np.array_equal(archive.train.images, WANTED)
    assert archive.train.labels.tolist() == LABELS


def test_folders_train_and_test_are_splits(container, tmp_path):
    held = {"bee/x.png": png(pixels(91)), "ape/y.png": png(pixels(92))}
    files = tree("data/train/") | {f"data/test/{name}": content for name, content in held.items()}
    card, archive = prepared(tmp_path, container(files))
    assert card.counts == {"train": 12, "test": 2}
    assert card.classes == ("ape", "bee", "cow")
    assert np.array_equal(archive.train.images, WANTED)
    assert np.array_equal(archive.split("test").images, [pixels(92), pixels(91)])
    assert archive.split("test").labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Train", "Test"),
        ("training", "testing"),
        ("TRAINING", "Validation"),
        ("train", "eval"),
        ("Train", "DEV"),
    ],
)
def test_names_of_splits_in_any_case(container, tmp_path, train, test):
    held = {f"{test}/{kind}/x.png": png(pixels(91 + i)) for i, kind in enumerate(["ape", "bee"])}
    card, archive = prepared(tmp_path, container(tree(f"{train}/") | held))
    assert card.counts == {"train": 12, "test": 2}
    assert card.classes == ("ape", "bee", "cow")
    assert card.folders == {"train": train, "test": test}
    assert np.array_equal(archive.train.images, WANTED)
    assert np.array_equal(archive.split("test").images, [pixels(91), pixels(92)])


@pytest.mark.parametrize("prefix", ["", "cifar/png/"])
def test_flat_splits_have_no_labels(container, tmp_path, prefix):
    files = {f"{prefix}Training/{i}.png": png(pixels(i)) for i in range(4)}
    files |= {f"{prefix}Testing/{i}.png": png(pixels(i)) for i in range(4, 6)}
    card, archive = prepared(tmp_path, container(files))
    assert (card.counts, card.classes) == ({"train": 4, "test": 2}, ())
    assert card.folders == {"train": f"{prefix}Training", "test": f"{prefix}Testing"}
    assert np.array_equal(archive.split("test").images, [pixels(4), pixels(5)])


def test_splits_with_the_labels_of_a_dataset_json(container, tmp_path):
    names = [f"{split}/{i}.png" for split in ("Train", "Test") for i in range(3)]
    labels = json.dumps({"labels": [[name, i % 3] for i, name in enumerate(names)]})
    files = {name: png(pixels(i)) for i, name in enumerate(names)} | {"dataset.json": labels.encode()}
    card, archive = prepared(tmp_path, container(files))
    assert (card.counts, card.classes) == ({"train": 3, "test": 3}, ("0", "1", "2"))
    assert np.array_equal(archive.split("test").images, [pixels(3), pixels(4), pixels(5)])
    assert archive.split("test").labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("test/ape", "test/bee", "val/ape"), "test and val are splits; train is missing"),
        (("Testing/ape", "Testing/bee"), "has no images but in 'Testing'; the training images must be in"),
        (("train/ape", "Training/ape"), "'Training' and 'train' both name the train split; rename one"),
        (("train/ape", "test/ape", "testing/ape"), "'test' and 'testing' both name the test split"),
        (("train/ape", "extra/ape"), "'extra' next to 'train' must be one of test, "),
        (("ape", "bee", "Test"), "'ape' next to 'Test' must be one of "),
        (("valid", "invalid"), "'invalid' next to 'valid' must be one of "),
        (("ape/train", "ape/test", "bee/train"), "ape/test/0.png: 'test' is the name of a split, which must"),
        (("train/ape/test", "train/bee"), "train/ape/test/0.png: 'test' is the name of a split"),
        (("train2017", "val2017"), "'val2017' and 'train2017' may be a class or a split"),
        (("seg_train/ape", "seg_test/ape"), "'seg_test' and 'seg_train' may be a class or a split"),
        (("TrainSet", "TestSet"), "'TestSet' and 'TrainSet' may be a class or a split"),
        (("ape", "bee", "test1"), "'test1' may be a class or a split; name splits train and test"),
    ],
)
def test_names_of_splits_never_become_classes(container, tmp_path, folders, message):
    files = {f"{folder}/{i}.png": png(pixels(i)) for folder in folders for i in range(2)}
    assert message in refused(tmp_path, container(files))


@pytest.mark.parametrize("names", [("bullet_train", "tram"), ("latest", "oldest"), ("crash_test_man", "man")])
def test_words_that_only_hold_the_name_of_a_split_are_classes(tmp_path, names):
    files = {f"{name}/{i}.png": png(pixels(i)) for name in names for i in range(2)}
    assert prepared(tmp_path, grown(tmp_path / "x", files))[0].classes == names


def test_split_that_is_not_used_is_counted(container, tmp_path):
    card, _ = prepared(
        tmp_path, container(tree("d/train/") | tree("d/test/") | {"d/Val/ape/1.png": png(pixels(1))})
    )
    assert card.folders == {"train": "d/train", "test": "d/test"}
    assert card.left_out == {"images in d/Val": 1}


def test_files_that_are_not_read_are_counted_by_suffix(container, tmp_path):
    more = {f"ape/IMG_{i}.HEIC": b"\0\0\0\x18ftypheic" for i in range(3)}
    more |= {"a.txt": b"", "ape/LICENSE": b"x", "__MACOSX/ape/._0.png": b"x", "bee/.DS_Store": b"x"}
    card, _ = prepared(tmp_path, container(tree() | more))
    assert card.counts == {"train": 12}
    assert card.left_out == {"hidden": 2, ".txt": 1, ".heic": 3, "without suffix": 1}


def windows(name):
    return name.replace("/", "\\")


@pytest.mark.parametrize("kind", ["zip", "tar", "folder"])
@pytest.mark.parametrize("json_names", [str, windows])
def test_backslashes_part_folders(tmp_path, kind, json_names):
    def packed(files, path):
        files = {windows(name): content for name, content in files.items()}
        if kind == "folder":
            return grown(path, files)
        if kind == "tar":
            return tarred(path, files, "w")
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                info = zipfile.ZipInfo("x")
                info.filename = name
                archive.writestr(info, content)
        return path

    card, archive = prepared(tmp_path, packed(tree("train/") | tree("test/"), tmp_path / "splits"))
    assert (card.counts, card.classes) == ({"train": 12, "test": 12}, ("ape", "bee", "cow"))
    assert archive.train.labels.tolist() == LABELS
    names = [f"0000{i}/{i}.png" for i in range(2)]
    labels = json.dumps({"labels": [[json_names(name), 1 - i] for i, name in enumerate(names)]})
    files = {name: png(pixels(i)) for i, name in enumerate(names)} | {"dataset.json": labels.encode()}
    _, archive = prepared(tmp_path, packed(files, tmp_path / "labelled"))
    assert archive.train.labels.tolist() == [1, 0]


def test_two_files_of_one_name_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a/0.png", png(pixels(0)))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a/0.png", png(pixels(1)))
    assert "contains two files of the name 'a/0.png'" in refused(tmp_path, tmp_path / "x.zip")
    path = tarred(tmp_path / "x.tar", {"a/0.png": png(pixels(0)), "./a\\0.png": png(pixels(1))}, "w")
    assert "contains two files of the name 'a/0.png'" in refused(tmp_path, path)


@pytest.mark.parametrize("name", ["..\\0.png", "a\\..\\..\\0.png", "\\0.png"])
def test_backslashes_that_lead_out_are_refused(tmp_path, name):
    assert "leads out of the archive" in refused(
        tmp_path, tarred(tmp_path / "x", {name: png(pixels(0))}, "w")
    )


def labelled(tmp_path, labels, images=3):
    files = {f"{i}.png": png(pixels(i)) for i in range(images)}
    return zipped(tmp_path / "x.zip", files | {"dataset.json": json.dumps({"labels": labels}).encode()})


@pytest.mark.parametrize(
    ("labels", "empty"),
    [([1, 2, 1], ("0",)), ([0, 3, 0], ("1", "2")), ([2, 1, 0], ()), ([5, 5, 5], tuple("01234"))],
)
def test_classes_without_an_image_are_named(tmp_path, labels, empty):
    pairs = [[f"{i}.png", label] for i, label in enumerate(labels)]
    assert prepared(tmp_path, labelled(tmp_path, pairs))[0].empty_classes == empty


def test_class_is_empty_whose_images_are_all_held_out_or_unreadable(tmp_path):
    path = grown(tmp_path / "x", {"ape/0.png": b"x", **{f"bee/{i}.png": png(pixels(i)) for i in range(3)}})
    assert prepared(tmp_path, path, skip_corrupt=True)[0].empty_classes == ("ape",)


@pytest.mark.parametrize("second", [2, 0])
def test_two_labels_of_an_image_are_refused(tmp_path, second):
    pairs = [["0.png", 0], ["1.png", 0], ["2.png", 0], ["./1.png", second]]
    assert f"dataset.json: 1.png has two labels, 0 and {second}" in refused(
        tmp_path, labelled(tmp_path, pairs)
    )


def test_labels_of_images_that_are_not_there_are_counted(tmp_path):
    card, _ = prepared(tmp_path, labelled(tmp_path, [[f"{i}.png", 0] for i in range(5)]))
    assert card.left_out == {"labels without an image": 2}


def test_folder_that_cannot_be_listed_is_refused(tmp_path, monkeypatch):
    path, scandir = grown(tmp_path / "x", tree()), os.scandir

    def forbidden(place):
        if str(place).endswith("bee"):
            raise PermissionError(13, "Permission denied", place)
        return scandir(place)

    monkeypatch.setattr(os, "scandir", forbidden)
    assert refused(tmp_path, path) == f"{path / 'bee'}: cannot be read (Permission denied)"


@pytest.mark.parametrize("where", [".", "bee", "../x"])
def test_test_path_among_the_training_images_is_refused(tmp_path, where):
    path = grown(tmp_path / "x", tree())
    assert f"lies in {path}, whose images are trained on" in refused(
        tmp_path, path, test_path=str(path / where)
    )


@pytest.mark.parametrize("name", ["val", "valid"])
def test_validation_stands_in_for_test(tmp_path, name):
    path = grown(tmp_path / "x", tree("train/") | tree(f"{name}/"))
    assert prepared(tmp_path, path)[0].counts == {"train": 12, "test": 12}


def test_test_split_wins_over_validation(tmp_path):
    path = grown(tmp_path / "x", tree("train/") | tree("val/") | {"test/ape/1.png": png(pixels(91))})
    card, archive = prepared(tmp_path, path)
    assert card.counts == {"train": 12, "test": 1}
    assert np.array_equal(archive.split("test").images[0], pixels(91))


@pytest.mark.parametrize("prefix", ["", "all/", "train/", "train/things/"])
def test_images_in_one_place_have_no_labels(tmp_path, prefix):
    path = grown(tmp_path / "x", {f"{prefix}{i}.png": png(pixels(i)) for i in range(3)})
    card, archive = prepared(tmp_path, path)
    assert card.classes == ()
    assert archive.train.labels.tolist() == [0, 0, 0]
    assert np.array_equal(archive.train.images, [pixels(i) for i in range(3)])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "contains no image files"),
        ({"readme.txt": b"x"}, "contains no image files (1 files of other kinds: 1 .txt)"),
        ({"1.png": b"", "a/2.png": b""}, "1.png is next to folders"),
        ({"train/1.png": b"", "tests/2.png": b""}, "'tests' next to 'train' must be one of test, testing, "),
        ({"train/a/1.png": b"", "train/b/1.png": b"", "test/c/2.png": b""}, "class 'c' of the test split"),
    ],
)
def test_trees_that_say_nothing_clear_are_refused(tmp_path, files, message):
    (tmp_path / "x").mkdir()
    assert message in refused(tmp_path, grown(tmp_path / "x", files))


@pytest.mark.parametrize(
    "content", [b"", b"x", b"hello world", b"\x89PNG\r\n\x1a\n", gzip.compress(b"hello", mtime=0)]
)
def test_files_of_other_kinds_are_refused(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    assert f"{tmp_path / 'x'}: must be a folder, zip, tar, IDX file or LMDB" in refused(
        tmp_path, tmp_path / "x"
    )


def test_missing_path_is_named(tmp_path):
    assert f"{tmp_path / 'x'}: cannot be read (No such file" in refused(tmp_path, tmp_path / "x")


def edm(labels):
    """EDM's format: PNG files in numbered folders, dataset.json with labels."""
    names = [f"0000{i // 4}/img0000000{i}.png" for i in range(8)]
    files = {name: png(pixels(i)) for i, name in enumerate(names)}
    if labels is not None:
        labels = [[name, label] for name, label in zip(names, labels, strict=True)][::-1]
    return files | {"dataset.json": json.dumps({"labels": labels}).encode()}


def test_edm_zip(tmp_path):
    card, archive = prepared(tmp_path, zipped(tmp_path / "x.zip", edm([3, 0, 1, 2, 3, 3, 1, 0])))
    assert np.array_equal(archive.train.images, [pixels(i) for i in range(8)])
    assert archive.train.labels.tolist() == [3, 0, 1, 2, 3, 3, 1, 0]
    assert card.classes == ("0", "1", "2", "3")


def test_edm_zip_without_labels(tmp_path):
    """The numbered folders are not classes."""
    card, archive = prepared(tmp_path, zipped(tmp_path / "x.zip", edm(None)))
    assert card.classes == ()
    assert archive.train.labels.tolist() == [0] * 8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "dataset.json must contain 'labels'"),
        (b"[]", "dataset.json must contain 'labels'"),
        (b'{"labels": 3}', "dataset.json must contain 'labels'"),
        (b'{"labels": [["00000/img00000000.png", 0]]}', "label of 00000/img00000001.png = None"),
        (b'{"labels": [["00000/img00000000.png", -1]]}', "label of 00000/img00000000.png = -1"),
        (b'{"labels": [["00000/img00000000.png", [0.5, 1]]]}', "= [0.5, 1]: must be 0, 1"),
    ],
)
def test_wrong_dataset_json_is_refused(tmp_path, content, message):
    assert message in refused(tmp_path, zipped(tmp_path / "x.zip", edm(None) | {"dataset.json": content}))


def idx(array):
    return struct.pack(f">BBBB{array.ndim}i", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize("packed_labels", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_idx_with_the_labels_beside_it(tmp_path, packed, packed_labels):
    images, labels = pixels(1, 12, 8, 8).reshape(12, 8, 8), np.arange(12, dtype=np.uint8) % 4
    for name, array, pack in (("images-idx3", images, packed), ("labels-idx1", labels, packed_labels)):
        content = idx(array)
        path = tmp_path / f"t10k-{name}-ubyte{'.gz' if pack else ''}"
        path.write_bytes(gzip.compress(content) if pack else content)
    path = tmp_path / f"t10k-images-idx3-ubyte{'.gz' if packed else ''}"
    card, archive = prepared(tmp_path, path)
    assert (card.shape, card.classes) == ((8, 8, 1), ("0", "1", "2", "3"))
    assert np.array_equal(archive.train.images[..., 0], images)
    assert np.array_equal(archive.train.labels, labels)


def test_idx_without_labels(tmp_path):
    (tmp_path / "x").write_bytes(idx(pixels(1, 5, 8, 8).reshape(5, 8, 8)))
    card, archive = prepared(tmp_path, tmp_path / "x")
    assert (card.classes, archive.train.labels.tolist()) == ((), [0] * 5)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (b"\0\0\x0b\x03" + bytes(12), None, "IDX type 00000b03: must be 00000803, unsigned bytes of 3 axes"),
        (b"\0\0\x08\x01" + bytes(12), None, "IDX type 00000801"),
        (idx(np.zeros((3, 8, 8), np.uint8))[:-1], None, "contains 191 bytes for shape [3, 8, 8]"),
        (idx(np.zeros((0, 8, 8), np.uint8)), None, "for shape [0, 8, 8]"),
        (b"\0\0\x08\x03" + bytes(4), None, "for shape"),
        (b"\0\0\x08\x03" + bytes(10), None, "contains 0 bytes for shape [0]"),
        (idx(np.zeros((3, 8, 8), np.uint8)), idx(np.zeros(2, np.uint8)), "contains 2 labels for 3 images"),
        (idx(np.zeros((3, 8, 8), np.uint8)), b"xxxx", "unsigned bytes of 1 axes"),
    ],
)
def test_damaged_idx_is_refused(tmp_path, images, labels, message):
    (tmp_path / "images-idx3-ubyte").write_bytes(images)
    if labels is not None:
        (tmp_path / "labels-idx1-ubyte").write_bytes(labels)
    assert message in refused(tmp_path, tmp_path / "images-idx3-ubyte")


def lmdb_of(folder, images):
    with lmdb.open(str(folder), map_size=10_000_000) as environment, environment.begin(write=True) as view:
        for key, content in images.items():
            view.put(key, content)
    return folder


def test_lmdb_in_the_order_of_its_keys(tmp_path):
    images = {bytes([key]): png(pixels(key)) for key in (7, 3, 5)}
    card, archive = prepared(tmp_path, lmdb_of(tmp_path / "x_lmdb", images), workers=3)
    assert card.classes == ()
    assert np.array_equal(archive.train.images, [pixels(3), pixels(5), pixels(7)])


@pytest.mark.parametrize("name", ["x", "x.lmdb", "folder/data.mdb"])
def test_lmdb_of_one_file(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with (
        lmdb.open(str(tmp_path / name), map_size=1_000_000, subdir=False) as environment,
        environment.begin(write=True) as view,
    ):
        view.put(b"0", png(pixels(3)))
    assert np.array_equal(prepared(tmp_path, tmp_path / name)[1].train.images, [pixels(3)])


def test_damaged_lmdb_is_refused(tmp_path):
    grown(tmp_path / "x", {"data.mdb": b"no database"})
    assert "not a readable LMDB" in refused(tmp_path, tmp_path / "x")


def test_missing_lmdb_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    grown(tmp_path / "x", {"data.mdb": b""})
    message = refused(tmp_path, tmp_path / "x")
    assert message == "dataset images: lmdb is not installed; pip install lmdb"


def test_test_path_is_the_test_split(tmp_path):
    train = grown(tmp_path / "x", tree())
    test = zipped(tmp_path / "y.zip", {"bee/1.png": png(pixels(91)), "cow/2.png": png(pixels(92))})
    card, archive = prepared(tmp_path, train, test_path=str(test))
    assert card.counts == {"train": 12, "test": 2}
    assert card.classes == ("ape", "bee", "cow")
    assert archive.split("test").labels.tolist() == [1, 2]
    assert list(card.originals) == [str(test)]


def test_test_path_with_other_classes_is_refused(tmp_path):
    train = grown(tmp_path / "x", tree())
    test = grown(tmp_path / "y", {"dog/1.png": png(pixels(1)), "bee/1.png": png(pixels(1))})
    assert "bee, dog are not among the classes of" in refused(tmp_path, train, test_path=str(test))
    flat = grown(tmp_path / "z", {"1.png": png(pixels(1))})
    assert "no labels are not among the classes" in refused(tmp_path, train, test_path=str(flat))


@pytest.mark.parametrize("more", [{"test_images": 2}, {"test_path": "x"}])
def test_two_test_splits_are_refused(tmp_path, more):
    path = grown(tmp_path / "x", tree("train/") | tree("test/"))
    assert f"leave {next(iter(more))} out" in refused(tmp_path, path, **more)


def test_held_out_images_come_evenly_from_the_classes(tmp_path):
    card, archive = prepared(tmp_path, grown(tmp_path / "x", tree()), test_images=6)
    assert card.counts == {"train": 6, "test": 6}
    assert np.bincount(archive.split("test").labels).tolist() == [2, 2, 2]
    both = np.concatenate([archive.train.images, archive.split("test").images])
    assert sorted(image.tobytes() for image in both) == sorted(image.tobytes() for image in WANTED)
    for split in (archive.train, archive.split("test")):
        for image, label in zip(split.images, split.labels, strict=True):
            assert LABELS[next(i for i in range(12) if np.array_equal(WANTED[i], image))] == label


def held_out(labels, count):
    """Indices of the training and of the test images."""
    splits = with_held_out(Stream(range(len(labels)), labels, str), count)
    return np.array(splits["train"].names), np.array(splits["test"].names)


@pytest.mark.parametrize("count", [1, 10, 333, 999])
def test_held_out(count):
    labels = np.random.default_rng(0).integers(0, 7, 1000)
    train, test = held_out(labels, count)
    assert len(test) == count
    assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(1000))
    assert (np.diff(train) > 0).all()
    assert (np.diff(test) > 0).all()
    shares = np.bincount(labels) * count / 1000
    assert np.abs(np.bincount(labels[test], minlength=7) - shares).max() <= 1
    again = held_out(labels, count)
    assert np.array_equal(again[1], test)


def test_held_out_images_are_not_a_regular_pattern():
    """Neighbours in a folder are often alike."""
    gaps = np.diff(held_out(np.zeros(1000, np.int64), 100)[1])
    assert len(set(gaps.tolist())) > 10


def test_too_many_held_out_are_refused(tmp_path):
    path = grown(tmp_path / "x", tree())
    assert "test_images = 12: must be less than the 12" in refused(tmp_path, path, test_images=12)


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def half_transparent(mode):
    image = Image.fromarray(pixels(5)).convert(mode)
    image.putalpha(Image.fromarray(pixels(6, channels=1)))
    return image


def palette(**more):
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).convert("P")
    image.putpalette(pixels(7, 256, 3, 1).tobytes())
    return encoded(image, **more)


COLOUR = pixels(5)
GREY = pixels(5, channels=1)
LUMA = np.asarray(Image.fromarray(COLOUR).convert("L"))


@pytest.mark.parametrize(
    ("content", "rgb", "grey"),
    [
        (png(COLOUR), COLOUR, LUMA),
        (png(GREY), np.repeat(GREY[..., None], 3, 2), GREY),
        (encoded(half_transparent("RGB")), COLOUR, LUMA),
        (encoded(half_transparent("L")), np.repeat(LUMA[..., None], 3, 2), LUMA),
        (palette(), pixels(7, 256, 3, 1)[np.arange(64).reshape(8, 8)], None),
        (palette(transparency=bytes(range(256))), pixels(7, 256, 3, 1)[np.arange(64).reshape(8, 8)], None),
        (
            encoded(Image.fromarray(GREY > 127)),
            np.repeat(np.where(GREY > 127, 255, 0)[..., None], 3, 2),
            np.where(GREY > 127, 255, 0),
        ),
    ],
    ids=["rgb", "grey", "rgba", "la", "palette", "transparent-palette", "bilevel"],
)
def test_colours(tmp_path, content, rgb, grey):
    path = grown(tmp_path / "x", {"1.png": content})
    _, archive = prepared(tmp_path, path, channels=3)
    assert np.array_equal(archive.train.images[0], rgb)
    if grey is not None:
        assert np.array_equal(prepared(tmp_path, path, channels=1)[1].train.images[0, ..., 0], grey)


def test_luma_is_that_of_itu_r_601():
    weights = np.array([0.299, 0.587, 0.114])
    assert np.abs(LUMA - COLOUR @ weights).max() < 1


@pytest.mark.parametrize(("content", "channels"), [(png(COLOUR), 3), (png(GREY), 1)])
def test_colours_are_those_of_the_images(tmp_path, content, channels):
    path = grown(tmp_path / "x", {"1.png": content, "2.png": content})
    assert prepared(tmp_path, path)[0].shape == (8, 8, channels)


def test_mixed_colours_are_refused_unless_chosen(tmp_path):
    path = grown(tmp_path / "x", {"1.png": png(COLOUR), "2.png": png(GREY)})
    message = refused(tmp_path, path)
    assert "2.png: 1 channels, the first image has 3; make them alike, or" in message
    assert prepared(tmp_path, path, channels=3)[0].counts == {"train": 2}


def deep_png(kind, samples):
    """A PNG of 16 bits per channel."""

    def chunk(name, data):
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 8, 8, 16, kind, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes(16 * samples)) * 8)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("grey.png", deep_png(0, 1)),
        ("rgb.png", deep_png(2, 3)),
        ("grey-alpha.png", deep_png(4, 2)),
        ("rgba.png", deep_png(6, 4)),
        ("deep.tif", encoded(Image.fromarray(np.zeros((8, 8), np.uint16)), "TIFF")),
        ("long.tif", encoded(Image.fromarray(np.zeros((8, 8), np.int32)), "TIFF")),
        ("float.tif", encoded(Image.fromarray(np.zeros((8, 8), np.float32)), "TIFF")),
    ],
)
def test_more_than_eight_bits_are_refused_by_name(tmp_path, name, content, skip):
    path = grown(tmp_path / "x", {name: content})
    message = refused(tmp_path, path, channels=3, skip_corrupt=skip)
    assert f"{name}: more than 8 bits per channel" in message


CORRUPT = {
    "cut.png": png(COLOUR)[:-60],
    "empty.png": b"",
    "text.jpg": b"hello",
    "cut.jpg": encoded(Image.fromarray(pixels(1, 64, 64)), "JPEG")[:900],
}


def test_all_corrupt_images_are_counted_and_refused(container, tmp_path):
    message = refused(tmp_path, container({"1.png": png(COLOUR)} | CORRUPT))
    assert "4 images cannot be decoded" in message
    for name in CORRUPT:
        assert f"train: {name}" in message
    assert "skip_corrupt: true" in message


def test_corrupt_images_can_be_left_out(container, tmp_path):
    path = container({"1.png": png(COLOUR), "z.png": png(pixels(8))} | CORRUPT)
    card, archive = prepared(tmp_path, path, skip_corrupt=True, workers=3)
    assert card.counts == {"train": 2}
    assert card.skipped == {"train": ("cut.jpg", "cut.png", "empty.png", "text.jpg")}
    assert np.array_equal(archive.train.images, [COLOUR, pixels(8)])


def test_damaged_zip_entry_is_corrupt(tmp_path):
    path = zipped(tmp_path / "x.zip", {"1.png": png(COLOUR), "2.png": png(pixels(6))})
    content = bytearray(path.read_bytes())
    content[content.index(png(COLOUR)) + 50] ^= 1
    path.write_bytes(bytes(content))
    assert "train: 1.png (Bad CRC-32" in refused(tmp_path, path)


def test_truncated_containers_are_refused(tmp_path):
    for path in (
        zipped(tmp_path / "x.zip", tree()),
        *(tarred(tmp_path / f"x.tar.{kind}", tree(), f"w:{kind}") for kind in ("gz", "bz2", "xz")),
        tarred(tmp_path / "x.tar", tree(), "w:"),
    ):
        content = path.read_bytes()
        for kept in (1024, 1500, len(content) // 2):
            path.write_bytes(content[:kept])
            assert str(path) in refused(tmp_path, path)


def test_folder_that_leads_to_itself_is_refused(tmp_path):
    path = grown(tmp_path / "x", tree())
    (path / "ape" / "again").symlink_to(path)
    assert f"{path / 'ape' / 'again'}: is the same folder as {path}" in refused(tmp_path, path)


def test_linked_folders_are_followed(tmp_path):
    grown(tmp_path / "elsewhere", tree())
    (tmp_path / "x").mkdir()
    for kind in ("ape", "bee", "cow"):
        (tmp_path / "x" / kind).symlink_to(tmp_path / "elsewhere" / kind)
    assert np.array_equal(prepared(tmp_path, tmp_path / "x")[1].train.images, WANTED)


def test_dataset_json_below_the_top_is_refused(tmp_path):
    files = {f"wrapped/{name}": content for name, content in edm(None).items()}
    message = refused(tmp_path, zipped(tmp_path / "x.zip", files))
    assert "wrapped/dataset.json: move dataset.json to the top" in message


@pytest.mark.parametrize("name", ["../out.png", "a/../../out.png"])
def test_names_that_lead_out_are_refused(tmp_path, name):
    for path in (
        zipped(tmp_path / "x.zip", {name: png(COLOUR)}),
        tarred(tmp_path / "x.tar", {name: png(COLOUR)}, "w:"),
    ):
        assert f"{path}: {name!r} leads out of the archive" in refused(tmp_path, path)
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_in_a_tar_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        link = tarfile.TarInfo("a.png")
        link.type, link.linkname = kind, "/etc/passwd"
        archive.addfile(link)
    assert "'a.png' is a link or other special file" in refused(tmp_path, tmp_path / "x.tar")


@pytest.mark.parametrize("kind", ["", "xz"])
def test_tar_made_with_dots_and_folders(tmp_path, kind):
    """As `tar c .` makes it."""
    grown(tmp_path / "x", tree())
    with tarfile.open(tmp_path / "x.tar", f"w:{kind}") as archive:
        archive.add(tmp_path / "x", ".")
    assert np.array_equal(prepared(tmp_path, tmp_path / "x.tar", workers=4)[1].train.images, WANTED)


def test_mixed_sizes_become_one(tmp_path):
    sizes = [(8, 8), (30, 20), (16, 40), (5, 9)]
    files = {f"{i}.png": png(pixels(i, *size)) for i, size in enumerate(sizes)}
    _, archive = prepared(tmp_path, grown(tmp_path / "x", files), crop="center-crop")
    for i, (height, width) in enumerate(sizes):
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = Image.fromarray(pixels(i, height, width)[top : top + side, left : left + side])
        wanted = np.asarray(square.resize((8, 8), Image.Resampling.LANCZOS))
        assert np.array_equal(archive.train.images[i], wanted)


def test_workers_do_not_change_the_bytes(tmp_path):
    path = grown(tmp_path / "x", {f"{i % 5}/{i}.png": png(pixels(i, 20, 30)) for i in range(300)})
    found = []
    for workers in (1, 4):
        prepared(tmp_path, path, workers=workers)
        found.append({file.name: file.read_bytes() for file in (tmp_path / "archive").iterdir()})
    assert found[0] == found[1]


def test_card_says_what_was_done(tmp_path):
    path = zipped(tmp_path / "x.zip", edm(None))
    card, _ = prepared(tmp_path, path, crop="resize-center-crop-bilinear")
    assert card.source == (
        f"{path}, 8×8 by resize-center-crop-bilinear (shorter side resized by bilinear, centre cropped), "
        "RGB (grey repeated, palettes looked up, transparency dropped)"
    )
    assert card.originals[str(path)].startswith("sha256:")
