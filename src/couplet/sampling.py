"""Images from a trained model, batch by batch, one seed per sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from couplet.config.cells import Measurement, Training
from couplet.config.designs import SamplerConfig
from couplet.data.archive import prefetched
from couplet.model import ConsistencyModel, ImageShape, Saved
from couplet.ranks import ALONE, Ranks
from couplet.tensors import CPU, generator, products

Images = Mapping[int, NDArray[np.uint8]]
"""Images of a batch by NFE, [b, h, w, c]."""


@torch.no_grad()
def multistep(
    model: ConsistencyModel,
    noises: Sequence[Tensor],
    levels: Sequence[float],
    labels: Tensor | None,
    *,
    boundary: bool,
    clip: bool = False,
    renoise: Literal["full", "reduced"] = "full",
) -> Iterator[Tensor]:
    """Generate images, yielding them after each network evaluation (CM, Algorithm 1; VCT).

    The first evaluation starts from ``levels[0] noises[0]``, never from the encoder. Each later one
    couples the current image with fresh noise, adds it at the next level and denoises again. Images are
    float64 between evaluations, which are float32.

    Args:
        model: in evaluation mode.
        noises: standard normal, one [b, c, h, w] per evaluation.
        levels: sigma_max and the recipe's mid_sigmas, decreasing, one per evaluation.
        labels: one-hot classes [b, k], or None.
        boundary, clip, renoise: as in :class:`SamplerConfig`.
    """
    images = torch.zeros_like(noises[0], dtype=torch.float64)
    for i, (noise, level) in enumerate(zip(noises, levels, strict=True)):
        t = torch.tensor([level], dtype=torch.float64, device=noise.device)
        z = noise.double()
        if i == 0:
            noisy = level * z
        else:
            z = model.coupling.renoise(images, z, labels)
            if renoise == "reduced":
                z = z * (1 - (model.kernel.sigma_min / level) ** 2) ** 0.5
            noisy = model.kernel.noise(images, z, t)
        images = model(noisy, t, labels, boundary=boundary).double()
        if clip:
            images = images.clamp(-1, 1)
        yield images


def sample_noise(
    seed: int, purpose: str, indices: range, *, evaluation: int, shape: tuple[int, int, int]
) -> Tensor:
    """Standard normal noise of the samples ``indices`` before an evaluation, float32 [n, c, h, w].

    Each sample has its own generator, so batching does not change its noise.
    """
    streams = (generator(CPU, seed, purpose, i, evaluation) for i in indices)
    return torch.stack([torch.randn(shape, generator=stream) for stream in streams])


def to_uint8(images: Tensor, quantise: Literal["round", "truncate"] = "round") -> Tensor:
    """Clamp images to [-1, 1] and quantise them to 256 values; uint8, same shape.

    round (EDM, ECT): ``floor(127.5 x + 128)``, the nearest value. truncate (VCT with torchmetrics):
    ``floor(127.5 x + 127.5)``. GC stretches each batch to its own range, which is not offered.
    """
    offset = 128.0 if quantise == "round" else 127.5
    return (images * 127.5 + offset).clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Drawn:
    """Classes drawn as often as each is in a data set."""

    counts: Sequence[int]
    """Images of each class."""


Labels = Literal["balanced", "uniform"] | tuple[int, ...]
"""How classes are dealt to samples: in turn, drawn for each, or these ones in turn."""


def class_indices(labels: Labels | Drawn, classes: int, indices: range, *, seed: int, purpose: str) -> Tensor:
    """Classes of the samples ``indices``, int64 [n]: that of a sample depends on no other sample."""
    if labels == "uniform":
        labels = Drawn((1,) * classes)
    if isinstance(labels, Drawn):
        bounds = torch.tensor(labels.counts).cumsum(0)
        streams = (generator(CPU, seed, purpose, i, "class") for i in indices)
        places = [torch.randint(int(bounds[-1]), (1,), generator=stream) for stream in streams]
        return torch.searchsorted(bounds, torch.cat(places), right=True)
    listed = tuple(range(classes)) if labels == "balanced" else labels
    return torch.tensor([listed[i % len(listed)] for i in indices])


def one_hot(indices: Tensor, classes: int, device: torch.device) -> Tensor:
    """Classes as the networks are given them, float32 [n, k]."""
    return F.one_hot(indices.to(device), classes).float()


def generate(
    model: ConsistencyModel,
    shape: ImageShape,
    sampler: SamplerConfig,
    *,
    seed: int,
    purpose: str,
    count: int,
    batch: int,
    nfe: Sequence[int],
    conditional: bool,
    labels: Labels | Drawn = "balanced",
    ranks: Ranks = ALONE,
    then: Callable[[Images], Any] = lambda images: images,
) -> Iterator[Any]:
    """Generate batches of samples for all NFE in one pass, uint8 [b, h, w, c]; TensorFloat32 is off.

    Args:
        model: in evaluation mode.
        sampler: with at least max(nfe) levels.
        seed: determines a sample's noise, together with ``purpose`` and the sample's index.
        purpose: ``select`` and ``sample`` never share noise.
        batch: samples per network call; changes no sample. Ignored for a coupling whose samples share noise,
            which determines it.
        nfe: the numbers of evaluations wanted.
        conditional: give classes to the model.
        labels: the classes; balanced: sample i has class i mod k.
        ranks: the processes that share the work, batch by batch; each yields all batches, in order.
        then: function of a batch, called in the process that generated it; its result is yielded instead.
    """
    device = next(model.parameters()).device
    size = (shape.channels, shape.resolution, shape.resolution)
    levels = sampler.levels[: max(nfe)]
    batch = model.coupling.joint_samples or batch

    def drawn(start: int) -> tuple[range, list[Tensor]]:
        chosen = range(start, min(start + batch, count))
        draw = partial(sample_noise, seed, purpose, chosen, shape=size)
        return chosen, [draw(evaluation=i) for i in range(len(levels))]

    @products()
    def made(chosen: range, noises: list[Tensor]) -> Images:
        classes = None
        if conditional:
            indices = class_indices(labels, shape.num_classes, chosen, seed=seed, purpose=purpose)
            classes = one_hot(indices, shape.num_classes, device)
        images = multistep(
            model,
            [noise.to(device) for noise in noises],
            levels,
            classes,
            boundary=sampler.boundary,
            clip=sampler.clip,
            renoise=sampler.renoise,
        )
        return {
            i: np.ascontiguousarray(to_uint8(image, sampler.quantise).permute(0, 2, 3, 1).cpu().numpy())
            for i, image in enumerate(images, start=1)
            if i in nfe
        }

    own = range(0, count, batch)[ranks.rank :: ranks.size]
    # A thread draws the next batch's noise while a GPU evaluates the network.
    with closing(prefetched(drawn, own, threads=1, most=int(device.type == "cuda"))) as noises:
        yield from ranks.in_turn(then(made(*batch)) for batch in noises)


def first_images(network: ConsistencyModel, saved: Saved, count: int) -> NDArray[np.uint8]:
    """Images to look at, NFE 1, uint8 [count, h, w, c]; all snapshots of all runs of a seed share noise."""
    batches = generate(
        network,
        saved.shape,
        saved.sampler,
        seed=0 if saved.training is None else saved.training.cell.seed,
        purpose="live",
        count=count,
        batch=count,
        nfe=[1],
        conditional=saved.conditional,
    )
    return np.concatenate([batch[1] for batch in batches])


def samples_of(
    training: Training, measurement: Measurement, network: ConsistencyModel, shape: ImageShape, **options: Any
) -> Iterator[Any]:
    """Samples of a trained ``network`` with a cell's settings; ``options`` as in :func:`generate`.

    With `sample.labels: data` the option ``labels`` is :class:`Drawn`.
    """
    if measurement.sample.labels != "data":
        options["labels"] = measurement.sample.labels
    sampler = SamplerConfig(
        levels=(training.recipe.sigma_max, *measurement.mid_sigmas),
        boundary=measurement.boundary,
        quantise=measurement.sample.quantise,
    )
    return generate(
        network,
        shape,
        sampler,
        seed=training.cell.seed,
        batch=measurement.sample.batch,
        conditional=training.recipe.conditional,
        **options,
    )
