"""Stage `prepare`: a data set as an archive."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from couplet.data.archive import PREVIEW, Archive, Card, write
from couplet.data.sources.base import read
from couplet.files import replacing
from couplet.plan.stages import Settings
from couplet.process import Console
from couplet.provenance.record import Recorder, archive_digests, digests, is_current
from couplet.reporting.pictures import contact_sheet

NAMED = 5
"""Number of classes that a message names."""


def run(
    context: Console, settings: Settings, *, name: str, out: Path, raw: Path = Path("raw"), workers: int = 1
) -> str:
    """Write the archive of a data set with a picture of it to the folder ``out``.

    Args:
        context: where it says what it does.
        settings: settings of the data set.
        name: its name in the card.
        out: the archive's folder.
        raw: folder of original files, read from and downloaded to ``raw/<kind>``; ImageNet's, which two kinds
            share, to ``raw/imagenet``.
        workers: threads that decode; the bytes written do not depend on them.
    """
    record = Recorder("prepare", settings, out, None, reads={})
    if is_current("prepare", out, record.key) and Archive(out).card.dataset == name:
        return f"{name}, as the record has it"

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
    origin = ", ".join(map(str, settings.dataset.originals_named.values()))
    return f"{name}, {described(card)}{f'; read from {origin}' if origin else ''}; see {PREVIEW}"


def described(card: Card) -> str:
    """Size, splits and classes of an archive, and what was left out of it."""
    parts = ["×".join(map(str, card.shape))]
    parts += [f"{count} {split}" for split, count in card.counts.items()]
    parts[-1] += " images"
    parts += [f"{len(card.classes)} classes"] if card.classes else ["no labels"]
    said = [", ".join(parts), *(f"{split} is {folder}" for split, folder in card.folders.items())]
    if left_out := card.left_out | ({"unreadable": n} if (n := sum(map(len, card.skipped.values()))) else {}):
        said.append("left out: " + ", ".join(f"{count} {reason}" for reason, count in left_out.items()))
    if empty := card.empty_classes:
        more = ", …" if len(empty) > NAMED else ""
        said.append(f"classes without a training image: {', '.join(empty[:NAMED])}{more}")
    return "; ".join(said)
