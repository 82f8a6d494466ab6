"""Stage `probe`: what a finished training is like besides its samples, as a CSV file.

Everything is measured at the weights of EMA snapshots, the only ones that a training keeps: gradients too,
though the training itself took them at the raw weights. Only gradients have dropout, as in a step.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from couplet import model
from couplet.config import Training
from couplet.config.base import choices
from couplet.config.cells import digest
from couplet.config.datasets import is_plane
from couplet.config.layout import TRAINING_RECORD, checkpoint_name, record_of
from couplet.config.stages import PROBES, ProbeConfig
from couplet.data.archive import Archive
from couplet.data.loader import Loader, to_float
from couplet.errors import UserError
from couplet.files import replacing
from couplet.model import ConsistencyModel
from couplet.probes import Coupled, Estimate, Segment, gradient_variance, plane, regulariser, transport_cost
from couplet.probes.gradient import Batch
from couplet.stages.provenance import read_record
from couplet.stages.record import Recorder, archive_digests, digests
from couplet.stages.train import Weights, check_trained
from couplet.tensors import generator, seed_of
from couplet.training import Objective, build_objective, draws_of

COLUMNS = {
    "gradient": ("step", "variance", "mean_norm2", "ratio"),
    "transport": Estimate._fields,
    "regulariser": Estimate._fields,
    "plane": Segment._fields,
}
"""Columns of each kind's file."""

SEGMENTS = 300
"""Samples and pairs of `plane`: as many as a picture can show."""


def steps_to_probe(kind: str, settings: Training) -> tuple[int, ...]:
    """The snapshots that :func:`probe` reads: all for gradients, else the last."""
    return settings.snapshot_steps if kind == "gradient" else settings.snapshot_steps[-1:]


def images_to_probe(kind: str, settings: Training, config: ProbeConfig) -> int:
    """How many images :func:`probe` looks at in all, each level or snapshot counted once."""
    if kind == "gradient":
        return len(settings.snapshot_steps) * config.batches * settings.recipe.batch
    return config.images


def probe(
    kind: str,
    settings: Training,
    config: ProbeConfig,
    train: Path,
    data: Path,
    out: Path,
    device: torch.device,
    advance: Callable[[int], None],
    lent: Path | None = None,
) -> Sequence[Sequence[Any]]:
    """Measures a training and writes the CSV file ``out``, and its record; returns the rows.

    ``gradient``: :func:`gradient_variance` for each snapshot, with the curriculum of the step that led to it;
    the minibatches are the same for all. ``transport``: :func:`transport_cost` for each level, of the last
    snapshot; of the generator-induced coupling all pairs are generator-induced, whatever its mu but 0.
    ``regulariser``: :func:`regulariser` for each level, of the last snapshot, which must be a denoiser; pairs
    are distributed as in its training, as its velocity is theirs: GC's figure has mu = 1. ``plane``:
    :func:`plane`, of the last snapshot of points.

    Args:
        kind: one of ``PROBES``.
        settings: what was trained.
        config: how to probe it.
        train: folder of `couplet train`.
        data: folder of the prepared archive that it was trained on.
        out: the file to write.
        device: where to compute.
        advance: called with the size of each batch of images.
        lent: the checkpoint for a coupling with a `pretrained` predictor.

    Raises:
        UserError: an input is missing, damaged or of other settings, or is nothing that has such a number.
    """
    if kind not in PROBES:
        raise UserError(f"probe {kind}: {choices(kind, PROBES)}")
    schedule = settings.recipe.schedule
    if kind == "regulariser" and not schedule.makes_denoiser:
        raise UserError(
            f"recipes.{settings.cell.recipe}.schedule.kind = {schedule.kind}: probe regulariser needs a "
            "denoiser's training; allowed: denoising"
        )
    check_trained(settings, train)
    archive = Archive(data)
    if kind == "plane" and not is_plane(archive.card.shape):
        shape = "×".join(map(str, archive.card.shape))
        raise UserError(f"{data}: images of {shape}; probe plane needs points of the plane: 1×1×2")
    if read_record(train / TRAINING_RECORD).content.get("data") != dict(archive.card.files):
        raise UserError(f"{data}: not the data set that {train} was trained on; give the folder that was")
    record = Recorder("probe", record_of(out), device)
    weights = Weights.of(settings, lent)
    frozen = None if weights.frozen is None else model.load(weights.frozen, device)[0]
    rows: list[Sequence[Any]] = []
    checkpoints = [train / "checkpoints" / checkpoint_name(step) for step in steps_to_probe(kind, settings)]
    for path in checkpoints:
        average, saved = model.load(path, device)
        average.requires_grad_(False)
        objective = build_objective(settings.recipe, average.kernel, math.prod(archive.card.shape))
        step = saved.step - 1
        if kind == "gradient":
            online = deepcopy(average).requires_grad_(True).train()
            online.normalize_weights_()
            found = gradient_variance(
                online,
                average,
                frozen,
                _minibatches(settings, config, archive, average, objective, step, advance),
                objective=objective,
                step=step,
                microbatch=settings.train.microbatch,
            )
            rows.append((saved.step, *found, found.ratio))
        elif kind == "plane":
            rows += _plane(settings, archive, average, frozen, objective, step)
        else:
            measure = transport_cost if kind == "transport" else regulariser
            pairs = _pairs(settings, config, archive, average, advance, chosen=kind == "transport")
            rows += measure(average, frozen, pairs, config.levels, objective=objective, step=step)
    with replacing(out) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS[kind])
        writer.writerows(rows)
    used = [] if weights.frozen is None else [weights.frozen]
    record.write(
        key=digest(config),
        run=f"{settings.cell}-{settings.key}",
        cell=settings.cell.model_dump(),
        kind=kind,
        settings=config.model_dump(mode="json"),
        inputs={**archive_digests(archive), **digests(train / "config.json", *checkpoints, *used)},
        outputs=digests(out),
    )
    return rows


