"""Many samples, batch by batch, from seeds that name each one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from couplet.config.cells import Measurement, Training
from couplet.model import ConsistencyModel, ImageShape
from couplet.ranks import ALONE, Ranks
from couplet.sampling.multistep import multistep, sample_noise, to_uint8

Images = Mapping[int, NDArray[np.uint8]]
"""A batch by its NFE, [b, h, w, c]."""


def generate(
    model: ConsistencyModel,
    shape: ImageShape,
    *,
    seed: int,
    purpose: str,
    count: int,
    batch: int,
    levels: Sequence[float],
    nfe: Sequence[int],
    boundary: bool,
    conditional: bool,
    quantise: Literal["round", "truncate"] = "round",
    ranks: Ranks = ALONE,
    then: Callable[[Images], Any] = lambda images: images,
) -> Iterator[Any]:
    """Batches of samples for each NFE, uint8 [b, h, w, c]; one pass yields them all.

    Args:
        model: in evaluation mode.
        shape: of the images.
        seed: with ``purpose`` and a sample's index it decides the sample's noise.
        purpose: ``select`` and ``sample`` never share noise.
        count: samples in all.
        batch: samples per network call; changes no sample. A coupling whose samples share their noise
            sets it instead.
        levels: sigma_max and the levels of later evaluations, at least max(nfe) of them.
        nfe: the numbers of evaluations wanted.
        boundary: the recipe's ``boundary.sampling``.
        conditional: give classes to the model: sample i is of class i mod k.
        quantise: how images become 8-bit, see :func:`to_uint8`.
        ranks: the processes that share the work, batch by batch; each yields all batches, in order.
        then: what the process that made a batch does with it; its answer is yielded in the batch's place.
    """
    device = next(model.parameters()).device
    size = (shape.channels, shape.resolution, shape.resolution)
    levels = levels[: max(nfe)]
    batch = model.coupling.joint_samples or batch

    def made(start: int) -> Images:
        chosen = range(start, min(start + batch, count))
        noises = [sample_noise(seed, purpose, chosen, i, size).to(device) for i in range(len(levels))]
        labels = None
        if conditional:
            classes = torch.tensor(chosen, device=device) % shape.num_classes
            labels = F.one_hot(classes, shape.num_classes).float()
        images = multistep(model, noises, levels, labels, boundary=boundary)
        return {
            i: np.ascontiguousarray(to_uint8(image, quantise).permute(0, 2, 3, 1).cpu().numpy())
            for i, image in enumerate(images, start=1)
            if i in nfe
        }

    own = range(0, count, batch)[ranks.rank :: ranks.size]
    yield from ranks.in_turn(then(made(start)) for start in own)


def samples_of(
    training: Training,
    measurement: Measurement,
    network: ConsistencyModel,
    shape: ImageShape,
    *,
    purpose: Literal["select", "sample"],
    count: int,
    nfe: Sequence[int],
    ranks: Ranks = ALONE,
    then: Callable[[Images], Any] = lambda images: images,
) -> Iterator[Any]:
    """Samples of a trained ``network`` with a cell's settings; see :func:`generate`."""
    return generate(
        network,
        shape,
        seed=training.cell.seed,
        purpose=purpose,
        count=count,
        batch=measurement.sample.batch,
        levels=(training.recipe.sigma_max, *measurement.mid_sigmas),
        nfe=nfe,
        boundary=measurement.boundary,
        conditional=training.recipe.conditional,
        quantise=measurement.sample.quantise,
        ranks=ranks,
        then=then,
    )
