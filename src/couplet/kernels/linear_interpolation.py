"""Linear interpolation between image and noise, the flow-matching kernel (VCT)."""

from __future__ import annotations

from torch import Tensor

from couplet.kernels.base import Kernel


class LinearInterpolation(Kernel):
    """``x_t = (1 - t/sigma_max) x + t z``: at t = sigma_max the image vanishes."""

    @property
    def max_level(self) -> float:
        return self.sigma_max

    def signal(self, t: Tensor) -> Tensor:
        return 1 - t / self.sigma_max

    def shifted_signal(self, t: Tensor) -> Tensor:
        return 1 - (t - self.sigma_min) / (self.sigma_max - self.sigma_min)
