"""Stage `evaluate`: the metrics of one cell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from couplet.config.metrics import column
from couplet.data.archive import read_array
from couplet.errors import UserError
from couplet.files import write_json
from couplet.metrics.extractor.base import load_extractor
from couplet.metrics.measure import evaluate, load_reference, over_sets
from couplet.plan.layout import statistics_name
from couplet.plan.stages import Settings
from couplet.process import Context
from couplet.provenance.record import Recorder, digests
from couplet.stages.sample import samples_name, selected
from couplet.tensors import seed_of


def run(
    context: Context,
    settings: Settings,
    *,
    train: Path,
    features: Path,
    reference: Path,
    selection: Path,
    samples: Path,
    out: Path,
) -> str:
    """Compare samples with the training split; write the file ``out``, and flat metrics for DVC beside it.

    ``out`` holds the numbers as a table (metric, extractor, nfe, seed, value) with their origin. The file
    beside it that ends in .metrics.json holds the numbers alone, by column.
    """
    cell, ranks = settings.training.cell, context.ranks
    measurement, config = settings.measurement, settings.extractor
    measured = {"train": train, "select": selection, "sample": samples}
    reads = {**measured, "features": features, "reference": reference}
    record = Recorder("evaluate", settings, out, context.device, reads=reads)
    extractor = load_extractor(features, context.device)
    size, repeats = measurement.sample.samples, measurement.sample.repeats
    paths = {nfe: samples / samples_name(nfe) for nfe in measurement.sample.nfe}
    images = {nfe: _samples(path, size * repeats) for nfe, path in paths.items()}
    target = load_reference(reference / statistics_name("train"), extractor)
    statistics = [
        reference / statistics_name("train", i) for i in range(min(repeats, target.described.get("sets", 1)))
    ]
    sets = []
    with context.counting(f"evaluate {cell}", len(paths) * size * repeats) as advance:
        for i in range(repeats):
            rows = evaluate(
                extractor,
                {nfe: array[i * size : (i + 1) * size] for nfe, array in images.items()},
                load_reference(statistics[i % len(statistics)], extractor) if i else target,
                measurement.evaluate,
                seed=seed_of(cell.seed, "repeat", i) if i else cell.seed,
                advance=advance,
                ranks=ranks,
            )
            sets.append(rows)
    rows = over_sets(sets)
    used = digests(*paths.values())
    content = {
        "key": record.key,
        "extractor": extractor.name,
        "extractor_sha256": extractor.digest,
        "extractor_config": config.model_dump(mode="json"),
        "reference": target.described,
        "samples": {
            "count": size,
            **({"repeats": repeats} if repeats > 1 else {}),
            "sha256": {path.name: used[path] for path in used},
        },
        "settings": measurement.evaluate.model_dump(mode="json"),
        "selected": selected(selection),
        "numbers": [{**row, "extractor": config.label, "seed": cell.seed} for row in rows],
    }
    metrics = {column(row["metric"], config, row["nfe"]): row["value"] for row in rows}
    for row in rows if repeats > 1 else ():
        metrics[column(row["metric"], config, row["nfe"], "_resampling_std")] = row["resampling_std"]
    if ranks.first:
        flat = out.with_suffix(".metrics.json")
        write_json(out, content)
        write_json(flat, metrics)
        record.write(
            cell=cell.model_dump(),
            inputs={**used, **digests(train / "config.json", selection, features, *statistics)},
            outputs=digests(out, flat),
        )
    return ", ".join(f"{name} {value:z.4g}" for name, value in metrics.items())


def _samples(path: Path, count: int) -> NDArray[np.uint8]:
    """The ``count`` images in a file of `couplet sample`."""
    images = read_array(path)
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) != count:
        raise UserError(
            f"{path}: holds {images.dtype}{list(images.shape)}, wanted are {count} images, "
            f"uint8[{count}, height, width, channels]; run `couplet sample` again"
        )
    return images
