"""Stage `reference`: statistics of the real images in an extractor's features, one file per split."""

from __future__ import annotations

from pathlib import Path

from couplet.data.archive import SPLITS, Archive
from couplet.metrics.extractor.base import load_extractor
from couplet.metrics.measure import measure, save_reference
from couplet.plan.stages import Settings
from couplet.process import Context
from couplet.provenance.record import Recorder, archive_digests, digests


def run(context: Context, settings: Settings, *, data: Path, features: Path, out: Path) -> str:
    """Write ``train.safetensors``, and ``test.safetensors`` for a test split, to the folder ``out``."""
    archive = Archive(data)
    extractor = load_extractor(features, context.device)
    counts = archive.card.counts
    reads = {"prepare": data, "features": features}
    record = Recorder("reference", settings, out, context.device, reads=reads)
    with context.counting(f"reference: {extractor.name}", sum(counts.values())) as advance:
        for split in SPLITS:
            path = out / f"{split}.safetensors"
            if counts.get(split):
                images = archive.split(split).images
                measured = measure(extractor, images, advance, ranks=context.ranks)
                if context.ranks.first:
                    save_reference(path, measured, split=split, extractor=extractor)
            elif context.ranks.first:
                path.unlink(missing_ok=True)  # of an earlier archive that had this split
    if context.ranks.first:
        record.write(inputs={**archive_digests(archive), **digests(features)}, outputs=digests(out))
    return "reference statistics of " + ", ".join(f"{count} {split}" for split, count in counts.items())
