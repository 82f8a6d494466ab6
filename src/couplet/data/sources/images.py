"""Images of one's own."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from couplet.config.datasets import ImagesConfig
from couplet.data.archive import Split, Stream
from couplet.data.sources.base import Source, reads, with_held_out
from couplet.data.sources.containers import Collection, images_at
from couplet.data.sources.decoding import channels_of, stream, words
from couplet.data.sources.originals import digest_of
from couplet.errors import UserError


@reads(ImagesConfig)
def read_images(config: ImagesConfig, raw: Path, stack: ExitStack) -> Source:
    """What is at ``config.path``, by content; nothing is read from ``raw``."""
    path = Path(config.path)
    found = _collections(config, path, stack)
    train = found["train"]
    channels = config.channels or channels_of(train, config.path)

    def as_stream(collection: Collection) -> Stream:
        return stream(
            collection,
            config.path,
            config.resolution,
            config.crop,
            channels,
            convert=config.channels is not None,
        )

    splits: dict[str, Split | Stream]
    if config.test_images:
        splits = with_held_out(as_stream(train), config.test_images)
    else:
        splits = {name: as_stream(collection) for name, collection in found.items()}
    files = [path, *([Path(config.test_path)] if config.test_path else [])]
    return Source(
        description=f"{config.path}, {words(config.resolution, config.crop, channels)}",
        classes=train.classes,
        splits=splits,
        originals={str(file): digest_of(file) for file in files if file.is_file()},
        skip_corrupt=config.skip_corrupt,
    )


def _collections(config: ImagesConfig, path: Path, stack: ExitStack) -> dict[str, Collection]:
    """The splits at ``path`` and ``test_path``.

    Raises:
        UserError: two test splits are given, or their classes differ.
    """
    found = images_at(path, stack)
    if "test" in found and (config.test_path or config.test_images):
        key = "test_path" if config.test_path else "test_images"
        raise UserError(f"{path}: holds a test split of its own; leave {key} out")
    if config.test_path is None:
        return found
    test = images_at(Path(config.test_path), stack)
    if set(test) != {"train"}:
        raise UserError(
            f"{config.test_path}: holds splits of its own; test_path is one folder or file of images"
        )
    train, held = found["train"], test["train"]
    if bool(train.classes) != bool(held.classes) or set(held.classes) - set(train.classes):
        shown = [", ".join(sorted(part.classes)[:5]) or "no labels" for part in (held, train)]
        raise UserError(f"{config.test_path}: {shown[0]} are not among the classes of {path}: {shown[1]}")
    numbers = np.array([train.classes.index(name) for name in held.classes] or [0], np.int64)
    return {"train": train, "test": replace(held, labels=numbers[held.labels], classes=train.classes)}
