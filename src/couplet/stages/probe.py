"""Stage `probe`: a measurement of a finished run that needs no samples, as a CSV file."""

from __future__ import annotations

import csv
from pathlib import Path

from couplet.config.variants import build
from couplet.data.archive import Archive
from couplet.errors import UserError
from couplet.files import replacing
from couplet.plan.layout import checkpoint_name
from couplet.plan.stages import RECORD, Settings
from couplet.probes.base import Subject
from couplet.process import Context
from couplet.provenance.record import Recorder, archive_digests, digests, read_record
from couplet.stages.train import Weights
from couplet.tensors import products


def run(
    context: Context, settings: Settings, *, data: Path, train: Path, out: Path, frozen: Path | None = None
) -> str:
    """Measure a run and write the CSV file ``out``.

    ``frozen`` is the folder of the run that `pretrained` names, whose model is the coupling's predictor.
    """
    training, config = settings.training, settings.probe
    if (misfit := config.misfit(training)) is not None:
        raise UserError(f"probe {config.kind}: {misfit}")
    archive = Archive(data)
    if read_record(train / RECORD).content.get("data") != dict(archive.card.files):
        raise UserError(f"{data}: not the data set that {train} was trained on; give the folder that was")
    device, reads = context.device, {"prepare": data, "train": train}
    record = Recorder("probe", settings, out, device, reads=reads)
    weights = Weights.of(training, data, frozen)
    checkpoints = {step: train / "checkpoints" / checkpoint_name(step) for step in training.snapshot_steps}
    with (
        context.counting(f"probe {config.kind} {training.cell}", config.images(training)) as advance,
        products(),
    ):
        subject = Subject(
            training,
            archive,
            checkpoints=checkpoints,
            frozen=weights.frozen_model(device),
            device=device,
            advance=advance,
        )
        rows = list(build(config, subject))
    with replacing(out) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(config.columns)
        writer.writerows(rows)
    used = [train / "config.json", *checkpoints.values(), weights.frozen]
    record.write(
        cell=training.cell.model_dump(),
        kind=config.kind,
        inputs={**archive_digests(archive), **digests(*filter(None, used))},
        outputs=digests(out),
    )
    return f"{config.kind}, {len(rows)} rows"
