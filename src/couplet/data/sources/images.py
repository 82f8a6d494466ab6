"""Images of the user."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from couplet.config.datasets import ImagesConfig
from couplet.data.sources.base import Source, with_held_out
from couplet.data.sources.containers import Collection, images_at
from couplet.data.sources.decoding import channels_of, stream, words
from couplet.errors import UserError
from couplet.files import sha256


def read_images(config: ImagesConfig, raw: Path, stack: ExitStack) -> Source:
    """The images at ``config.path``, whose format is recognised by content; ``raw`` is not used."""
    path = Path(config.path)
    collections = _collections(config, path, stack)
    train = collections["train"]
    channels = config.channels or channels_of(train, config.path)
    as_pixels = partial(stream, resolution=config.resolution, crop=config.crop, channels=channels)
    convert = config.channels is not None
    splits = {name: as_pixels(part, config.path, convert=convert) for name, part in collections.items()}
    files = [path, *([Path(config.test_path)] if config.test_path else [])]
    return Source(
        description=f"{config.path}, {words(config.resolution, config.crop, channels)}",
        classes=train.classes,
        splits=with_held_out(splits["train"], config.test_images) if config.test_images else splits,
        originals={str(file): f"sha256:{sha256(file)}" for file in files if file.is_file()},
        skip_corrupt=config.skip_corrupt,
    )


def _collections(config: ImagesConfig, path: Path, stack: ExitStack) -> dict[str, Collection]:
    """The splits at ``path`` and ``test_path``; refuses two test splits, or one of other classes."""
    collections = images_at(path, stack)
    if "test" in collections and (config.test_path or config.test_images):
        key = "test_path" if config.test_path else "test_images"
        raise UserError(f"{path}: has its own test split; leave {key} out")
    if config.test_path is None:
        return collections
    test = images_at(Path(config.test_path), stack)
    if set(test) != {"train"}:
        raise UserError(
            f"{config.test_path}: has splits; test_path must be a folder or file of images without splits"
        )
    train, held = collections["train"], test["train"]
    if bool(train.classes) != bool(held.classes) or set(held.classes) - set(train.classes):
        names = [", ".join(sorted(part.classes)[:5]) or "no labels" for part in (held, train)]
        raise UserError(f"{config.test_path}: {names[0]} are not among the classes of {path}: {names[1]}")
    numbers = np.array([train.classes.index(name) for name in held.classes] or [0], np.int64)
    return {"train": train, "test": replace(held, labels=numbers[held.labels], classes=train.classes)}
