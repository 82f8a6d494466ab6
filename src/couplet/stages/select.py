"""Stage `select`: the scores of all snapshots, and the best one."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from couplet import model
from couplet.config.datasets import panel_size
from couplet.config.metrics import described
from couplet.errors import UserError
from couplet.files import replacing, write_json
from couplet.metrics.extractor.base import load_extractor
from couplet.metrics.measure import label_counts, load_reference
from couplet.plan.layout import checkpoint_name, shown_by, statistics_name
from couplet.plan.stages import Settings
from couplet.process import Context
from couplet.provenance.record import Recorder, digests
from couplet.sampling import Drawn, first_images
from couplet.selection import best, score


def run(
    context: Context, settings: Settings, *, train: Path, features: Path, reference: Path, out: Path
) -> str:
    """Score all snapshots against the split of ``select.split`` and write the file ``out``.

    The file beside it that ends in .samples.npy holds images of each, uint8 [snapshots, n, h, w, c].

    The seeds differ from those of `evaluate`, and by default the split does too, so that the numbers of the
    selected snapshot are not biased by the selection.
    """
    training, measurement = settings.training, settings.measurement
    reads = {"train": train, "features": features, "reference": reference}
    record = Recorder("select", settings, out, context.device, reads=reads)
    extractor = load_extractor(features, context.device)
    split = measurement.select.split
    statistics = reference / statistics_name(split)
    if not statistics.exists():
        raise UserError(
            f"{statistics}: cannot be read (no such file): `couplet reference` writes it for a data set with "
            f"a {split} split; for one without, set select.split: train"
        )
    target = load_reference(statistics, extractor)
    read = {statistics}
    drawn: dict[str, Any] = {}
    if training.recipe.conditional and measurement.sample.labels == "data":
        read.add(of_training := reference / statistics_name("train"))
        drawn["label_counts"] = label_counts(of_training)
    checkpoints = {step: train / "checkpoints" / checkpoint_name(step) for step in training.snapshot_steps}
    images = len(checkpoints) * measurement.select.samples
    scores, shown = {}, []
    with context.counting(f"select {training.cell}", images) as advance:
        fd = partial(score, extractor=extractor, target=target, advance=advance, ranks=context.ranks)
        fd = partial(fd, labels=Drawn(drawn["label_counts"])) if drawn else fd
        for step, path in checkpoints.items():
            network, saved = model.load(path, context.device)
            scores[step] = fd(training, measurement, network, saved.shape)
            if context.ranks.first:
                side = saved.shape.resolution
                count = panel_size((side, side, saved.shape.channels))
                shown.append(first_images(network, saved, count))
    nfe = measurement.select.nfe
    chosen = best(scores, nfe)
    content = {
        "rule": f"lowest fd at nfe {nfe}",
        "split": target.described["split"],
        "images": target.moments.count,
        "samples": measurement.select.samples,
        **drawn,
        "extractor": extractor.name,
        "selected": {"step": chosen, "checkpoint": checkpoint_name(chosen)},
        "scores": [
            {"step": step, **{f"fd_nfe{nfe}": value for nfe, value in by_nfe.items()}}
            for step, by_nfe in scores.items()
        ],
    }
    if context.ranks.first:
        write_json(out, content)
        with replacing(shown_by(out)) as temporary, temporary.open("wb") as file:
            np.save(file, shown)
        record.write(
            cell=training.cell.model_dump(),
            inputs=digests(train / "config.json", *checkpoints.values(), features, *read),
            outputs=digests(out, shown_by(out)),
        )
    return f"step {chosen}, Fréchet distance {described('fd').text(scores[chosen][nfe])}"
