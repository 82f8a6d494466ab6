"""Stage `prepare`: a data set becomes an archive."""

from __future__ import annotations

from pathlib import Path

import torch

from couplet import data
from couplet.config.cells import digest
from couplet.config.datasets import DatasetConfig
from couplet.config.layout import record_of
from couplet.data import Archive, Card, Counting
from couplet.data.archive import PREVIEW, silent
from couplet.stages.record import Recorder, archive_digests, digests


def prepare(
    name: str,
    config: DatasetConfig,
    out: Path,
    *,
    raw: Path,
    workers: int = 1,
    counting: Counting = silent,
) -> Card:
    """Writes the archive of data set ``name`` to the folder ``out``, and its record beside it.

    Args:
        name: what the card calls it.
        config: where its images come from.
        out: the archive's folder.
        raw: folder of original files, looked for and downloaded to ``raw/<kind>``; ImageNet's, which two
            kinds share, to ``raw/imagenet``.
        workers: threads that decode; the bytes written do not depend on them.
        counting: shows progress.

    Raises:
        UserError: the source is not to be had or holds images that cannot be decoded, or ``out`` cannot be
            written.
    """
    record = Recorder("prepare", record_of(out), torch.device("cpu"))
    with data.read(config, raw) as source:
        card = data.write(
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
    record.write(
        key=digest(config),
        settings=config.model_dump(mode="json"),
        originals=card.originals,
        inputs={},
        outputs={**archive_digests(Archive(out)), **digests(out / PREVIEW)},
    )
    return card
