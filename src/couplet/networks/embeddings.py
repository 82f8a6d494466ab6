"""Features of the noise label: sinusoids of fixed or random frequencies."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def _waves(angles: Tensor, *, sine_first: bool) -> Tensor:
    waves = [angles.cos(), angles.sin()]
    return torch.cat(waves[::-1] if sine_first else waves, dim=1)


class PositionalEmbedding(nn.Module):
    """Sinusoids of geometrically spaced frequencies (DDPM++ and ADM in EDM, Appendix F).

    Args:
        channels: number of features n, even.
        endpoint: whether the last frequency is 1/10000 itself (DDPM++) or one step above (ADM).
        sine_first: order of the two halves: sines, cosines (DDPM++) or cosines, sines (ADM).
    """

    def __init__(self, channels: int, *, endpoint: bool, sine_first: bool) -> None:
        super().__init__()
        self.frequencies = _half(channels)
        self.steps = self.frequencies - int(endpoint)
        if self.steps < 1:
            raise ValueError(f"a positional embedding of {channels} features is too short")
        self.sine_first = sine_first

    def forward(self, noise_labels: Tensor) -> Tensor:
        """Return features ``[b, n]`` of noise labels ``[b]``."""
        index = torch.arange(self.frequencies, dtype=noise_labels.dtype, device=noise_labels.device)
        freqs = (1 / 10000) ** (index / self.steps)
        return _waves(noise_labels.outer(freqs), sine_first=self.sine_first)


class FourierEmbedding(nn.Module):
    """Sinusoids of random frequencies, drawn once and stored (NCSN++ in EDM, Appendix F).

    Args:
        channels: number of features n, even.
        scale: standard deviation of the frequencies, in cycles per unit of noise label.
        sine_first: order of the two halves: sines, cosines (NCSN++) or the reverse.
    """

    freqs: Tensor

    def __init__(self, channels: int, *, scale: float, sine_first: bool) -> None:
        super().__init__()
        self.sine_first = sine_first
        self.register_buffer("freqs", torch.randn(_half(channels)) * scale)

    def forward(self, noise_labels: Tensor) -> Tensor:
        """Return features ``[b, n]`` of noise labels ``[b]``."""
        return _waves(noise_labels.outer(2 * math.pi * self.freqs), sine_first=self.sine_first)


class MPFourier(nn.Module):
    """Random features of unit magnitude, ``sqrt(2) cos(f x + phase)`` (EDM2, Eq. 75).

    Args:
        channels: number of features n.
    """

    freqs: Tensor
    phases: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * torch.randn(channels))
        self.register_buffer("phases", 2 * math.pi * torch.rand(channels))

    def forward(self, noise_labels: Tensor) -> Tensor:
        """Return features ``[b, n]`` of noise labels ``[b]``."""
        return (noise_labels.outer(self.freqs) + self.phases).cos() * math.sqrt(2)


def _half(channels: int) -> int:
    if channels < 2 or channels % 2:
        raise ValueError(f"an embedding needs an even number of features, not {channels}")
    return channels // 2
