"""Variational noise coupling, alone and with generated data endpoints: an encoder emits the noise (VCT)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from couplet.config.couplings import VariationalConfig, VariationalGeneratorConfig
from couplet.couplings.base import Coupling, Pair, Setting
from couplet.couplings.generator_induced import GeneratorInduced


def gaussian_kl(mean: Tensor, std: Tensor) -> Tensor:
    """``KL(N(mean, std²) || N(0, 1))`` summed over each image, in nats, >= 0, [b] (VCT).

    ``0.5 (std² + mean² - 1) - ln std`` per dimension.
    """
    return (0.5 * (std**2 + mean**2 - 1) - std.log()).flatten(1).sum(1)


class Variational(Coupling):
    """``z' = mean(x) + std(x) z`` in place of z; the penalty is the posterior's KL from N(0, I).

    The encoder is the main network at another size. Its inputs are ``x/sigma_data`` and noise level input 0;
    the first half of its output is the mean, and softplus of the second half the standard deviation.
    """

    posterior_floor = 1e-8  # VCT adds it to the standard deviation, in the KL only.

    def __init__(self, config: VariationalConfig, setting: Setting) -> None:
        super().__init__()
        self.kl_weight, self.sigma_data = config.kl_weight, setting.sigma_data
        self.encoder = setting.make_network(
            out_channels=2 * setting.channels,
            model_channels=config.encoder.model_channels,
            num_blocks=config.encoder.num_blocks,
        )

    def posterior(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        levels = torch.zeros(len(images), device=images.device)
        output = self.encoder((images / self.sigma_data).float(), levels, labels)
        mean, raw = output.chunk(2, dim=1)
        return mean, F.softplus(raw)

    def forward(self, images: Tensor, noise: Tensor, labels: Tensor | None, **context: Any) -> Pair:
        mean, std = self.posterior(images, labels)
        kl = gaussian_kl(mean, std + self.posterior_floor)
        return Pair(images, noise * std + mean, labels, self.kl_weight * kl)

    def renoise(self, images: Tensor, noise: Tensor, labels: Tensor | None) -> Tensor:
        """Noise from the posterior of the generated images, as in training."""
        mean, std = self.posterior(images, labels)
        return noise * std + mean


class VariationalGenerator(Coupling):
    """``z' = mean(x) + std(x) z``, and with probability mu the clean image becomes ``f(x + r z', r)``.

    Both noisy images are made from that data endpoint and the same z'. The encoder gets the image x of the
    data set, and the KL is that of x, whichever endpoint its noise is paired with. The endpoint has no
    gradient, so the encoder learns through z' alone.
    """

    def __init__(self, config: VariationalGeneratorConfig, setting: Setting) -> None:
        super().__init__()
        self.variational = Variational(config, setting)
        self.generator = GeneratorInduced(config, setting)
        self.predictions = self.generator.predictions

    def forward(self, images: Tensor, noise: Tensor, labels: Tensor | None, **context: Any) -> Pair:
        encoded = self.variational(images, noise, labels, **context)
        made: Pair = self.generator(images, encoded.noise, labels, **context)
        return made._replace(penalty=encoded.penalty)

    def posterior(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.variational.posterior(images, labels)

    def renoise(self, images: Tensor, noise: Tensor, labels: Tensor | None) -> Tensor:
        return self.variational.renoise(images, noise, labels)
