"""Multistep sampling: noise to image in one evaluation, then one more noising and evaluation per level."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from couplet.model import ConsistencyModel
from couplet.tensors import generator


@torch.no_grad()
def multistep(
    model: ConsistencyModel,
    noises: Sequence[Tensor],
    levels: Sequence[float],
    labels: Tensor | None,
    *,
    boundary: bool,
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
        boundary: the recipe's ``boundary.sampling``.

    Yields:
        Images [b, c, h, w], float64: after evaluation 1 (NFE 1), 2 (NFE 2), ...
    """
    images = torch.zeros_like(noises[0], dtype=torch.float64)
    for i, (noise, level) in enumerate(zip(noises, levels, strict=True)):
        t = torch.tensor([level], dtype=torch.float64, device=noise.device)
        z = noise.double()
        if i == 0:
            noisy = level * z
        else:
            noisy = model.kernel.noise(images, model.coupling.renoise(images, z, labels), t)
        images = model(noisy, t, labels, boundary=boundary).double()
        yield images


def sample_noise(
    seed: int, purpose: str, indices: range, *, evaluation: int, shape: tuple[int, int, int]
) -> Tensor:
    """Standard normal noise of the samples ``indices`` before an evaluation, float32 [n, c, h, w].

    Each sample has its own generator, so batching does not change its noise.
    """
    cpu = torch.device("cpu")
    return torch.stack(
        [torch.randn(shape, generator=generator(cpu, seed, purpose, i, evaluation)) for i in indices]
    )


def to_uint8(images: Tensor, quantise: Literal["round", "truncate"] = "round") -> Tensor:
    """Clamp images to [-1, 1] and quantise them to 256 values; uint8, same shape.

    round (EDM, ECT): ``floor(127.5 x + 128)``, the nearest value. truncate (VCT with torchmetrics):
    ``floor(127.5 x + 127.5)``. GC stretches each batch to its own range, which is not offered.
    """
    offset = 128.0 if quantise == "round" else 127.5
    return (images * 127.5 + offset).clamp(0, 255).to(torch.uint8)
