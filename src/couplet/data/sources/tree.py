"""Labels and splits of image files, from the names of their folders or from dataset.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from couplet.data.sources.collection import Collection, opener
from couplet.errors import UserError

TEST_NAMES = ("test", "val", "valid")
"""Names of a folder of test images next to `train`; the first existing one is used."""

MOST_CLASSES = 1_000_000
"""Labels from here on are refused as mistakes, because every number up to the largest label is a class."""


def collections_of(path: Path, names: Sequence[str], read: Callable[[str], bytes]) -> dict[str, Collection]:
    """The images among the files ``names`` of ``path``, by split, with their labels.

    Raises:
        UserError: there are no images, or their names or dataset.json are ambiguous.
    """
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    images = [name for name in names if _is_image(PurePosixPath(name), endings)]
    if not images:
        raise UserError(f"{path}: contains no image files ({len(names)} files of other kinds)")
    for name in names:
        if name.endswith("/dataset.json"):
            raise UserError(f"{path}: {name}: move dataset.json to the top, where labels are read from")

    def collection(names: Sequence[str], labels: NDArray[np.int64], classes: tuple[str, ...]) -> Collection:
        return Collection(names, labels, classes, opener(path, names, lambda index: read(names[index])))

    if "dataset.json" in names:
        return {"train": collection(images, *_json_labels(path, images, read("dataset.json")))}
    splits = _splits(path, images)
    labels = {name: _first_folders(path, chosen, folder) for name, (folder, chosen) in splits.items()}
    classes = tuple(sorted({label for split in labels.values() for label in split} - {""}))
    if len(classes) < 2:  # a single folder is no label
        classes, labels = (), {name: [""] * len(split) for name, split in labels.items()}
    if unknown := sorted(set(labels.get("test", ())) - set(labels["train"])):
        raise UserError(f"{path}: class {unknown[0]!r} of the test split is not in the training split")
    index = {label: number for number, label in enumerate(classes)} or {"": 0}
    return {
        name: collection(chosen, np.array([index[label] for label in labels[name]], np.int64), classes)
        for name, (_, chosen) in splits.items()
    }


def _is_image(name: PurePosixPath, endings: set[str]) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.parts)
    return not hidden and name.suffix.lower() in endings


def _splits(path: Path, images: Sequence[str]) -> dict[str, tuple[str, list[str]]]:
    """Folder and images of each split: folders `train` and `test` (`val`, `valid`), else all is `train`."""
    base = _common_folder(images)
    tops = {name[len(base) :].partition("/")[0] for name in images}
    if "train" not in tops:
        return {"train": (base, list(images))}
    tests = [name for name in TEST_NAMES if name in tops]
    if others := sorted(tops - {"train", *TEST_NAMES}):
        raise UserError(f"{path}: {others[0]!r} next to 'train' must be one of {', '.join(TEST_NAMES)}")
    folders = {"train": f"{base}train/"} | ({"test": f"{base}{tests[0]}/"} if tests else {})
    return {
        name: (folder, [image for image in images if image.startswith(folder)])
        for name, folder in folders.items()
    }


def _common_folder(images: Sequence[str]) -> str:
    """The folder around everything, such as ``cifar10/`` around ``train`` and ``test``; empty without one."""
    base = ""
    while True:
        below = [name[len(base) :].partition("/") for name in images]
        tops = {top for top, slash, _ in below if slash}
        if len(tops) != 1 or not all(slash and "/" in rest for _, slash, rest in below):
            return base
        (top,) = tops
        if top == "train":
            return base
        base += f"{top}/"


def _first_folders(path: Path, images: Sequence[str], folder: str) -> list[str]:
    """Name of the folder of each image directly below ``folder``; empty if none is in a folder there."""
    firsts = [name[len(folder) :].partition("/") for name in images]
    flat = [name for name, (_, slash, _) in zip(images, firsts, strict=True) if not slash]
    if flat and len(flat) < len(images):
        raise UserError(f"{path}: {flat[0]} is next to folders of classes; move it into one of them")
    return [top if slash else "" for top, slash, _ in firsts]


def _json_labels(
    path: Path, images: Sequence[str], content: bytes
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels and classes of EDM's dataset.json: ``{"labels": [[name, int], …]}``, or null."""
    try:
        pairs = json.loads(content)["labels"]
        label_of = {str(name): label for name, label in pairs} if pairs is not None else None
    except (ValueError, TypeError, KeyError, RecursionError):
        raise UserError(f"{path}: dataset.json must contain 'labels': null or [[name, integer], …]") from None
    if not label_of:
        return np.zeros(len(images), np.int64), ()
    for name in images:
        label = label_of.get(name)
        if type(label) is not int or not 0 <= label < MOST_CLASSES:
            allowed = f"must be 0, 1, … {MOST_CLASSES - 1}"
            raise UserError(f"{path}: dataset.json: label of {name} = {label!r}: {allowed}")
    labels = np.array([label_of[name] for name in images], np.int64)
    return labels, tuple(str(label) for label in range(int(labels.max()) + 1))