def _plane(
    settings: Training,
    archive: Archive,
    network: ConsistencyModel,
    frozen: ConsistencyModel | None,
    objective: Objective,
    step: int,
) -> Iterator[Segment]:
    """Segments of the first points of the data set, the whole training's batches apart."""
    device, seed = next(network.parameters()).device, settings.cell.seed
    chosen = np.sort(np.random.default_rng(0).choice(len(archive.train), SEGMENTS, replace=False))
    points = to_float(archive.train.images[chosen], device)
    drawn = [
        torch.randn(points.shape, generator=generator(device, seed, "plane", part), device=device)
        for part in ("pairs", "samples")
    ]
    batch = Coupled(points, None, network.coupling.arrange(points, drawn[0]), points.new_zeros(len(points)))
    classes = torch.from_numpy(archive.train.labels[chosen]).to(device)
    return plane(network, frozen, batch, classes, drawn[1], objective=objective, step=step)


def _arranged(
    settings: Training, archive: Archive, network: ConsistencyModel, count: int
) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
    """``count`` batches of the training's size: images, labels, and noise as the coupling arranges it.

    Neither order nor noise are the training's; both are the same for all snapshots and couplings.
    """
    recipe, seed = settings.recipe, settings.cell.seed
    device = next(network.parameters()).device
    loader = Loader(
        archive.train,
        batch=recipe.batch,
        seed=seed_of(seed, "probe"),
        flip=recipe.flip,
        num_classes=len(archive.card.classes) if recipe.conditional else 0,
    )
    for number, (images, labels) in enumerate(loader.batches(0, count, device)):
        stream = generator(device, seed, "noise", "probe", number)
        noise = torch.randn(images.shape, generator=stream, device=device)
        yield images, labels, network.coupling.arrange(images, noise)


def _minibatches(
    settings: Training,
    config: ProbeConfig,
    archive: Archive,
    network: ConsistencyModel,
    objective: Objective,
    step: int,
    advance: Callable[[int], None],
) -> Iterator[Batch]:
    """Batches as the training's step k would be given them."""
    arranged = _arranged(settings, archive, network, config.batches)
    for number, (images, labels, noise) in enumerate(arranged):
        yield images, labels, draws_of(settings, objective, step, noise, "probe", number)
        advance(len(images))


def _pairs(
    settings: Training,
    config: ProbeConfig,
    archive: Archive,
    network: ConsistencyModel,
    advance: Callable[[int], None],
    *,
    chosen: bool,
) -> Iterator[Coupled]:
    """``config.images`` images with their noise, a microbatch at a time.

    ``chosen``: a coupling that chooses at random is to choose every pair.
    """
    batch, left = settings.recipe.batch, config.images
    size = settings.train.microbatch or batch
    for number, (images, labels, noise) in enumerate(
        _arranged(settings, archive, network, math.ceil(left / batch))
    ):
        stream = generator(images.device, settings.cell.seed, "coupling", "probe", number)
        uniform = torch.rand(batch, generator=stream, device=images.device)
        # The last batch is arranged whole and used in part.
        for begin in range(0, min(batch, left), size):
            rows = slice(begin, min(begin + size, left))
            some = images[rows]
            yield Coupled(
                some,
                None if labels is None else labels[rows],
                noise[rows],
                torch.zeros_like(uniform[rows]) if chosen else uniform[rows],
            )
            advance(len(some))
        left -= batch
