"""Interface of couplings; its defaults are the independent coupling's."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Pair(NamedTuple):
    """Coupled data and noise."""

    data: Tensor
    """Data endpoints, [b, c, h, w]."""
    noise: Tensor
    """Noise of unit scale, [b, c, h, w]."""
    labels: Tensor | None
    """Classes that belong to ``data``, [b, k], or None."""
    penalty: Tensor
    """Term added to each image's loss, before the recipe's scale, >= 0, [b]."""


Predictor = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""(data, noise, level [b], labels) -> the model's clean image [b, c, h, w], without gradient."""


class Predictors(NamedTuple):
    """The models that a coupling may ask for a clean image."""

    online: Predictor
    ema: Predictor
    frozen: Predictor | None


class Setting(NamedTuple):
    """Facts from which a coupling builds its parameters."""

    channels: int
    """Channels of an image."""
    sigma_data: float
    make_network: Callable[..., nn.Module]
    """Builds the main network with other ``out_channels``, ``model_channels`` and ``num_blocks``."""


class Coupling(nn.Module):
    """Pairs a batch of images with noise: as they are, unless a subclass says otherwise.

    A module, because a coupling may own parameters; they are trained, averaged, saved and loaded with
    the network's. It draws no random numbers: they arrive as arguments.

    Attributes:
        joint_images: whether `arrange` reads the images; every process then gets those of the whole batch.
        joint_samples: number of consecutive samples to generate in one call, because they share their noise;
            None if samples are independent.
        predictions: evaluations of the main network per image and step that `forward` makes, averaged over
            training: the coupling's cost besides networks of its own.
    """

    joint_images: bool = False
    joint_samples: int | None = None
    predictions: float = 0.0

    def arrange(self, images: Tensor, noise: Tensor, rows: slice = slice(None)) -> Tensor:
        """Arrange the whole batch's noise before `forward`; return that of ``rows``, by default as drawn.

        Training needs this of it and nothing else: over many batches, the noise in each place is standard
        normal, as where sampling starts. Noises may be permuted, as they fit the images, or depend on each
        other, as in antithetic pairs z, -z. It may run in a thread, some steps ahead of the training, and in
        several processes, for rows of each: it must depend on its arguments alone, has no gradient, and
        returns for some rows what it returns there for all.

        Args:
            images: the whole batch [b, c, h, w] if :attr:`joint_images`, else the images of ``rows``.
            noise: standard normal, always of the whole batch, [b, c, h, w].
            rows: consecutive images of the batch.
        """
        return noise[rows]

    def forward(
        self,
        images: Tensor,
        noise: Tensor,
        labels: Tensor | None,
        *,
        level: Tensor,
        predictors: Predictors,
        progress: float,
        uniform: Tensor,
    ) -> Pair:
        """Make the training pairs; by default, every image with its noise, without a penalty.

        Args:
            images: clean images in [-1, 1], [b, c, h, w].
            noise: standard normal as :meth:`arrange` left it, [b, c, h, w].
            labels: one-hot classes [b, k], or None.
            level: noise level at which a generated data endpoint is evaluated, [b]: the teacher's r; a
                denoiser's t.
            predictors: the model in training, its average and the frozen model.
            progress: fraction of training done, in [0, 1).
            uniform: one number in [0, 1) per image, for couplings that choose at random, [b].
        """
        return Pair(images, noise, labels, images.new_zeros(len(images)))

    def posterior(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the noise of ``images``, each [b, c, h, w]: by default 0 and 1."""
        return torch.zeros_like(images), torch.ones_like(images)

    def renoise(self, images: Tensor, noise: Tensor, labels: Tensor | None) -> Tensor:
        """Noise to add to generated ``images`` at the next sampling step, by default as drawn."""
        return noise
