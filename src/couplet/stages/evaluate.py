"""Stage `evaluate`: the numbers of one cell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from couplet.config import Measurement, Training
from couplet.config.layout import record_of
from couplet.config.metrics import column
from couplet.data import read_array
from couplet.errors import UserError
from couplet.files import write_json
from couplet.metrics import evaluation
from couplet.metrics.reference import load_reference
from couplet.ranks import ALONE, Ranks
from couplet.stages.features import extractor_of
from couplet.stages.record import Recorder, digests, keys
from couplet.stages.sample import samples_name, selected
from couplet.stages.train import check_trained


def images_to_evaluate(measurement: Measurement) -> int:
    """How many images :func:`evaluate` passes through the extractor."""
    return len(measurement.sample.nfe) * measurement.sample.samples


def evaluate(
    settings: Training,
    measurement: Measurement,
    train: Path,
    selection: Path,
    samples: Path,
    features: Path,
    reference: Path,
    out: Path,
    device: torch.device,
    advance: Callable[[int], None] = lambda images: None,
    ranks: Ranks = ALONE,
) -> dict[str, float]:
    """Compare samples with the training split and write two files and their record to the folder ``out``.

    metrics.json holds the numbers alone, by column; evaluation.json holds them as tidy rows with their
    provenance. ``advance`` is called with the size of each batch of images; ``ranks`` share the work.

    Raises:
        UserError: an input is missing, damaged or of other settings.
    """
    check_trained(settings, train)
    chosen = selected(selection)
    config = measurement.features
    extractor = extractor_of(features, config, device)
    target = load_reference(reference / "train.safetensors", extractor)
    record = Recorder("evaluate", record_of(out / "evaluation.json"), device)
    paths = {nfe: samples / samples_name(nfe) for nfe in measurement.sample.nfe}
    images = {nfe: _samples(path, measurement.sample.samples) for nfe, path in paths.items()}
    seed = settings.cell.seed
    numbers = [
        {**row, "extractor": config.label, "seed": seed}
        for row in evaluation.evaluate(
            extractor, images, target, measurement.evaluate, seed=seed, advance=advance, ranks=ranks
        )
    ]
    metrics = {column(row["metric"], config, row["nfe"]): row["value"] for row in numbers}
    used = digests(*paths.values())
    content = {
        "run": f"{settings.cell}-{settings.key}",
        "training_key": settings.key,
        "measurement_key": measurement.key,
        "extractor": extractor.name,
        "extractor_sha256": extractor.digest,
        "extractor_config": config.model_dump(mode="json"),
        "reference": target.described,
        "samples": {"count": measurement.sample.samples, "sha256": {path.name: used[path] for path in used}},
        "settings": measurement.evaluate.model_dump(mode="json"),
        "selected": chosen,
        "numbers": numbers,
    }
    if ranks.first:
        write_json(out / "metrics.json", metrics)
        write_json(out / "evaluation.json", content)
        record.write(
            **keys(settings, measurement),
            inputs={**used, **digests(selection, features, reference / "train.safetensors")},
            outputs=digests(out / "metrics.json", out / "evaluation.json"),
        )
    return metrics


def _samples(path: Path, count: int) -> NDArray[np.uint8]:
    """The images that `couplet sample` wrote to ``path``.

    Raises:
        UserError: the file is missing or damaged, or holds something else or another number of images.
    """
    images = read_array(path)
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) != count:
        raise UserError(
            f"{path}: holds {images.dtype}{list(images.shape)}, wanted are {count} images, "
            f"uint8[{count}, height, width, channels]; run `couplet sample` again"
        )
    return images
