"""Many samples, batch by batch, each with its own seed."""

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
"""Images of a batch by NFE, [b, h, w, c]."""


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
    """Generate batches of samples for all NFE in one pass, uint8 [b, h, w, c].

    Args:
        model: in evaluation mode.
        shape: shape of the images.
        seed: determines a sample's noise, together with ``purpose`` and the sample's index.
        purpose: ``select`` and ``sample`` never share noise.
        count: total number of samples.
        batch: samples per network call; changes no sample. Ignored for a coupling whose samples share noise,
            which determines it.
        levels: sigma_max and the levels of later evaluations, at least max(nfe) of them.
        nfe: the numbers of evaluations wanted.
        boundary: the recipe's ``boundary.sampling``.
        conditional: give classes to the model: sample i has class i mod k.
        quantise: rounding to 8 bits, see :func:`to_uint8`.
        ranks: the processes that share the work, batch by batch; each yields all batches, in order.
        then: function of a batch, called in the process that generated it; its result is yielded instead.
    """
    device = next(model.parameters()).device
    size = (shape.channels, shape.resolution, shape.resolution)
    levels = levels[: max(nfe)]
    batch = model.coupling.joint_samples or batch

    def made(start: int) -> Images:
        chosen = range(start, min(start + batch, count))
        noises = [
            sample_noise(seed, purpose, chosen, evaluation=i, shape=size).to(device)
            for i in range(len(levels))
        ]
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
    """Generate samples of a trained ``network`` with a cell's settings; see :func:`generate`."""
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
