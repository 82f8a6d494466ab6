"""Stage `reference`: features and moments of the real images, one file per split."""

from __future__ import annotations

from pathlib import Path

import torch

from couplet.data import SPLITS, Archive
from couplet.metrics.extractor import ClassifierExtractor
from couplet.metrics.moments import moments
from couplet.metrics.reference import Reference, save_reference
from couplet.stages.features import EXTRACTOR


def reference(data: Path, features: Path, out: Path, device: torch.device) -> None:
    """Writes ``train.safetensors`` and ``test.safetensors`` to the folder ``out``.

    Raises:
        UserError: archive or extractor is missing or damaged, or ``out`` cannot be written.
    """
    archive = Archive(data)
    extractor = ClassifierExtractor(features / EXTRACTOR, device)
    for split in SPLITS:
        found = extractor(archive.split(split).images)
        save_reference(
            out / f"{split}.safetensors",
            Reference(split, extractor.digest, found, moments(found)),
        )
