"""Variational and generator-induced coupling in one: an encoder's noise, the model's own data endpoint."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from couplet.config.couplings import VariationalGeneratorConfig
from couplet.couplings.base import Coupling, Pair, Setting
from couplet.couplings.generator_induced import GeneratorInduced
from couplet.couplings.variational import Variational


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
        """Noise from the posterior of the generated images, as in training."""
        return self.variational.renoise(images, noise, labels)
