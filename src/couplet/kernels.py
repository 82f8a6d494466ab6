"""Kernels: how an image becomes noisy, and the preconditioning that belongs to it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from couplet.config.recipes import KernelConfig
from couplet.tensors import per_image


class Scalings(NamedTuple):
    """Preconditioning coefficients, each of the shape of t: f = c_skip x + c_out F(c_in x)."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor


class Kernel(ABC):
    """A Gaussian kernel ``x_t = signal(t) x + t z`` for t in [0, sigma_max], where sampling starts."""

    def __init__(
        self, config: KernelConfig, *, sigma_min: float, sigma_max: float, sigma_data: float
    ) -> None:
        self.config = config
        self.sigma_min, self.sigma_max, self.sigma_data = sigma_min, sigma_max, sigma_data

    @abstractmethod
    def signal(self, t: Tensor) -> Tensor:
        """The factor of the clean image at noise level t."""

    @abstractmethod
    def shifted_signal(self, t: Tensor) -> Tensor:
        """:meth:`signal` shifted so that it is 1 at sigma_min, for the shifted preconditioning."""

    @property
    def max_level(self) -> float:
        """The largest t for which the kernel is defined; by default there is none."""
        return math.inf

    def noise(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """``signal(t) data + t noise``; data and noise [b, c, h, w], t [b] or [1]."""
        t = per_image(t, data)
        return self.signal(t) * data + t * noise

    def scalings(self, t: Tensor, *, boundary: bool) -> Scalings:
        """EDM's coefficients for this kernel (EDM, Table 1; VCT for LI).

        ``boundary=True`` replaces t by t - sigma_min in c_skip and c_out, so that f(x, sigma_min) = x
        exactly; c_in keeps t, and with it the factor c_in inside c_out.
        """
        variance = self.sigma_data**2
        c_in = 1 / torch.sqrt(variance * self.signal(t) ** 2 + t**2)
        signal, level = (self.shifted_signal(t), t - self.sigma_min) if boundary else (self.signal(t), t)
        c_skip = variance * signal / (level**2 + variance * signal**2)
        c_out = level * self.sigma_data * c_in
        return Scalings(c_skip, c_out, c_in)


def time_embedding_input(t: Tensor) -> Tensor:
    """The network's noise-level input, ln(t)/4 (EDM, Table 1)."""
    return t.log() / 4


class VarianceExploding(Kernel):
    """``x_t = x + t z``."""

    def signal(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    shifted_signal = signal


class LinearInterpolation(Kernel):
    """``x_t = (1 - t/sigma_max) x + t z``: at t = sigma_max the image vanishes."""

    @property
    def max_level(self) -> float:
        return self.sigma_max

    def signal(self, t: Tensor) -> Tensor:
        return 1 - t / self.sigma_max

    def shifted_signal(self, t: Tensor) -> Tensor:
        return 1 - (t - self.sigma_min) / (self.sigma_max - self.sigma_min)
