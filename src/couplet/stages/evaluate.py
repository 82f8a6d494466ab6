"""Stage `evaluate`: the numbers of one cell."""

from __future__ import annotations

from pathlib import Path

import torch

from couplet.config import Measurement, Training
from couplet.data import read_array
from couplet.files import read_json, sha256, write_json
from couplet.metrics import frechet_distance, kernel_distance, moments
from couplet.metrics.extractor import ClassifierExtractor
from couplet.metrics.reference import load_reference
from couplet.stages.features import EXTRACTOR
from couplet.stages.sample import samples_name
from couplet.stages.train import check_trained
from couplet.tensors import seed_of


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
) -> dict[str, float]:
    """Compares samples with the training split and writes two files to the folder ``out``.

    metrics.json holds the numbers alone, evaluation.json what they were made from.

    Raises:
        UserError: an input is missing, damaged or of other settings.
    """
    check_trained(settings, train)
    extractor = ClassifierExtractor(features / EXTRACTOR, device)
    target = load_reference(reference / "train.safetensors", extractor)
    metrics, digests = {}, {}
    for nfe in measurement.sample.nfe:
        path = samples / samples_name(nfe)
        found = extractor(read_array(path))
        metrics[f"fd_nfe{nfe}"] = frechet_distance(moments(found), target.moments)
        metrics[f"kid_nfe{nfe}"] = kernel_distance(
            found,
            target.features,
            subsets=measurement.evaluate.kid_subsets,
            subset_size=measurement.evaluate.kid_subset_size,
            seed=seed_of(settings.cell.seed, "kid", nfe) % 2**32,
        )
        digests[path.name] = sha256(path)
    write_json(out / "metrics.json", metrics)
    about = {
        "run": f"{settings.cell}-{settings.key}",
        "training_key": settings.key,
        "measurement_key": measurement.key,
        "extractor": extractor.name,
        "extractor_sha256": extractor.digest,
        "reference": {"split": target.split, "images": target.moments.count},
        "samples": {"count": measurement.sample.samples, "sha256": digests},
        "selected": read_json(selection)["selected"],
        "metrics": metrics,
    }
    write_json(out / "evaluation.json", about)
    return metrics
