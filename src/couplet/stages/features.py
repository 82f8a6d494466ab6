"""Stage `features`: an extractor made ready for a data set."""

from __future__ import annotations

from pathlib import Path

from couplet.config.variants import build, implementation
from couplet.data.archive import ARRAYS, Archive
from couplet.errors import UserError
from couplet.files import write_json
from couplet.metrics.extractor.base import CARD
from couplet.plan.stages import Settings
from couplet.process import Context
from couplet.provenance.record import Recorder, archive_digests, digests


def run(context: Context, settings: Settings, *, data: Path, out: Path) -> str:
    """Write an extractor's card, and what it learnt from the data set, to ``out``, and the record beside it.

    Published weights are looked up, or downloaded, and checked, but not copied: the card pins their digest.

    Raises:
        UserError: the archive is missing or damaged, the extractor does not suit it, weights are not to
            be had or have another digest, or ``out`` is a data set's folder or cannot be written.
    """
    if (out / ARRAYS[0]).exists():
        raise UserError(f"{out}: holds a prepared data set; choose another folder")
    config, archive = settings.extractor, Archive(data)
    record = Recorder("features", settings, out, context.device, reads={"prepare": data})
    learnt = implementation(config).make(config, archive, out)
    extractor = build(config, out, context.device)
    card = {
        **learnt,
        "kind": config.kind,
        "name": extractor.name,
        "config": dict(config),
        "sha256": extractor.digest,
    }
    write_json(out / CARD, card)
    record.write(inputs=archive_digests(archive), outputs=digests(out))
    accuracy = card.get("test_accuracy")
    return extractor.name + (
        "" if accuracy is None else f", {accuracy:.1%} of test images classified correctly"
    )
