"""Stage `select`: every snapshot scored, the best one named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from couplet import model, selection
from couplet.config import Measurement, Training
from couplet.config.layout import checkpoint_name
from couplet.errors import UserError
from couplet.files import write_json
from couplet.metrics import frechet_distance, moments
from couplet.metrics.extractor import ClassifierExtractor
from couplet.metrics.reference import load_reference
from couplet.sampling import generate
from couplet.selection import Score
from couplet.stages.features import EXTRACTOR
from couplet.stages.train import trained_with


def check_trained(settings: Training, train: Path) -> None:
    """Raises UserError unless the folder ``train`` was trained with ``settings``."""
    found = trained_with(train)
    if found.key != settings.key:
        raise UserError(
            f"{train / 'config.json'}: trained as {found.cell} with key {found.key}, "
            f"wanted {settings.cell} with key {settings.key}; run `couplet train` again"
        )


def select(
    settings: Training,
    measurement: Measurement,
    train: Path,
    features: Path,
    reference: Path,
    out: Path,
    device: torch.device,
) -> Score:
    """Scores all snapshots against the test split and writes the file ``out``.

    Seeds and split differ from those of `evaluate`, so that choosing does not flatter the choice.

    Raises:
        UserError: an input is missing, damaged or of other settings.
    """
    check_trained(settings, train)
    extractor = ClassifierExtractor(features / EXTRACTOR, device)
    target = load_reference(reference / "test.safetensors", extractor)
    levels = (settings.recipe.sigma_max, *measurement.mid_sigmas)
    wanted = sorted({measurement.select.nfe, *measurement.sample.nfe})
    scores = []
    for step in settings.snapshot_steps:
        network, saved = model.load(train / "checkpoints" / checkpoint_name(step), device)
        batches = list(
            generate(
                network,
                saved.shape,
                seed=settings.cell.seed,
                purpose="select",
                count=measurement.select.samples,
                batch=measurement.sample.batch,
                levels=levels,
                nfe=wanted,
                boundary=measurement.boundary,
                conditional=settings.recipe.conditional,
            )
        )
        found = {nfe: moments(extractor(np.concatenate([batch[nfe] for batch in batches]))) for nfe in wanted}
        scores.append(Score(step, {nfe: frechet_distance(found[nfe], target.moments) for nfe in wanted}))
    chosen = selection.best(scores, measurement.select.nfe)
    content = {
        "rule": f"lowest fd at nfe {measurement.select.nfe}",
        "split": target.split,
        "samples": measurement.select.samples,
        "extractor": extractor.name,
        "selected": {"step": chosen.step, "checkpoint": checkpoint_name(chosen.step)},
        "scores": [
            {"step": score.step, **{f"fd_nfe{nfe}": score.fd[nfe] for nfe in wanted}} for score in scores
        ],
    }
    write_json(out, content)
    return chosen
