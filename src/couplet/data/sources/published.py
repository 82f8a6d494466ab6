"""The papers' data sets, read from their authors' files in ``raw/<kind>``.

Names, addresses and checksums of the files come from torchvision. Missing files are downloaded.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from couplet.config import datasets
from couplet.config.datasets import Crop
from couplet.data.archive import Source, Split, Stream
from couplet.data.sources.base import with_held_out
from couplet.data.sources.containers import images_at
from couplet.data.sources.images import stream, words
from couplet.errors import UserError
from couplet.files import replacing, reported

DRIVE = "Google Drive "


@dataclass(frozen=True)
class Original:
    """A file as its authors published it."""

    name: str
    """Path below the folder of its data set."""
    digest: str | None = None
    """Published checksum, ``md5:…`` or ``sha256:…``."""
    urls: tuple[str, ...] = ()
    """Addresses of the file, in order of preference; on Google Drive, :data:`DRIVE` and its id."""
    note: str = ""
    """Tells a person how to get the file."""


COUNTS = {"imagenet-train": 1_281_167, "imagenet-val": 50_000, "church64": 126_227, "ffhq64": 70_000}
"""Numbers of images that the authors state, for files without a checksum that would show missing images."""

LSUN = Original(
    "church_outdoor_train_lmdb.zip",
    # Recorded by TensorFlow Datasets; LSUN itself publishes no checksum.
    "sha256:91128ae026840ac0c5982b4445ab5fc4e092d6847cca76793b2b1a0815c2e74a",
    ("http://dl.yf.io/lsun/scenes/church_outdoor_train_lmdb.zip",),
)

FFHQ = Original(
    "ffhq-64x64.zip",
    note="made by EDM's dataset_tool.py --resolution=64x64 from FFHQ's images1024x1024",
)

IMAGENET: Mapping[Crop, Original] = {
    "center-crop": Original(
        "imagenet-64x64.zip",
        note="made by EDM's dataset_tool.py --resolution=64x64 --transform=center-crop from ILSVRC's train",
    ),
    "center-crop-dhariwal": Original(
        "img64.zip",
        note="made by EDM2's dataset_tool.py convert --resolution=64x64 --transform=center-crop-dhariwal "
        "from ILSVRC's train",
    ),
}


def read_mnist(
    config: datasets.MnistConfig | datasets.FashionMnistConfig, raw: Path, stack: ExitStack
) -> Source:
    """MNIST or Fashion-MNIST."""
    from torchvision.datasets import MNIST, FashionMNIST

    known, title = (MNIST, "MNIST") if config.kind == "mnist" else (FashionMNIST, "Fashion-MNIST")
    files = [
        Original(name, f"md5:{md5}", tuple(f"{mirror}{name}" for mirror in known.mirrors))
        for name, md5 in known.resources
    ]
    originals = fetch(raw / config.kind, *files)
    splits = {}
    for split, short in (("train", "train"), ("test", "t10k")):
        name = f"{short}-images-idx3-ubyte.gz"
        images = images_at(raw / config.kind / name, stack).splits["train"]
        splits[split] = stream(images, name, resolution=28, crop=None, channels=1)
    classes = tuple(name.partition(" - ")[0] for name in known.classes)
    return Source(f"{title}, the original IDX files; 28×28, grey", classes, splits, originals)


def read_cifar10(config: datasets.Cifar10Config, raw: Path, stack: ExitStack) -> Source:
    from torchvision.datasets import CIFAR10 as known
    from torchvision.datasets.utils import extract_archive

    folder = raw / config.kind
    if not (folder / known.base_folder).is_dir():
        fetch(folder, Original(known.filename, f"md5:{known.tgz_md5}", (known.url,)))
        extract_archive(str(folder / known.filename), str(folder))
    note = f"part of {known.filename} from {known.url}"
    batches = [*known.train_list, *known.test_list, (known.meta["filename"], known.meta["md5"])]
    files = [Original(f"{known.base_folder}/{name}", f"md5:{md5}", note=note) for name, md5 in batches]
    originals = fetch(folder, *files)  # unpickling other content than the published could do anything
    parts = {name: known(str(folder), train=name == "train") for name in ("train", "test")}
    splits = {
        name: Split(np.ascontiguousarray(part.data), np.array(part.targets, np.int64))
        for name, part in parts.items()
    }
    classes = tuple(parts["train"].classes)
    return Source("CIFAR-10, the python version; 32×32, RGB", classes, splits, originals)


def read_celeba(config: datasets.CelebA64Config, raw: Path, stack: ExitStack) -> Source:
    from torchvision.datasets import CelebA

    folder = raw / config.kind
    note = "from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
    places = {name: (f"md5:{md5}", (DRIVE + key,)) for key, md5, name in CelebA.file_list}
    names = ("list_eval_partition.txt", "img_align_celeba.zip")
    originals = fetch(folder, *(Original(name, *places[name], note) for name in names))
    images = images_at(folder / "img_align_celeba.zip", stack).splits["train"]
    position = {Path(name).name: index for index, name in enumerate(images.names)}
    lines = (folder / "list_eval_partition.txt").read_text().split("\n")
    partition = [line.split() for line in lines if line]
    everything = stream(images, "img_align_celeba.zip", resolution=64, crop=config.crop, channels=3)
    splits = {
        split: everything[np.array([position[name] for name, part in partition if part == number])]
        for split, number in (("train", "0"), ("test", "2"))
    }
    return Source(f"CelebA, aligned and cropped, {words(64, config.crop, 3)}", (), splits, originals)


def read_church(config: datasets.Church64Config, raw: Path, stack: ExitStack) -> Source:
    folder = raw / config.kind
    database = folder / "church_outdoor_train_lmdb"
    originals: dict[str, str] = {}
    if not database.is_dir():
        originals = fetch(folder, LSUN)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            shutil.unpack_archive(folder / LSUN.name, temporary)
            (Path(temporary) / database.name).rename(database)
    images = _complete(database, "church64", stack)
    pixels = stream(images, database.name, resolution=64, crop=config.crop, channels=3)
    description = f"LSUN church outdoor, training images, {words(64, config.crop, 3)}"
    return Source(description, (), with_held_out(pixels, config.test_images), originals)


def read_ffhq(config: datasets.Ffhq64Config, raw: Path, stack: ExitStack) -> Source:
    originals = fetch(raw / config.kind, FFHQ)
    images = _complete(raw / config.kind / FFHQ.name, "ffhq64", stack)
    # dataset_tool labels images by FFHQ's folders of a thousand images each.
    unlabelled = replace(images, labels=np.zeros(len(images), np.int64), classes=())
    pixels = stream(unlabelled, FFHQ.name, resolution=64, crop=None, channels=3)
    description = f"FFHQ, {FFHQ.note} (square images resized by Lanczos); 64×64, RGB"
    return Source(description, (), with_held_out(pixels, config.test_images), originals)


def read_imagenet64(config: datasets.ImageNet64Config, raw: Path, stack: ExitStack) -> Source:
    if config.originals == "ilsvrc":
        return _ilsvrc(raw, 64, config.crop, stack)
    original = IMAGENET[config.crop]
    originals, path = fetch(raw / config.kind, original), raw / config.kind / original.name
    images = _complete(path, "imagenet-train", stack)
    if len(images.classes) != 1000:
        raise UserError(f"{path}: contains {len(images.classes)} classes, must be 1000")
    splits = with_held_out(
        stream(images, original.name, resolution=64, crop=None, channels=3), config.test_images
    )
    return Source(f"ILSVRC-2012, {original.note}; 64×64, RGB", images.classes, splits, originals)


def read_imagenet32(config: datasets.ImageNet32Config, raw: Path, stack: ExitStack) -> Source:
    return _ilsvrc(raw, 32, config.crop, stack)


def _ilsvrc(raw: Path, size: int, crop: Crop, stack: ExitStack) -> Source:
    """ILSVRC-2012 from ``raw/imagenet``, where torchvision unpacks it to class folders in train and val."""
    from torchvision.datasets import imagenet as known

    folder = raw / "imagenet"
    note = "from https://image-net.org/download-images, after registration"
    files = {key: Original(name, f"md5:{md5}", note=note) for key, (name, md5) in known.ARCHIVE_META.items()}
    originals: dict[str, str] = {}
    unpack = {"train": known.parse_train_archive, "val": known.parse_val_archive}
    for split, parse in unpack.items():
        if not (folder / split).is_dir():
            originals |= fetch(folder, files["devkit"], files[split])
            known.parse_devkit_archive(str(folder))
            parse(str(folder))
    parts = {split: _complete(folder / split, f"imagenet-{split}", stack) for split in unpack}
    splits = {
        name: stream(parts[split], f"imagenet/{split}", resolution=size, crop=crop, channels=3)
        for name, split in (("train", "train"), ("test", "val"))
    }
    description = f"ILSVRC-2012, {words(size, crop, 3)}; the test split is its validation split"
    return Source(description, parts["train"].classes, splits, originals)


def _complete(path: Path, counted: str, stack: ExitStack) -> Stream[Image.Image]:
    """The images at ``path``; refuses more or fewer images than their authors state."""
    images = images_at(path, stack).splits["train"]
    if len(images) != COUNTS[counted]:
        raise UserError(f"{path}: contains {len(images)} images, the published data set {COUNTS[counted]}")
    return images


def fetch(folder: Path, *originals: Original) -> dict[str, str]:
    """Digests of files below ``folder`` by name; downloads missing files.

    Raises:
        UserError: a file has other content than published, or is missing and cannot be downloaded.
    """
    digests = {}
    for original in originals:
        path = folder / original.name
        if not path.is_file():
            _download(original, path)
        digest = digests[original.name] = _digest(original, path)
        if original.digest not in (None, digest):
            raise UserError(
                f"{path}: is {digest}, published is {original.digest}; put the published file there"
            )
    return digests


def _digest(original: Original, path: Path) -> str:
    """The digest of ``path`` by the algorithm of the published checksum."""
    import pooch

    algorithm = (original.digest or "sha256").partition(":")[0]
    with reported(path, "read"):
        return f"{algorithm}:{pooch.file_hash(path, algorithm)}"


def _download(original: Original, path: Path) -> None:
    """Download the file to ``path``, which appears only with the published content."""
    hints = [original.note, f"published: {original.digest}" if original.digest else "no published checksum"]
    for place in original.urls:
        try:
            with replacing(path) as temporary:
                retrieve(place, temporary)
                digest = _digest(original, temporary)
                if original.digest not in (None, digest):
                    raise ValueError(f"the downloaded file is {digest}")
            return
        except ValueError as error:
            hints.append(f"the download failed: {place}: {error}")
    raise UserError(f"{path}: is missing; put it there by hand ({'; '.join(filter(None, hints))})")


def retrieve(place: str, path: Path) -> None:
    """Download a file from an address or from :data:`DRIVE`; raise ValueError if that fails."""
    import pooch
    from requests import RequestException
    from torchvision.datasets import utils

    try:
        if place.startswith(DRIVE):
            utils.download_file_from_google_drive(place.removeprefix(DRIVE), path.parent, path.name)
        else:
            # A compressed transfer would arrive unpacked: other bytes for a server's own .gz file.
            http = pooch.HTTPDownloader(progressbar=True, headers={"Accept-Encoding": "identity"})
            http(place, str(path), None)
    except Exception as error:
        # gdown, which torchvision uses, has its own exceptions; a full disk is no failure of the server.
        if place.startswith(DRIVE) or isinstance(error, RequestException):
            raise ValueError(error) from None
        raise
