"""Stage `prepare`: write a data set as an archive."""

from __future__ import annotations

from pathlib import Path

import torch

from couplet.config.cells import digest
from couplet.config.datasets import DatasetConfig
from couplet.config.layout import record_of
from couplet.data.archive import PREVIEW, Archive, Card, Counting, silent, write
from couplet.data.sources.base import read
from couplet.errors import installed
from couplet.files import replacing
from couplet.stages.record import Recorder, archive_digests, digests


def prepare(
    name: str,
    config: DatasetConfig,
    *,
    out: Path,
    raw: Path,
    workers: int = 1,
    counting: Counting = silent,
) -> Card:
    """Write the archive of a data set with a preview picture, and its record.

    Args:
        name: name of the data set in the card.
        config: origin of the images.
        out: folder of the archive; the record is written next to it.
        raw: folder of original files, which are read from, or downloaded to, ``raw/<kind>``; the two kinds
            of ImageNet share ``raw/imagenet``.
        workers: number of decoding threads; the bytes do not depend on it.
        counting: shows progress.

    Raises:
        UserError: the originals are missing or damaged, images cannot be decoded, ``out`` cannot be written,
            or a package is not installed.
    """
    with installed(f"dataset {name}"):
        from couplet.reporting.preview import contact_sheet

    record = Recorder("prepare", record_of(out), torch.device("cpu"))
    with read(config, raw) as source:
        card = write(
            out,
            dataset=name,
            source=source.description,
            classes=source.classes,
            splits=source.splits,
            originals=source.originals,
            skip_corrupt=source.skip_corrupt,
            workers=workers,
            counting=counting,
        )
    archive = Archive(out)
    with replacing(out / PREVIEW) as temporary:
        contact_sheet(archive.train, card.classes).save(temporary, format="PNG")
    record.write(
        key=digest(config),
        settings=config.model_dump(mode="json"),
        originals=card.originals,
        inputs={},
        outputs={**archive_digests(archive), **digests(out / PREVIEW)},
    )
    return card
