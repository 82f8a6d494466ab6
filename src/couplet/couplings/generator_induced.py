"""Generator-induced coupling: the model's own output as data endpoint of the pair (GC)."""

from __future__ import annotations

import torch
from torch import Tensor

from couplet.config.couplings import GeneratorInducedConfig
from couplet.couplings.base import Coupling, Pair, Predictors, Setting


class GeneratorInduced(Coupling):
    """With probability mu the clean image becomes ``f(x + r z, r)``, where f is the averaged model.

    Both noisy images are then made from that data endpoint and the same z (GC). mu is the share of
    generator-induced pairs, as in the paper.
    """

    def __init__(self, config: GeneratorInducedConfig, setting: Setting) -> None:
        super().__init__()
        self.predictor, self.mu = config.predictor, config.mu
        self.mu_end = config.mu if config.mu_end is None else config.mu_end
        self.predictions = (self.mu + self.mu_end) / 2

    def mu_at(self, progress: float) -> float:
        """mu after a fraction ``progress`` of training: linear from mu to mu_end."""
        return self.mu + (self.mu_end - self.mu) * progress

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
        predict = getattr(predictors, self.predictor)
        # Evaluating only the chosen images gives the same result at half of the cost for mu = 0.5.
        chosen = (uniform < self.mu_at(progress)).nonzero().squeeze(1)
        data = images
        if len(chosen):
            kept = None if labels is None else labels[chosen]
            with torch.no_grad():
                made = predict(images[chosen], noise[chosen], level[chosen], kept)
            data = images.index_copy(0, chosen, made.to(images.dtype))
        return Pair(data, noise, labels, images.new_zeros(len(images)))
