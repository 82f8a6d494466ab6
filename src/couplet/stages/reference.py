"""Stage `reference`: the real images in an extractor's features, one file per split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from couplet.config.layout import record_of
from couplet.data import SPLITS, Archive
from couplet.errors import UserError
from couplet.metrics.extractor.base import load_extractor
from couplet.metrics.measure import measure
from couplet.metrics.reference import Reference, save_reference
from couplet.ranks import ALONE, Ranks
from couplet.stages.record import Recorder, archive_digests, digests


def images_of(data: Path) -> int:
    """How many images :func:`reference` passes through the extractor."""
    return sum(Archive(data).card.counts.values())


def reference(
    data: Path,
    features: Path,
    out: Path,
    device: torch.device,
    advance: Callable[[int], None],
    ranks: Ranks = ALONE,
) -> None:
    """Writes ``train.safetensors``, and ``test.safetensors`` if there is such a split, to the folder ``out``.

    The record lies beside it. ``advance`` is called with the size of each batch of images; ``ranks`` share
    the work.

    Raises:
        UserError: archive or extractor is missing or damaged, a split has a single image, or ``out``
            cannot be written.
    """
    archive = Archive(data)
    extractor = load_extractor(features, device)
    for split, count in archive.card.counts.items():
        if count == 1:
            raise UserError(f"{data}: split {split} has 1 image, statistics need 2 or more")
    record = Recorder("reference", record_of(out), device)
    for split in SPLITS:
        path = out / f"{split}.safetensors"
        if archive.card.counts.get(split):
            moments, values, _ = measure(extractor, archive.split(split).images, advance, ranks=ranks)
            if ranks.first:
                save_reference(path, Reference(split, extractor.name, extractor.digest, values, moments))
        elif ranks.first:
            path.unlink(missing_ok=True)  # of an archive that had this split
    if ranks.first:
        inputs = {**archive_digests(archive), **digests(features)}
        record.write(settings={}, inputs=inputs, outputs=digests(out))
