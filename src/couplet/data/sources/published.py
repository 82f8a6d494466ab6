"""The papers' data sets, from the files that their authors published, below ``raw``."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from couplet.config.datasets import (
    CelebA64Config,
    Church64Config,
    Cifar10Config,
    Crop,
    FashionMnistConfig,
    Ffhq64Config,
    ImageNet32Config,
    ImageNet64Config,
    MnistConfig,
)
from couplet.data.archive import Split
from couplet.data.sources.base import Source, needed, reads, with_held_out
from couplet.data.sources.containers import Collection, idx_file, images_at, lmdb_folder, zip_file
from couplet.data.sources.decoding import stream, words
from couplet.data.sources.originals import Original, fetch
from couplet.errors import UserError

COUNTS = {
    "imagenet-train": 1_281_167,
    "imagenet-val": 50_000,
    "church64": 126_227,
    "ffhq64": 70_000,
}
"""Images that the authors state, where files carry no checksum that would show that some are missing."""

LSUN = Original(
    "church_outdoor_train_lmdb.zip",
    # As recorded by TensorFlow Datasets; LSUN itself publishes none.
    "sha256:91128ae026840ac0c5982b4445ab5fc4e092d6847cca76793b2b1a0815c2e74a",
    ("http://dl.yf.io/lsun/scenes/church_outdoor_train_lmdb.zip",),
)

FFHQ_ZIP = Original(
    "ffhq-64x64.zip",
    None,
    note="made by EDM's dataset_tool.py --resolution=64x64 from FFHQ's images1024x1024",
)

IMAGENET_ZIPS: Mapping[Crop, Original] = {
    "center-crop": Original(
        "imagenet-64x64.zip",
        None,
        note="made by EDM's dataset_tool.py --resolution=64x64 --transform=center-crop from ILSVRC's train",
    ),
    "center-crop-dhariwal": Original(
        "img64.zip",
        None,
        note="made by EDM2's dataset_tool.py convert --resolution=64x64 --transform=center-crop-dhariwal "
        "from ILSVRC's train",
    ),
}


def _torchvision(kind: str) -> Any:
    """torchvision's data sets, which know names, places and checksums of published files."""
    return needed("torchvision.datasets", f"dataset {kind}", "pipeline")


@reads(MnistConfig)
def read_mnist(config: MnistConfig, raw: Path, stack: ExitStack) -> Source:
    known = _torchvision(config.kind).MNIST
    return _idx_source("MNIST", known, tuple("0123456789"), raw / config.kind)


@reads(FashionMnistConfig)
def read_fashion_mnist(config: FashionMnistConfig, raw: Path, stack: ExitStack) -> Source:
    known = _torchvision(config.kind).FashionMNIST
    return _idx_source("Fashion-MNIST", known, tuple(known.classes), raw / config.kind)


def _idx_source(title: str, known: Any, classes: tuple[str, ...], folder: Path) -> Source:
    """The four IDX files that torchvision's class ``known`` names."""
    originals: dict[str, str] = {}
    for name, md5 in known.resources:
        urls = tuple(f"{mirror}{name}" for mirror in known.mirrors)
        originals |= fetch(Original(name, f"md5:{md5}", urls), folder)[1]
    files = {"train": "train-images-idx3-ubyte.gz", "test": "t10k-images-idx3-ubyte.gz"}
    return Source(
        description=f"{title}, the original IDX files; 28×28, grey",
        classes=classes,
        splits={name: stream(idx_file(folder / file), file, 28, None, 1) for name, file in files.items()},
        originals=originals,
    )


@reads(Cifar10Config)
def read_cifar10(config: Cifar10Config, raw: Path, stack: ExitStack) -> Source:
    known = _torchvision(config.kind).CIFAR10
    folder = raw / config.kind
    if not (folder / known.base_folder).is_dir():
        archive, _ = fetch(Original(known.filename, f"md5:{known.tgz_md5}", (known.url,)), folder)
        needed("torchvision.datasets.utils", "dataset cifar10", "pipeline").extract_archive(
            str(archive), str(folder)
        )
    originals: dict[str, str] = {}
    batches = [*known.train_list, *known.test_list, (known.meta["filename"], known.meta["md5"])]
    for name, md5 in batches:
        note = f"part of {known.filename} from {known.url}"
        originals |= fetch(Original(f"{known.base_folder}/{name}", f"md5:{md5}", note=note), folder)[1]
    # These are pickles: torchvision opens them only with the published content.
    parts = {name: known(str(folder), train=name == "train") for name in ("train", "test")}
    return Source(
        description="CIFAR-10, the python version; 32×32, RGB",
        classes=tuple(parts["train"].classes),
        splits={
            name: Split(np.ascontiguousarray(part.data), np.array(part.targets, np.int64))
            for name, part in parts.items()
        },
        originals=originals,
    )


