"""Stage `features`: prepare an extractor for a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from couplet.config.cells import digest
from couplet.config.extractors import ExtractorConfig
from couplet.config.layout import record_of
from couplet.config.variants import implementation
from couplet.data import Archive
from couplet.data.archive import ARRAYS
from couplet.errors import UserError
from couplet.files import write_json
from couplet.metrics.extractor.base import CARD, Extractor, load_extractor
from couplet.stages.record import Recorder, archive_digests, digests


def features(config: ExtractorConfig, data: Path, out: Path, device: torch.device) -> dict[str, Any]:
    """Write an extractor's card and trained weights, if any, to ``out``, and the record next to it.

    Published weights are downloaded if needed and checked, but not copied: the card pins their digest.

    Raises:
        UserError: the archive is missing or damaged, the extractor does not suit it, weights are unavailable
            or have another digest, or ``out`` is a data set's folder or cannot be written.
    """
    if (out / ARRAYS[0]).exists():
        raise UserError(f"{out}: holds a prepared data set; choose another folder")
    kind, archive = implementation(config), Archive(data)
    record = Recorder("features", record_of(out), device)
    entries = kind.make(config, archive, out)
    extractor = kind(config, out, device)
    card = {
        **entries,
        "kind": config.kind,
        "name": extractor.name,
        "config": dict(config),
        "sha256": extractor.digest,
    }
    write_json(out / CARD, card)
    record.write(
        key=digest(config),
        settings=config.model_dump(mode="json"),
        inputs=archive_digests(archive),
        outputs=digests(out),
    )
    return card


def extractor_of(folder: Path, config: ExtractorConfig, device: torch.device) -> Extractor:
    """Load the extractor in ``folder`` and check that it has the settings of ``config``.

    Raises:
        UserError: it has not, or card or weights are missing or damaged.
    """
    extractor = load_extractor(folder, device)
    if extractor.config.model_dump() != config.model_dump():
        raise UserError(
            f"{folder}: holds extractor {extractor.name} with other settings than the parameter file's "
            f"{config.kind}; run `couplet features` again"
        )
    return extractor
