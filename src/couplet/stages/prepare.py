"""Stage `prepare`: a data set as an archive."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from couplet.data.archive import PREVIEW, Archive, write
from couplet.data.sources.base import read
from couplet.files import replacing
from couplet.plan.stages import Settings
from couplet.process import Context
from couplet.provenance.record import Recorder, archive_digests, digests
from couplet.reporting.pictures import contact_sheet


def run(
    context: Context, settings: Settings, *, name: str, out: Path, raw: Path = Path("raw"), workers: int = 1
) -> str:
    """Write the archive of a data set with a picture of it to the folder ``out``.

    Args:
        context: surroundings.
        settings: settings of the data set.
        name: its name in the card.
        out: the archive's folder.
        raw: folder of original files, read from and downloaded to ``raw/<kind>``; ImageNet's, which two kinds
            share, to ``raw/imagenet``.
        workers: threads that decode; the bytes written do not depend on them.
    """
    record = Recorder("prepare", settings, out, context.device, reads={})

    def counting(title: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        return context.counting(f"prepare {title}", total)

    with read(settings.dataset, raw) as source:
        card = write(out, name, source, workers=workers, counting=counting)
    archive = Archive(out)
    with replacing(out / PREVIEW) as temporary:
        contact_sheet(archive.train, card.classes).save(temporary, format="PNG")
    record.write(
        config=settings.dataset.model_dump(mode="json"),
        originals=card.originals,
        inputs={},
        outputs={**archive_digests(archive), **digests(out / PREVIEW)},
    )
    counts = ", ".join(f"{count} {split}" for split, count in card.counts.items())
    return f"{name}, {'×'.join(map(str, card.shape))}, {counts} images; see preview.png"
