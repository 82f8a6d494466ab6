"""Layers, the residual block of DDPM++, NCSN++ and ADM (EDM, Appendix F), and features of the noise label."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from couplet.networks.base import BlockPlan

Resampling = Literal["keep", "up", "down"]


@dataclass(frozen=True)
class Init:
    """Initialisation of a layer's weight and bias, from torch's default generator."""

    distribution: Literal["xavier_uniform", "kaiming_uniform", "kaiming_normal"]
    """Uniform of variance 2 / (fan_in + fan_out) or 1 / fan_in; normal of variance 1 / fan_in."""
    weight: float = 1.0
    """Factor on the weight."""
    bias: float = 0.0
    """Factor on the bias."""

    def draw(self, shape: tuple[int, ...], fan_in: int, fan_out: int, factor: float) -> nn.Parameter:
        """Draw a parameter of ``shape`` for a layer with ``fan_in`` inputs per output."""
        if self.distribution == "kaiming_normal":
            values = torch.randn(shape) * math.sqrt(1 / fan_in)
        elif self.distribution == "kaiming_uniform":
            values = (2 * torch.rand(shape) - 1) * math.sqrt(3 / fan_in)
        else:
            values = (2 * torch.rand(shape) - 1) * math.sqrt(6 / (fan_in + fan_out))
        return nn.Parameter(values * factor)


class Linear(nn.Module):
    """A fully connected layer with one of EDM's initialisations."""

    bias: nn.Parameter | None

    def __init__(self, inputs: int, outputs: int, *, init: Init, bias: bool = True) -> None:
        super().__init__()
        self.weight = init.draw((outputs, inputs), inputs, outputs, init.weight)
        self.bias = init.draw((outputs,), inputs, outputs, init.bias) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[b, inputs]`` to ``[b, outputs]``."""
        return F.linear(x, self.weight, self.bias)


class Conv2d(nn.Module):
    """A convolution, on its own or after halving or doubling the resolution.

    Args:
        inputs, outputs: numbers of channels.
        kernel: side of the convolution kernel, odd; 0 resamples only.
        init: initialisation of weight and bias.
        resampling: whether to keep, double or halve the resolution.
        taps: coefficients of the separable resampling filter.
        fused: when halving, convolve first and filter afterwards.

    Raises:
        ValueError: the convolution would have to change the channels with ``kernel`` 0.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    resample_filter: Tensor | None

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        init: Init,
        resampling: Resampling = "keep",
        taps: tuple[float, ...] = (1.0, 1.0),
        fused: bool = False,
    ) -> None:
        super().__init__()
        if kernel == 0 and inputs != outputs:
            raise ValueError(f"a filter cannot turn {inputs} channels into {outputs}")
        self.resampling, self.fused, self.margin = resampling, fused, (len(taps) - 1) // 2
        self.weight = self.bias = None
        if kernel:
            fans = (inputs * kernel**2, outputs * kernel**2)
            self.weight = init.draw((outputs, inputs, kernel, kernel), *fans, init.weight)
            self.bias = init.draw((outputs,), *fans, init.bias)
        line = torch.tensor(taps, dtype=torch.float32)
        plane = line.outer(line) / line.sum().square()
        self.register_buffer("resample_filter", None if resampling == "keep" else plane[None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[b, inputs, h, w]`` to ``[b, outputs, h', w']``."""
        if self.fused and self.resampling == "down" and self.weight is not None:
            # With this margin the filter reads convolved values beyond the border instead of zeros.
            x = F.conv2d(x, self.weight, padding=self.weight.shape[-1] // 2 + self.margin)
            x = self._resample(x, padding=0)
            return x if self.bias is None else x + self.bias[:, None, None]
        if self.resampling != "keep":
            x = self._resample(x, padding=self.margin)
        if self.weight is not None:
            x = F.conv2d(x, self.weight, self.bias, padding=self.weight.shape[-1] // 2)
        return x

    def _resample(self, x: Tensor, *, padding: int) -> Tensor:
        assert self.resample_filter is not None
        channels = x.shape[1]
        weight = self.resample_filter.expand(channels, -1, -1, -1)
        if self.resampling == "up":
            # Each input pixel contributes to four output pixels.
            return F.conv_transpose2d(x, 4 * weight, groups=channels, stride=2, padding=padding)
        return F.conv2d(x, weight, groups=channels, stride=2, padding=padding)


def group_norm(channels: int, eps: float, width: int = 4) -> nn.GroupNorm:
    """Return group normalisation with at most 32 groups of at least ``width`` channels.

    Raises:
        ValueError: the channels cannot be divided into the groups.
    """
    groups = min(32, channels // width)
    if groups == 0 or channels % groups:
        raise ValueError(
            f"{channels} channels cannot be normalised in groups: up to {32 * width} channels must be a "
            f"multiple of {width} and more than that a multiple of 32, also where skip connections are "
            "concatenated; choose another model_channels"
        )
    return nn.GroupNorm(groups, channels, eps=eps)


class UNetBlock(nn.Module):
    """A residual block, followed by self-attention where ``cell`` has heads.

    Args:
        cell: the block's place in the U-Net.
        embedding: width of the embedding.
        adaptive_scale: whether the embedding scales and shifts the normalised features; otherwise it is
            added before.
        eps: epsilon of the group normalisations.
        group_width: fewest channels of a normalisation group.
        init: initialisation of most layers.
        init_last: initialisation of the layers that end a residual branch.
        init_attention: initialisation of the layer that makes queries, keys and values; ``init`` if None.
        skip_scale: factor on every residual sum.
        project_resampled: whether the skip connection has a convolution wherever the resolution changes.
        taps: coefficients of the separable resampling filter.
    """

    def __init__(
        self,
        cell: BlockPlan,
        *,
        embedding: int,
        adaptive_scale: bool,
        eps: float,
        group_width: int = 4,
        init: Init,
        init_last: Init,
        init_attention: Init | None = None,
        skip_scale: float = 1.0,
        project_resampled: bool = False,
        taps: tuple[float, ...] = (1.0, 1.0),
    ) -> None:
        super().__init__()
        inputs, outputs = cell.in_channels, cell.out_channels
        resampling: Resampling = "up" if cell.role == "up" else "down" if cell.role == "down" else "keep"
        self.heads, self.dropout = cell.heads, cell.dropout
        self.skip_scale, self.adaptive_scale = skip_scale, adaptive_scale

        self.norm0 = group_norm(inputs, eps, group_width)
        self.conv0 = Conv2d(inputs, outputs, 3, init=init, resampling=resampling, taps=taps)
        self.affine = Linear(embedding, outputs * (2 if adaptive_scale else 1), init=init)
        self.norm1 = group_norm(outputs, eps, group_width)
        self.conv1 = Conv2d(outputs, outputs, 3, init=init_last)

        self.skip: nn.Module = nn.Identity()
        if inputs != outputs or resampling != "keep":
            kernel = 1 if project_resampled or inputs != outputs else 0
            self.skip = Conv2d(inputs, outputs, kernel, init=init, resampling=resampling, taps=taps)

        if self.heads:
            self.norm2 = group_norm(outputs, eps, group_width)
            self.qkv = Conv2d(outputs, 3 * outputs, 1, init=init_attention or init)
            self.proj = Conv2d(outputs, outputs, 1, init=init_last)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map ``[b, in, h, w]`` and the embedding ``[b, e]`` or ``[1, e]`` to ``[b, out, h', w']``."""
        h = self.conv0(F.silu(self.norm0(x)))
        params = self.affine(emb)[:, :, None, None]
        if self.adaptive_scale:
            scale, shift = params.chunk(2, dim=1)
            h = F.silu(shift + self.norm1(h) * (scale + 1))
        else:
            h = F.silu(self.norm1(h + params))
        h = self.conv1(F.dropout(h, self.dropout, self.training))
        h = (h + self.skip(x)) * self.skip_scale
        if self.heads:
            h = (self._attend(h) + h) * self.skip_scale
        return h

    def _attend(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        width_per_head = c // self.heads
        # In published weights the query, key and value of a channel are neighbours.
        qkv = self.qkv(self.norm2(x)).reshape(b * self.heads, width_per_head, 3, height * width)
        q, k, v = qkv.unbind(2)
        weight = torch.einsum("ncq,nck->nqk", q, k / math.sqrt(width_per_head)).softmax(dim=2)
        mixed = torch.einsum("nqk,nck->ncq", weight, v)
        return self.proj(mixed.reshape(b, c, height, width))


class PositionalEmbedding(nn.Module):
    """An even number n of sinusoids of geometrically spaced frequencies (EDM, Appendix F).

    In ADM cosines come first, and the last frequency is one step above 1/10000; in DDPM++ sines come first,
    and it is 1/10000 itself.
    """

    def __init__(self, channels: int, *, adm: bool) -> None:
        super().__init__()
        self.adm, self.frequencies = adm, _half(channels)
        self.steps = self.frequencies if adm else self.frequencies - 1
        if self.steps < 1:
            raise ValueError(f"a positional embedding of {channels} features is too short")

    def forward(self, noise_labels: Tensor) -> Tensor:
        """Return features ``[b, n]`` of noise labels ``[b]``."""
        index = torch.arange(self.frequencies, dtype=noise_labels.dtype, device=noise_labels.device)
        freqs = (1 / 10000) ** (index / self.steps)
        angles = noise_labels.outer(freqs)
        sines_first = [angles.sin(), angles.cos()]
        return torch.cat(sines_first[::-1] if self.adm else sines_first, dim=1)


class FourierEmbedding(nn.Module):
    """Sines, then cosines of random frequencies, drawn once and stored (NCSN++ in EDM, Appendix F).

    ``scale`` is the standard deviation of the frequencies, in cycles per unit of noise label.
    """

    freqs: Tensor

    def __init__(self, channels: int, *, scale: float) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.randn(_half(channels)) * scale)

    def forward(self, noise_labels: Tensor) -> Tensor:
        """Return features ``[b, n]`` of noise labels ``[b]``."""
        angles = noise_labels.outer(2 * math.pi * self.freqs)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class MPFourier(nn.Module):
    """``channels`` random features of unit magnitude, ``sqrt(2) cos(f x + phase)`` (EDM2, Eq. 75)."""

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
