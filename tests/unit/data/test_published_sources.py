"""The papers' data sets, read from small files in the published formats."""

import gzip
import hashlib
import io
import json
import pickle
import re
import struct
import tarfile
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import lmdb
import numpy as np
import pytest
import requests
import torchvision.datasets
from PIL import Image
from torchvision.datasets import imagenet

from couplet.config.datasets import DatasetConfig
from couplet.data.archive import Archive
from couplet.data.sources import published
from couplet.data.sources.images import CROPS
from couplet.data.sources.published import DRIVE, Original, fetch
from couplet.errors import UserError
from stage_functions import prepare

GET = requests.get


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Every download fails; returns the addresses that were tried."""
    tried = []

    def fail(url, *args, **kwargs):
        tried.append(url)
        raise requests.ConnectionError("no network in tests")

    monkeypatch.setattr(requests, "get", fail)
    monkeypatch.setattr("torchvision.datasets.utils.download_file_from_google_drive", fail)
    return tried


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Address of an HTTP server of this machine for the files in the folder ``server``."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    (tmp_path / "server").mkdir()
    monkeypatch.setattr(requests, "get", GET)
    handler = partial(Handler, directory=str(tmp_path / "server"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def pixels(seed, height=32, width=32):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(array, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return content


def prepared(tmp_path, kind, **settings):
    config = DatasetConfig.parse({"kind": kind, **settings})
    card = prepare(kind, config, out=tmp_path / "archive", raw=tmp_path / "raw")
    return card, Archive(tmp_path / "archive")


def refused(tmp_path, kind, **settings):
    with pytest.raises(UserError) as caught:
        prepared(tmp_path, kind, **settings)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "archive").exists()
    return str(caught.value)


# MNIST and Fashion-MNIST -------------------------------------------------------------------------------


@pytest.fixture(params=["mnist", "fashion_mnist"])
def idx_kind(request, tmp_path, monkeypatch):
    """The kind, its images and labels; its four files are in place."""
    known = {"mnist": torchvision.datasets.MNIST, "fashion_mnist": torchvision.datasets.FashionMNIST}
    rng = np.random.default_rng(0)
    resources, images, labels = [], {}, {}
    for split, short in (("train", "train"), ("test", "t10k")):
        images[split] = rng.integers(0, 256, (20, 28, 28), dtype=np.uint8)
        labels[split] = rng.integers(0, 10, 20, dtype=np.uint8)
        for name, array in (("images-idx3", images[split]), ("labels-idx1", labels[split])):
            header = struct.pack(f">BBBB{array.ndim}i", 0, 0, 8, array.ndim, *array.shape)
            name = f"{short}-{name}-ubyte.gz"
            content = put(tmp_path / "raw" / request.param / name, gzip.compress(header + array.tobytes()))
            resources.append((name, md5(content)))
    monkeypatch.setattr(known[request.param], "resources", resources)
    return request.param, images, labels


def test_mnist(tmp_path, idx_kind):
    kind, images, labels = idx_kind
    card, archive = prepared(tmp_path, kind)
    for split in ("train", "test"):
        assert np.array_equal(archive.split(split).images[..., 0], images[split])
        assert np.array_equal(archive.split(split).labels, labels[split])
    assert (card.shape, len(card.classes)) == ((28, 28, 1), 10)
    assert len(card.originals) == 4
    assert all(re.fullmatch("md5:[0-9a-f]{32}", digest) for digest in card.originals.values())


def test_file_with_other_content_is_refused(tmp_path, idx_kind):
    kind, _, _ = idx_kind
    path = tmp_path / "raw" / kind / "t10k-labels-idx1-ubyte.gz"
    published_digest = md5(path.read_bytes())
    path.write_bytes(b"something else")
    message = refused(tmp_path, kind)
    assert f"{path}: is md5:{md5(b'something else')}, published is md5:{published_digest}" in message
    assert path.read_bytes() == b"something else", "left as it was"


def test_missing_file_that_cannot_be_downloaded_is_named(tmp_path, idx_kind, no_network):
    kind, _, _ = idx_kind
    path = tmp_path / "raw" / kind / "t10k-images-idx3-ubyte.gz"
    digest = md5(path.read_bytes())
    path.unlink()
    message = refused(tmp_path, kind)
    assert (
        f"{path}: is missing; put it there by hand (published: md5:{digest}; the download failed:" in message
    )
    assert all(url.startswith("http") and url.endswith("/t10k-images-idx3-ubyte.gz") for url in no_network)
    assert all(url in message for url in no_network)
    assert not path.exists()


def sha256(content):
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.mark.parametrize("digest", [sha256, lambda content: f"md5:{md5(content)}"])
def test_download_to_its_place(tmp_path, server, digest):
    content = put(tmp_path / "server" / "f", bytes(range(256)) * 1000)
    original = Original("sub/f", digest(content), (f"{server}/f",))
    assert fetch(tmp_path / "raw", original) == {"sub/f": original.digest}
    assert (tmp_path / "raw/sub/f").read_bytes() == content
    assert [file.name for file in (tmp_path / "raw/sub").iterdir()] == ["f"]


def test_download_of_other_content_is_refused(tmp_path, server):
    put(tmp_path / "server" / "f", b"tampered")
    original = Original("a/file.bin", sha256(b"published"), (f"{server}/f",))
    with pytest.raises(UserError, match=f"{server}/f: the downloaded file is {sha256(b'tampered')}"):
        fetch(tmp_path, original)
    assert not list((tmp_path / "a").iterdir())


def test_download_that_ends_early_is_refused(tmp_path, server, monkeypatch):
    """Even without a published checksum."""
    put(tmp_path / "server" / "f", bytes(100_000))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "copyfile", lambda self, file, out: out.write(bytes(500)))
    with pytest.raises(UserError, match=r"f: is missing; put it there by hand \(no published checksum"):
        fetch(tmp_path / "raw", Original("f", None, (f"{server}/f",)))
    assert not list((tmp_path / "raw").iterdir())


def test_second_place_is_tried(tmp_path, server):
    put(tmp_path / "server" / "f", b"x")
    original = Original("f", f"md5:{md5(b'x')}", (f"{server}/absent", f"{server}/f"))
    fetch(tmp_path / "raw", original)
    assert (tmp_path / "raw/f").read_bytes() == b"x"


def test_full_disk_is_named(tmp_path, server, full_disk):
    put(tmp_path / "server" / "f", bytes(500_000))
    with full_disk(), pytest.raises(UserError, match=f"^{tmp_path}/raw/f: cannot be written"):
        fetch(tmp_path / "raw", Original("f", None, (f"{server}/f",)))
    assert not list((tmp_path / "raw").iterdir())


def test_google_drive_is_a_place(tmp_path, no_network, monkeypatch):
    def download(key, root, name):
        no_network.append(key)
        assert not (Path(root) / name).exists(), "torchvision keeps an existing file"
        (Path(root) / name).write_bytes(b"x")

    monkeypatch.setattr("torchvision.datasets.utils.download_file_from_google_drive", download)
    fetch(tmp_path, Original("f", f"md5:{md5(b'x')}", ("http://first/f", f"{DRIVE}key")))
    assert no_network == ["http://first/f", "key"]
    assert (tmp_path / "f").read_bytes() == b"x"


# CIFAR-10 ----------------------------------------------------------------------------------------------


@pytest.fixture
def cifar(monkeypatch):
    """Files of the python version of CIFAR-10 with ten images each, and its images and labels."""
    rng = np.random.default_rng(0)
    files, images, labels = {}, [], []
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        images.append(rng.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8))
        labels.append(rng.integers(0, 10, 10).tolist())
        rows = images[-1].transpose(0, 3, 1, 2).reshape(10, -1)
        files[name] = pickle.dumps({"data": rows, "labels": labels[-1]})
    files["batches.meta"] = pickle.dumps({"label_names": [f"class{i}" for i in range(10)]})
    known = torchvision.datasets.CIFAR10
    batches = [[name, md5(content)] for name, content in files.items()]
    monkeypatch.setattr(known, "train_list", batches[:5])
    monkeypatch.setattr(known, "test_list", batches[5:6])
    monkeypatch.setattr(known, "meta", {**known.meta, "md5": batches[6][1]})
    return files, images, labels


def check_cifar(tmp_path, images, labels):
    card, archive = prepared(tmp_path, "cifar10")
    assert np.array_equal(archive.train.images, np.concatenate(images[:5]))
    assert np.array_equal(archive.train.labels, np.concatenate(labels[:5]))
    assert np.array_equal(archive.split("test").images, images[5])
    assert np.array_equal(archive.split("test").labels, labels[5])
    assert card.classes == tuple(f"class{i}" for i in range(10))


def test_cifar_as_torchvision_unpacks_it(tmp_path, cifar):
    files, images, labels = cifar
    for name, content in files.items():
        put(tmp_path / "raw/cifar10/cifar-10-batches-py" / name, content)
    check_cifar(tmp_path, images, labels)


def test_cifar_from_its_archive(tmp_path, cifar, monkeypatch):
    files, images, labels = cifar
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    content = put(tmp_path / "raw/cifar10/cifar-10-python.tar.gz", packed.getvalue())
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "tgz_md5", md5(content))
    check_cifar(tmp_path, images, labels)


def test_cifar_with_another_batch_is_refused_unopened(tmp_path, cifar):
    """A pickle of unknown content could do anything."""
    for name, content in cifar[0].items():
        put(tmp_path / "raw/cifar10/cifar-10-batches-py" / name, content)
    bomb = b"cposix\nsystem\n(S'touch bomb'\ntR."
    path = tmp_path / "raw/cifar10/cifar-10-batches-py/data_batch_3"
    path.write_bytes(bomb)
    assert f"{path}: is md5:{md5(bomb)}, published is md5:" in refused(tmp_path, "cifar10")


def test_cifar_that_is_missing_names_file_and_checksum(tmp_path, no_network):
    message = refused(tmp_path, "cifar10")
    assert str(tmp_path / "raw/cifar10/cifar-10-python.tar.gz") in message
    assert "published: md5:c58f30108f718f92721af3b95e74349a" in message
    assert no_network == ["https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"]


# CelebA, LSUN, FFHQ ------------------------------------------------------------------------------------


def test_celeba_splits_are_the_official_ones(tmp_path, monkeypatch):
    folder = tmp_path / "raw" / "celeba64"
    parts = [0, 2, 0, 1, 2, 0]
    lines = "".join(f"{i + 1:06}.jpg {part}\n" for i, part in enumerate(parts))
    jpegs = [encoded(pixels(i, 218, 178), "JPEG") for i in range(6)]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for i in range(6):
            archive.writestr(f"img_align_celeba/{i + 1:06}.jpg", jpegs[i])
    contents = {
        "list_eval_partition.txt": put(folder / "list_eval_partition.txt", lines.encode()),
        "img_align_celeba.zip": put(folder / "img_align_celeba.zip", packed.getvalue()),
    }
    known = torchvision.datasets.CelebA
    listed = [(key, md5(contents.get(name, b"")), name) for key, _, name in known.file_list]
    monkeypatch.setattr(known, "file_list", listed)
    card, archive = prepared(tmp_path, "celeba64")
    assert (card.counts, card.shape, card.classes) == ({"train": 3, "test": 2}, (64, 64, 3), ())
    for split, part in (("train", 0), ("test", 2)):
        chosen = [i for i in range(6) if parts[i] == part]
        for image, i in zip(archive.split(split).images, chosen, strict=True):
            crop = CROPS["resize-center-crop-lanczos"][0](Image.open(io.BytesIO(jpegs[i])), 64)
            assert np.array_equal(image, np.asarray(crop))


def test_celeba_that_is_missing_names_file_and_checksum(tmp_path):
    message = refused(tmp_path, "celeba64")
    assert str(tmp_path / "raw/celeba64/list_eval_partition.txt") in message
    assert "published: md5:d32c9cbf5e040fd4025c592c306e6668" in message
    assert "Google Drive 0B7EVK8r0v71pY0NSMzRuSXJEVkk" in message


@pytest.fixture
def church(tmp_path):
    """Contents of a small LSUN database, and its images."""
    images = [encoded(pixels(i, 256, 300), "WEBP") for i in range(10)]
    database = lmdb.open(str(tmp_path / "church"), map_size=10_000_000)
    with database, database.begin(write=True) as view:
        for i, image in enumerate(images):
            view.put(f"{i:04}".encode(), image)
    return (tmp_path / "church" / "data.mdb").read_bytes(), images


@pytest.mark.parametrize("held", [0, 3])
def test_church(tmp_path, church, monkeypatch, held):
    content, images = church
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("church_outdoor_train_lmdb/data.mdb", content)
    put(tmp_path / "raw/church64/church_outdoor_train_lmdb.zip", packed.getvalue())
    digest = f"sha256:{hashlib.sha256(packed.getvalue()).hexdigest()}"
    monkeypatch.setattr(published, "LSUN", Original(published.LSUN.name, digest))
    monkeypatch.setitem(published.COUNTS, "church64", 10)
    card, archive = prepared(tmp_path, "church64", test_images=held)
    assert card.counts == ({"train": 7, "test": 3} if held else {"train": 10})
    assert card.originals == {"church_outdoor_train_lmdb.zip": digest}
    crop, _ = CROPS["resize-center-crop-lanczos"]
    wanted = [np.asarray(crop(Image.open(io.BytesIO(image)), 64)) for image in images]
    found = np.concatenate([archive.split(name).images for name in sorted(card.counts, reverse=True)])
    assert sorted(map(bytes, found)) == sorted(map(bytes, wanted))
    if not held:
        assert np.array_equal(found, wanted)
    assert prepared(tmp_path, "church64", test_images=held)[0].digest == card.digest, "from the folder too"


def test_church_with_images_missing_is_refused(tmp_path, church):
    put(tmp_path / "raw/church64/church_outdoor_train_lmdb/data.mdb", church[0])
    assert "contains 10 images, the published data set 126227" in refused(tmp_path, "church64")


def test_church_that_is_missing_names_file_and_checksum(tmp_path):
    message = refused(tmp_path, "church64")
    assert str(tmp_path / "raw/church64/church_outdoor_train_lmdb.zip") in message
    assert "sha256:91128ae026840ac0c5982b4445ab5fc4e092d6847cca76793b2b1a0815c2e74a" in message


def edm_zip(path, labels, side=64):
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        names = [f"{i // 2:05}/img{i:08}.png" for i in range(len(labels))]
        for i, name in enumerate(names):
            archive.writestr(name, encoded(pixels(i, side, side)))
        pairs = [list(pair) for pair in zip(names, labels, strict=True)]
        archive.writestr("dataset.json", json.dumps({"labels": pairs}))


def test_ffhq_folders_are_no_classes(tmp_path, monkeypatch):
    edm_zip(tmp_path / "raw/ffhq64/ffhq-64x64.zip", [0, 0, 1, 1, 2])
    monkeypatch.setitem(published.COUNTS, "ffhq64", 5)
    card, archive = prepared(tmp_path, "ffhq64")
    assert (card.counts, card.classes) == ({"train": 5}, ())
    assert archive.train.labels.tolist() == [0] * 5
    assert np.array_equal(archive.train.images, [pixels(i, 64, 64) for i in range(5)])
    with pytest.raises(UserError, match=r"ffhq64 has no test split.*select\.split: train"):
        _ = archive.split("test")
    assert prepared(tmp_path, "ffhq64", test_images=2)[0].counts == {"train": 3, "test": 2}


def test_missing_ffhq_has_no_published_checksum(tmp_path):
    message = refused(tmp_path, "ffhq64")
    assert str(tmp_path / "raw/ffhq64/ffhq-64x64.zip") in message
    assert "dataset_tool.py --resolution=64x64" in message
    assert "no published checksum" in message


# ImageNet ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("crop", "name"), [("center-crop", "imagenet-64x64.zip"), ("center-crop-dhariwal", "img64.zip")]
)
def test_imagenet64_from_the_zip_of_the_crop(tmp_path, monkeypatch, crop, name):
    edm_zip(tmp_path / "raw/imagenet64" / name, [0, 999, 5, 5])
    monkeypatch.setitem(published.COUNTS, "imagenet-train", 4)
    card, archive = prepared(tmp_path, "imagenet64", crop=crop)
    assert (card.counts, len(card.classes)) == ({"train": 4}, 1000)
    assert archive.train.labels.tolist() == [0, 999, 5, 5]
    assert np.array_equal(archive.train.images, [pixels(i, 64, 64) for i in range(4)])
    assert f"--transform={crop} " in card.source


def test_imagenet64_zips_that_are_not_it_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "raw/imagenet64/img64.zip"
    edm_zip(path, [0, 999])
    assert f"{path}: contains 2 images, the published data set 1281167" in refused(tmp_path, "imagenet64")
    monkeypatch.setitem(published.COUNTS, "imagenet-train", 2)
    path.unlink()
    path.parent.rmdir()
    edm_zip(path, [0, 1])
    assert f"{path}: contains 2 classes, must be 1000" in refused(tmp_path, "imagenet64")
    path.unlink()
    path.parent.rmdir()
    edm_zip(path, [0, 999], side=32)
    with pytest.raises(UserError, match="32×32 pixels, must be 64×64"):
        prepared(tmp_path, "imagenet64")


@pytest.mark.parametrize(
    ("kind", "settings", "crop", "size"),
    [
        ("imagenet32", {}, "resize-center-crop-bilinear", 32),
        ("imagenet64", {"originals": "ilsvrc"}, "center-crop-dhariwal", 64),
    ],
)
def test_ilsvrc_unpacked(tmp_path, monkeypatch, kind, settings, crop, size):
    images = {}
    for split, names in (("train", ["n01/a", "n01/b", "n02/c"]), ("val", ["n02/d"])):
        for name in names:
            images[name] = pixels(len(images), 90, 120)
            put(tmp_path / "raw/imagenet" / split / f"{name}.JPEG", encoded(images[name]))
        monkeypatch.setitem(published.COUNTS, f"imagenet-{split}", len(names))
    put(tmp_path / "raw/imagenet/val/n01/e.JPEG", encoded(pixels(9, 90, 120)))
    monkeypatch.setitem(published.COUNTS, "imagenet-val", 2)
    card, archive = prepared(tmp_path, kind, **settings)
    assert (card.classes, card.counts) == (("n01", "n02"), {"train": 3, "test": 2})
    assert (archive.train.labels.tolist(), archive.split("test").labels.tolist()) == ([0, 0, 1], [0, 1])
    for image, name in zip(archive.train.images, ["n01/a", "n01/b", "n02/c"], strict=True):
        assert np.array_equal(image, np.asarray(CROPS[crop][0](Image.fromarray(images[name]), size)))
    assert f"{size}×{size} by {crop}" in card.source


def test_missing_ilsvrc_names_file_and_checksum(tmp_path):
    message = refused(tmp_path, "imagenet32")
    assert str(tmp_path / "raw/imagenet/ILSVRC2012_devkit_t12.tar.gz") in message
    assert "md5:fa75699e90414af021442c21a62c3abf" in message
    assert "https://image-net.org" in message


def test_ilsvrc_archives_are_verified_then_unpacked_by_torchvision(tmp_path, monkeypatch):
    called = []
    files = {key: (name, md5(key.encode())) for key, (name, _) in imagenet.ARCHIVE_META.items()}
    for key, (name, _) in files.items():
        put(tmp_path / "raw/imagenet" / name, key.encode())
    monkeypatch.setattr(imagenet, "ARCHIVE_META", files)
    for split, folder in (("train", "train"), ("val", "val"), ("devkit", "")):

        def parse(root, split=split, folder=folder):
            called.append(split)
            for kind in ("a", "b") if folder else ():
                put(Path(root) / folder / kind / "1.JPEG", encoded(pixels(0)))

        monkeypatch.setattr(imagenet, f"parse_{split}_archive", parse)
        monkeypatch.setitem(published.COUNTS, f"imagenet-{split}", 2)
    card, _ = prepared(tmp_path, "imagenet32")
    assert called == ["devkit", "train", "devkit", "val"]
    assert card.originals == {name: f"md5:{digest}" for name, digest in files.values()}
    put(tmp_path / "raw/imagenet/ILSVRC2012_img_val.tar", b"other")
    for path in sorted((tmp_path / "raw/imagenet/val").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (tmp_path / "raw/imagenet/val").rmdir()
    (tmp_path / "archive.record.json").unlink()
    with pytest.raises(UserError, match=r"ILSVRC2012_img_val\.tar: is md5:"):
        prepared(tmp_path, "imagenet32")


def test_one_named_kind_has_no_raw_file_at_all(tmp_path):
    """Digits come with scikit-learn."""
    assert prepared(tmp_path, "digits")[0].counts == {"train": 1497, "test": 300}
    assert not (tmp_path / "raw").exists()
