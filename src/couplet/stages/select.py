"""Stage `select`: every snapshot scored, the best one named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from couplet import model, selection
from couplet.config import Measurement, Training
from couplet.config.layout import checkpoint_name, record_of
from couplet.errors import UserError
from couplet.files import write_json
from couplet.metrics.distances import frechet_distance
from couplet.metrics.moments import MomentsAccumulator
from couplet.metrics.reference import load_reference
from couplet.ranks import ALONE, Ranks
from couplet.sampling import Images
from couplet.selection import Score
from couplet.stages.features import extractor_of
from couplet.stages.record import Recorder, digests, keys
from couplet.stages.sample import batches
from couplet.stages.train import check_trained


def images_to_select(settings: Training, measurement: Measurement) -> int:
    """How many images :func:`select` makes in all."""
    return len(settings.snapshot_steps) * measurement.select.samples


def select(
    settings: Training,
    measurement: Measurement,
    train: Path,
    features: Path,
    reference: Path,
    out: Path,
    device: torch.device,
    advance: Callable[[int], None],
    ranks: Ranks = ALONE,
) -> Score:
    """Scores all snapshots against the split of ``select.split`` and writes the file ``out``, and its record.

    Seeds differ from those of `evaluate`, and so does the test split, so that choosing does not flatter the
    choice.
    ``advance`` is called with the size of each batch of images; ``ranks`` share the work.

    Raises:
        UserError: an input is missing, damaged or of other settings.
    """
    check_trained(settings, train)
    extractor = extractor_of(features, measurement.features, device)
    statistics = _statistics(reference, measurement.select.split)
    target = load_reference(statistics, extractor)
    record = Recorder("select", record_of(out), device)
    wanted = sorted({measurement.select.nfe, *measurement.sample.nfe})
    scores = []

    def features_of(images: Images) -> dict[int, NDArray[np.float32]]:
        return {nfe: extractor(made).values for nfe, made in images.items()}

    for step in settings.snapshot_steps:
        network, saved = model.load(train / "checkpoints" / checkpoint_name(step), device)
        sums = {nfe: MomentsAccumulator() for nfe in wanted}
        for batch in batches(
            settings,
            measurement,
            network,
            saved.shape,
            purpose="select",
            count=measurement.select.samples,
            nfe=wanted,
            ranks=ranks,
            then=features_of,
        ):
            for nfe, values in batch.items():
                sums[nfe].add(values)
            advance(len(values))
        found = {nfe: frechet_distance(sums[nfe].result(), target.moments) for nfe in wanted}
        scores.append(Score(step, found))
    chosen = selection.best(scores, measurement.select.nfe)
    content = {
        "rule": f"lowest fd at nfe {measurement.select.nfe}",
        "split": target.split,
        "images": target.moments.count,
        "samples": measurement.select.samples,
        "extractor": extractor.name,
        "selected": {"step": chosen.step, "checkpoint": checkpoint_name(chosen.step)},
        "scores": [
            {"step": score.step, **{f"fd_nfe{nfe}": score.fd[nfe] for nfe in wanted}} for score in scores
        ],
    }
    if ranks.first:
        write_json(out, content)
        checkpoints = [train / "checkpoints" / checkpoint_name(step) for step in settings.snapshot_steps]
        record.write(
            **keys(settings, measurement),
            inputs=digests(train / "config.json", *checkpoints, features, statistics),
            outputs=digests(out),
        )
    return chosen


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