@reads(CelebA64Config)
def read_celeba(config: CelebA64Config, raw: Path, stack: ExitStack) -> Source:
    known = {name: (key, md5) for key, md5, name in _torchvision(config.kind).CelebA.file_list}
    folder = raw / config.kind
    originals: dict[str, str] = {}
    for name in ("list_eval_partition.txt", "img_align_celeba.zip"):
        key, md5 = known[name]
        note = "from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
        originals |= fetch(Original(name, f"md5:{md5}", drive=key, note=note), folder)[1]
    images = zip_file(folder / "img_align_celeba.zip", stack)["train"]
    position = {Path(name).name: index for index, name in enumerate(images.names)}
    lines = (folder / "list_eval_partition.txt").read_text().split("\n")
    partition = [line.split() for line in lines if line]
    everything = stream(images, "img_align_celeba.zip", 64, config.crop, 3)
    return Source(
        description=f"CelebA, aligned and cropped, {words(64, config.crop, 3)}",
        classes=(),
        splits={
            split: everything[np.array([position[name] for name, part in partition if part == number])]
            for split, number in (("train", "0"), ("test", "2"))
        },
        originals=originals,
    )


@reads(Church64Config)
def read_church(config: Church64Config, raw: Path, stack: ExitStack) -> Source:
    folder = raw / config.kind
    database = folder / "church_outdoor_train_lmdb"
    originals: dict[str, str] = {}
    if not database.is_dir():
        archive, originals = fetch(LSUN, folder)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(temporary)
            (Path(temporary) / database.name).rename(database)
    images = lmdb_folder(database, stack)
    _complete(database, images, "church64")
    return Source(
        description=f"LSUN church outdoor, training images, {words(64, config.crop, 3)}",
        classes=(),
        splits=with_held_out(stream(images, database.name, 64, config.crop, 3), config.test_images),
        originals=originals,
    )


@reads(Ffhq64Config)
def read_ffhq(config: Ffhq64Config, raw: Path, stack: ExitStack) -> Source:
    images, originals = _edm_zip(FFHQ_ZIP, raw / config.kind, "ffhq64", stack)
    # dataset_tool takes FFHQ's folders of a thousand images each for classes.
    unlabelled = replace(images, labels=np.zeros(len(images), np.int64), classes=())
    return Source(
        description=f"FFHQ, {FFHQ_ZIP.note} (square images resized by Lanczos); 64×64, RGB",
        classes=(),
        splits=with_held_out(stream(unlabelled, FFHQ_ZIP.name, 64, None, 3), config.test_images),
        originals=originals,
    )


@reads(ImageNet64Config)
def read_imagenet64(config: ImageNet64Config, raw: Path, stack: ExitStack) -> Source:
    if config.originals == "ilsvrc":
        return _ilsvrc(raw, 64, config.crop, stack)
    original = IMAGENET_ZIPS[config.crop]
    images, originals = _edm_zip(original, raw / config.kind, "imagenet-train", stack)
    if len(images.classes) != 1000:
        raise UserError(f"{raw / config.kind / original.name}: holds {len(images.classes)} classes, not 1000")
    return Source(
        description=f"ILSVRC-2012, {original.note}; 64×64, RGB",
        classes=images.classes,
        splits=with_held_out(stream(images, original.name, 64, None, 3), config.test_images),
        originals=originals,
    )


@reads(ImageNet32Config)
def read_imagenet32(config: ImageNet32Config, raw: Path, stack: ExitStack) -> Source:
    return _ilsvrc(raw, 32, config.crop, stack)


def _edm_zip(
    original: Original, folder: Path, counted: str, stack: ExitStack
) -> tuple[Collection, dict[str, str]]:
    """The images of a zip in the format of EDM's dataset_tool."""
    path, digest = fetch(original, folder)
    images = zip_file(path, stack)["train"]
    _complete(path, images, counted)
    return images, digest


def _ilsvrc(raw: Path, size: int, crop: Crop, stack: ExitStack) -> Source:
    """ILSVRC-2012 from ``raw/imagenet``, which torchvision unpacks into class folders in train and val."""
    folder = raw / "imagenet"
    known = needed("torchvision.datasets.imagenet", "dataset imagenet", "pipeline")
    originals: dict[str, str] = {}
    unpack = {"train": known.parse_train_archive, "val": known.parse_val_archive}
    for split, parse in unpack.items():
        if not (folder / split).is_dir():
            for key in ("devkit", split):
                name, md5 = known.ARCHIVE_META[key]
                note = "from https://image-net.org/download-images, after registration"
                originals |= fetch(Original(name, f"md5:{md5}", note=note), folder)[1]
            known.parse_devkit_archive(str(folder))
            parse(str(folder))
    parts = {}
    for split in unpack:
        parts[split] = images_at(folder / split, stack)["train"]
        _complete(folder / split, parts[split], f"imagenet-{split}")
    return Source(
        description=f"ILSVRC-2012, {words(size, crop, 3)}; the test split is its validation split",
        classes=parts["train"].classes,
        splits={
            "train": stream(parts["train"], "imagenet/train", size, crop, 3),
            "test": stream(parts["val"], "imagenet/val", size, crop, 3),
        },
        originals=originals,
    )


def _complete(path: Path, images: Collection, counted: str) -> None:
    """Refuses a collection with more or fewer images than its authors state."""
    if len(images) != COUNTS[counted]:
        raise UserError(f"{path}: holds {len(images)} images, the published data set {COUNTS[counted]}")
