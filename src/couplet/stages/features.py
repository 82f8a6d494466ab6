"""Stage `features`: an extractor made ready for a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from couplet.config.cells import digest
from couplet.config.extractors import ExtractorConfig
from couplet.config.layout import record_of
from couplet.data.archive import ARRAYS, Archive
from couplet.errors import UserError
from couplet.files import write_json
from couplet.metrics.extractor import CARD, Extractor, implementation, load_extractor
from couplet.stages.record import Recorder, archive_digests, digests


def features(config: ExtractorConfig, data: Path, out: Path, device: torch.device) -> dict[str, Any]:
    """Writes an extractor's card, and what it learnt from the data set, to ``out``, and the record beside it.

    Published weights are found, or downloaded, and checked, but not copied: the card pins their digest.

    Raises:
        UserError: the archive is missing or damaged, the extractor does not suit it, weights are not to
            be had or have another digest, or ``out`` is a data set's folder or cannot be written.
        TypeError: the extractor's configuration is of an unknown class.
    """
    if (out / ARRAYS[0]).exists():
        raise UserError(f"{out}: holds a prepared data set; choose another folder")
    kind, archive = implementation(config), Archive(data)
    record = Recorder("features", record_of(out), device)
    about = kind.make(config, archive, out)
    extractor = kind.load(config, out, device)
    card = {
        **about,
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
    """The extractor in ``folder``, if it is the one of the settings.

    Raises:
        UserError: it is not, or card or weights are missing or damaged.
    """
    extractor = load_extractor(folder, device)
    if extractor.config.model_dump() != config.model_dump():
        raise UserError(
            f"{folder}: holds extractor {extractor.name} with other settings than the parameter file's "
            f"{config.kind}; run `couplet features` again"
        )
    return extractor
