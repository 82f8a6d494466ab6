"""Stage `sample`: images from the selected snapshot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from couplet import model
from couplet.config import Measurement, Training
from couplet.config.layout import record_of
from couplet.errors import UserError
from couplet.files import read_json, replacing
from couplet.model import ConsistencyModel, ImageShape
from couplet.ranks import ALONE, Ranks
from couplet.sampling import Images, generate
from couplet.stages.record import Recorder, digests, keys
from couplet.stages.train import check_trained


def samples_name(nfe: int) -> str:
    """File name of the samples made with ``nfe`` evaluations."""
    return f"nfe{nfe}.npy"


def selected(selection: Path) -> dict[str, Any]:
    """Step and checkpoint that `couplet select` named in the file ``selection``.

    Raises:
        UserError: the file is missing or holds something else.
    """
    content = read_json(selection)
    try:
        return {key: content["selected"][key] for key in ("step", "checkpoint")}
    except (KeyError, TypeError):
        raise UserError(f"{selection}: not a file of `couplet select`; run it again") from None


def batches(
    settings: Training,
    measurement: Measurement,
    network: ConsistencyModel,
    shape: ImageShape,
    *,
    purpose: Literal["select", "sample"],
    count: int,
    nfe: Sequence[int],
    ranks: Ranks,
    then: Callable[[Images], Any] = lambda images: images,
) -> Iterator[Any]:
    """Samples of a trained ``network`` as the settings have them, see :func:`generate`."""
    return generate(
        network,
        shape,
        seed=settings.cell.seed,
        purpose=purpose,
        count=count,
        batch=measurement.sample.batch,
        levels=(settings.recipe.sigma_max, *measurement.mid_sigmas),
        nfe=nfe,
        boundary=measurement.boundary,
        conditional=settings.recipe.conditional,
        quantise=measurement.sample.quantise,
        ranks=ranks,
        then=then,
    )


def sample(
    settings: Training,
    measurement: Measurement,
    train: Path,
    selection: Path,
    out: Path,
    device: torch.device,
    advance: Callable[[int], None],
    ranks: Ranks = ALONE,
) -> None:
    """Writes uint8 [n, h, w, c] arrays, one per NFE, to the folder ``out``, batch by batch.

    The record lies beside it. ``advance`` is called with the size of each batch; ``ranks`` share the work and
    the first one writes.

    Raises:
        UserError: an input is missing, damaged or of other settings.
    """
    check_trained(settings, train)
    checkpoint = train / "checkpoints" / selected(selection)["checkpoint"]
    network, saved = model.load(checkpoint, device)
    record = Recorder("sample", record_of(out), device)
    count, wanted = measurement.sample.samples, measurement.sample.nfe
    resolution = saved.shape.resolution
    with ExitStack() as stack:
        arrays = {}
        for nfe in wanted if ranks.first else ():
            path = stack.enter_context(replacing(out / samples_name(nfe)))
            arrays[nfe] = np.lib.format.open_memmap(
                path,
                mode="w+",
                dtype=np.uint8,
                shape=(count, resolution, resolution, saved.shape.channels),
            )
        start = 0
        for batch in batches(
            settings,
            measurement,
            network,
            saved.shape,
            purpose="sample",
            count=count,
            nfe=wanted,
            ranks=ranks,
        ):
            made = len(batch[wanted[0]])
            for nfe, array in arrays.items():
                array[start : start + made] = batch[nfe]
            start += made
            advance(made)
        for array in arrays.values():
            array.flush()
    if ranks.first:
        record.write(
            **keys(settings, measurement),
            inputs=digests(train / "config.json", checkpoint, selection),
            outputs=digests(*(out / samples_name(nfe) for nfe in wanted)),
        )
