"""The magnitude-preserving U-Net of EDM2 (config G)."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from couplet.config.networks import EDM2Config
from couplet.networks.base import BlockPlan, Network, plan
from couplet.networks.blocks import MPFourier

RESIDUAL_BALANCE = 0.3
ATTENTION_BALANCE = 0.3
LABEL_BALANCE = 0.5
CONCAT_BALANCE = 0.5
CLIP = 256.0


def normalize(x: Tensor, dim: int | tuple[int, ...], eps: float = 1e-4) -> Tensor:
    """Scale ``x`` to a root mean square of one over ``dim`` (EDM2)."""
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return x / (eps + norm * math.sqrt(norm.numel() / x.numel()))


def mp_silu(x: Tensor) -> Tensor:
    """SiLU that keeps the magnitude of normal inputs (EDM2, Eq. 81)."""
    return F.silu(x) / 0.596


def mp_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Sum with share ``t`` of ``b`` that keeps the magnitude (EDM2, Eq. 88)."""
    return a.lerp(b, t) / math.hypot(1 - t, t)


def mp_cat(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Concatenation of channels with share ``t`` of ``b``, magnitudes kept (EDM2, Eq. 103)."""
    total = math.sqrt(a.shape[1] + b.shape[1]) / math.hypot(1 - t, t)
    weight_a = total * (1 - t) / math.sqrt(a.shape[1])
    weight_b = total * t / math.sqrt(b.shape[1])
    return torch.cat([weight_a * a, weight_b * b], dim=1)


class MPConv(nn.Module):
    """A convolution with normalised weight and no bias, or a linear layer for ``kernel`` 0.

    EDM2, Eq. 47 and 66.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        shape = (outputs, inputs, kernel, kernel) if kernel else (outputs, inputs)
        self.weight = nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """Map ``[b, inputs, h, w]`` to ``[b, outputs, h, w]``; without h and w for a linear layer."""
        weight = self._normalized() * (gain / math.sqrt(self.weight[0].numel()))
        if weight.ndim == 2:
            return F.linear(x, weight)
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2)

    @torch.no_grad()
    def normalize_(self) -> None:
        """Overwrite the stored weight with its normalised version."""
        self.weight.copy_(self._normalized())

    def _normalized(self) -> Tensor:
        return normalize(self.weight, dim=tuple(range(1, self.weight.ndim)))


class EDM2Block(nn.Module):
    """A residual block, followed by cosine attention where ``cell`` has heads.

    ``enc`` normalises pixels first, ``dec`` does not; ``embedding`` is the width of the embedding.
    """

    def __init__(self, cell: BlockPlan, *, flavor: Literal["enc", "dec"], embedding: int) -> None:
        super().__init__()
        inputs, outputs = cell.in_channels, cell.out_channels
        self.flavor, self.role = flavor, cell.role
        self.heads, self.dropout = cell.heads, cell.dropout
        self.emb_gain = nn.Parameter(torch.zeros([]))
        self.conv_res0 = MPConv(outputs if flavor == "enc" else inputs, outputs, 3)
        self.emb_linear = MPConv(embedding, outputs, 0)
        self.conv_res1 = MPConv(outputs, outputs, 3)
        self.conv_skip = MPConv(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        if self.heads:
            self.attn_qkv = MPConv(outputs, 3 * outputs, 1)
            self.attn_proj = MPConv(outputs, outputs, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map ``[b, in, h, w]`` and the embedding ``[b, e]`` or ``[1, e]`` to ``[b, out, h', w']``."""
        if self.role == "down":
            x = F.avg_pool2d(x, 2)
        elif self.role == "up":
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        if self.flavor == "enc":
            x = normalize(self.conv_skip(x), dim=1)

        y = self.conv_res0(mp_silu(x))
        scale = self.emb_linear(emb, gain=self.emb_gain) + 1
        y = mp_silu(y * scale[:, :, None, None])
        y = self.conv_res1(F.dropout(y, self.dropout, self.training))

        if self.flavor == "dec":
            x = self.conv_skip(x)
        x = mp_sum(x, y, RESIDUAL_BALANCE)
        if self.heads:
            x = mp_sum(x, self._attend(x), ATTENTION_BALANCE)
        return x.clamp(-CLIP, CLIP)

    def _attend(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        width_per_head = c // self.heads
        # In published weights the query, key and value of a channel are neighbours.
        qkv = self.attn_qkv(x).reshape(b, self.heads, width_per_head, 3, height * width)
        q, k, v = normalize(qkv, dim=2).unbind(3)
        logits = torch.einsum("nhcq,nhck->nhqk", q, k / math.sqrt(width_per_head))
        mixed = torch.einsum("nhqk,nhck->nhcq", logits.softmax(dim=3), v)
        return self.attn_proj(mixed.reshape(b, c, height, width))


class EDM2(Network):
    """The U-Net of EDM2, with the state keys of EDM2's ``UNet``.

    The forward pass does not change stored weights, not even in training: call
    :meth:`normalize_weights_` once per step, before the student's pass.
    """

    def __init__(self, config: EDM2Config, **sizes: int) -> None:
        super().__init__(**sizes)
        widths = [config.model_channels * factor for factor in config.channel_mult]
        emb_channels = max(widths)
        self.out_gain = nn.Parameter(torch.zeros([]))
        self.emb_fourier = MPFourier(widths[0])
        self.emb_noise = MPConv(widths[0], emb_channels, 0)
        self.emb_label = MPConv(self.num_classes, emb_channels, 0) if self.num_classes else None

        # A channel of ones, since no layer has a bias.
        encoder, decoder = plan(config, in_channels=self.in_channels + 1, resolution=self.resolution)

        def module(cell: BlockPlan, flavor: Literal["enc", "dec"]) -> nn.Module:
            if cell.role == "conv":
                return MPConv(cell.in_channels, cell.out_channels, 3)
            return EDM2Block(cell, flavor=flavor, embedding=emb_channels)

        self.enc = nn.ModuleDict({cell.name: module(cell, "enc") for cell in encoder})
        self.dec = nn.ModuleDict({cell.name: module(cell, "dec") for cell in decoder})
        self.out_conv = MPConv(decoder[-1].out_channels, self.out_channels, 3)

    def forward(self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None = None) -> Tensor:
        emb = self._embed(noise_labels, class_labels)
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        skips: list[Tensor] = []
        for module in self.enc.values():
            x = module(x, emb) if isinstance(module, EDM2Block) else module(x)
            skips.append(x)
        for name, module in self.dec.items():
            if "_block" in name:
                x = mp_cat(x, skips.pop(), CONCAT_BALANCE)
            x = module(x, emb)
        return self.out_conv(x, gain=self.out_gain)

    def normalize_weights_(self) -> None:
        """Overwrite the weight of every layer with its normalised version (EDM2, Eq. 66)."""
        for module in self.modules():
            if isinstance(module, MPConv):
                module.normalize_()

    def _embed(self, noise_labels: Tensor, class_labels: Tensor | None) -> Tensor:
        emb = self.emb_noise(self.emb_fourier(noise_labels))
        if self.emb_label is not None:
            labels = self.label_rows(class_labels, like=emb)
            by_label = self.emb_label(labels * math.sqrt(self.num_classes))
            emb = mp_sum(emb, by_label, LABEL_BALANCE)
        return mp_silu(emb)
