"""Stage `reference`: statistics of the real images in an extractor's features, one file per split."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from couplet.data.archive import Archive
from couplet.metrics.extractor.base import load_extractor
from couplet.metrics.measure import measure, real_images, save_reference
from couplet.plan.layout import statistics_name
from couplet.plan.stages import Settings
from couplet.process import Context
from couplet.provenance.record import Recorder, archive_digests, digests


def run(context: Context, settings: Settings, *, data: Path, features: Path, out: Path) -> str:
    """Write ``train.safetensors``, and ``test.safetensors`` for a test split, to the folder ``out``.

    Of some images of the training split, ``train-1.safetensors`` and so on hold the further sets.
    """
    archive = Archive(data)
    extractor = load_extractor(features, context.device)
    counts, chosen = archive.card.counts, settings.reference
    reads = {"prepare": data, "features": features}
    record = Recorder("reference", settings, out, context.device, reads=reads)
    # Sets of all images are one.
    more = {} if chosen.images in (None, counts["train"]) else {"of": counts["train"], "sets": chosen.sets}
    named = {
        (split, number): real_images(archive.split(split).images, images, number)
        for split, images, sets in (("train", chosen.images, more.get("sets", 1)), ("test", None, 1))
        if counts.get(split)
        for number in range(sets)
    }
    total = sum(map(len, named.values()))
    with context.counting(f"reference: {extractor.name}", total) as advance:
        for (split, number), images in named.items():
            measured = measure(extractor, images, advance, ranks=context.ranks)
            if context.ranks.first:
                save_reference(
                    out / statistics_name(split, number),
                    measured,
                    split=split,
                    extractor=extractor,
                    counts=_counts(archive, split),
                    **(more if split == "train" else {}),
                )
    if context.ranks.first:
        for stale in {*out.glob("*.safetensors")} - {out / statistics_name(*each) for each in named}:
            stale.unlink()  # of an earlier archive that had this split, or of more sets
        record.write(inputs={**archive_digests(archive), **digests(features)}, outputs=digests(out))
    return "reference statistics of " + ", ".join(f"{count} {split}" for split, count in counts.items())


def _counts(archive: Archive, split: str) -> list[int]:
    """The images of each class in a split; none without classes."""
    classes = len(archive.card.classes)
    return np.bincount(archive.split(split).labels, minlength=classes).tolist() if classes else []
