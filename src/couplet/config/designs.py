"""What rebuilds a model, and how it is sampled; for a run, both follow from its settings."""

from __future__ import annotations

from typing import Literal

from couplet.config.base import Closed, NonEmpty
from couplet.config.couplings import CouplingConfig, IndependentConfig
from couplet.config.networks import NetworkConfig
from couplet.config.recipes import KernelConfig, Level, VarianceExplodingConfig


class Design(Closed):
    """Everything that rebuilds a model, besides the shape of its images."""

    network: NetworkConfig
    kernel: KernelConfig = VarianceExplodingConfig()
    coupling: CouplingConfig = IndependentConfig()
    conditional: bool = False
    """Give the class to the network."""
    sigma_min: Level = 0.002
    sigma_max: Level = 80.0
    sigma_data: Level = 0.5


class SamplerConfig(Closed):
    """How images are made from a model."""

    levels: NonEmpty[Level]
    """Noise level of each evaluation, in order: sigma_max, then those of the further steps."""
    boundary: bool = True
    """Whether sampling shifts the preconditioning."""
    clip: bool = False
    """Clamp the image to [-1, 1] after each evaluation (OpenAI, diffusers)."""
    renoise: Literal["full", "reduced"] = "full"
    """Standard deviation of the noise added before a further evaluation at t: t, or sqrt(t² - sigma_min²)
    (CM, Algorithm 1)."""
    quantise: Literal["round", "truncate"] = "round"
    """Round to the nearest of 256 values (EDM, ECT), or down (OpenAI, VCT with torchmetrics)."""


class Imported(Closed):
    """A model that others trained."""

    design: Design
    sampler: SamplerConfig | None = None
    """Null for a diffusion model, which makes no images in a few steps."""
    source: dict[str, str]
    """Where it comes from, such as the file's name, its SHA-256 and the family."""
