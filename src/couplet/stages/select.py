"""Stage `select`: every snapshot scored, the best one named."""

from __future__ import annotations

from pathlib import Path

from couplet import model
from couplet.errors import UserError
from couplet.files import write_json
from couplet.metrics.extractor.base import load_extractor
from couplet.metrics.measure import load_reference
from couplet.plan.layout import checkpoint_name
from couplet.plan.stages import Settings
from couplet.process import Context
from couplet.provenance.record import Recorder, digests
from couplet.selection import Score, best, score


def run(
    context: Context, settings: Settings, *, train: Path, features: Path, reference: Path, out: Path
) -> str:
    """Score all snapshots against the split of ``select.split`` and write the file ``out``, and its record.

    Seeds differ from those of `evaluate`, and so does the test split, so that choosing does not flatter the
    choice.

    Raises:
        UserError: an input is missing, damaged or of other settings.
    """
    training, measurement = settings.training, settings.measurement
    reads = {"train": train, "features": features, "reference": reference}
    record = Recorder("select", settings, out, context.device, reads=reads)
    extractor = load_extractor(features, context.device)
    statistics = _statistics(reference, measurement.select.split)
    target = load_reference(statistics, extractor)
    checkpoints = {step: train / "checkpoints" / checkpoint_name(step) for step in training.snapshot_steps}
    images = len(checkpoints) * measurement.select.samples
    scores = []
    with context.counting(f"{training.cell}: select", images) as advance:
        for step, path in checkpoints.items():
            network, saved = model.load(path, context.device)
            distances = score(
                training,
                measurement,
                network,
                saved.shape,
                extractor=extractor,
                target=target,
                advance=advance,
                ranks=context.ranks,
            )
            scores.append(Score(step, distances))
    chosen = best(scores, measurement.select.nfe)
    content = {
        "rule": f"lowest fd at nfe {measurement.select.nfe}",
        "split": target.described["split"],
        "images": target.moments.count,
        "samples": measurement.select.samples,
        "extractor": extractor.name,
        "selected": {"step": chosen.step, "checkpoint": checkpoint_name(chosen.step)},
        "scores": [
            {"step": each.step, **{f"fd_nfe{nfe}": value for nfe, value in each.fd.items()}}
            for each in scores
        ],
    }
    if context.ranks.first:
        write_json(out, content)
        record.write(
            cell=training.cell.model_dump(),
            inputs=digests(train / "config.json", *checkpoints.values(), features, statistics),
            outputs=digests(out),
        )
    return f"step {chosen.step}, Fréchet distance {chosen.fd[measurement.select.nfe]:.3f}"


def _statistics(reference: Path, split: str) -> Path:
    """The file of a split's statistics.

    Raises:
        UserError: there is none.
    """
    path = reference / f"{split}.safetensors"
    if not path.exists():
        raise UserError(
            f"{path}: cannot be read (no such file): `couplet reference` writes it for a data set with a "
            f"{split} split; for one without, set select.split: train"
        )
    return path
