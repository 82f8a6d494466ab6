"""Multilayer perceptrons, for points in the plane and images of few pixels."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from couplet.config.networks import ConcatMLPConfig, MLPConfig
from couplet.networks.base import Network
from couplet.networks.blocks import FourierEmbedding, Init, Linear, PositionalEmbedding

INIT = Init("kaiming_uniform", weight=math.sqrt(2))
INIT_LAST = Init("kaiming_uniform", weight=1e-5)
INIT_CONCAT = Init("kaiming_uniform", weight=math.sqrt(1 / 3), bias=math.sqrt(1 / 3))
"""PyTorch's own for linear layers."""
NOISE_FEATURES = 64


class Perceptron(Network):
    """A network over flattened images, which sees noise label and class as one row of features."""

    map_noise: nn.Module
    map_label: Linear | None

    def features(self, noise_labels: Tensor, class_labels: Tensor | None) -> Tensor:
        """The features of the noise label, moved by the class; one row for all images, or one each."""
        features: Tensor = self.map_noise(noise_labels)
        if self.map_label is not None:
            labels = self.label_rows(class_labels, like=features)
            features = features + self.map_label(labels * math.sqrt(self.num_classes))
        return features


class MLP(Perceptron):
    """Residual blocks over the flattened image; each is shifted and scaled by the noise label's embedding."""

    def __init__(self, config: MLPConfig, **sizes: int) -> None:
        super().__init__(**sizes)
        width, pixels = config.model_channels, self.resolution**2
        self.map_noise = FourierEmbedding(NOISE_FEATURES, scale=config.fourier_scale)
        self.map_label = Linear(self.num_classes, NOISE_FEATURES, init=INIT) if self.num_classes else None
        self.map_layer = Linear(NOISE_FEATURES, width, init=INIT)
        self.first = Linear(self.in_channels * pixels, width, init=INIT)
        self.blocks = nn.ModuleList(_Block(width, config.dropout) for _ in range(config.num_blocks))
        self.norm = nn.LayerNorm(width)
        self.last = Linear(width, self.out_channels * pixels, init=INIT_LAST)

    def forward(self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None = None) -> Tensor:
        features = self.features(noise_labels, class_labels)
        embedding = F.silu(self.map_layer(features))
        hidden = self.first(x.flatten(1))
        for block in self.blocks:
            hidden = block(hidden, embedding)
        flat: Tensor = self.last(F.silu(self.norm(hidden)))
        return flat.view(len(x), self.out_channels, *x.shape[2:])


class _Block(nn.Module):
    """``h + W2 drop(silu((1 + s) norm(W1 silu(norm(h))) + b))``, with s and b from the embedding."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm0, self.norm1 = nn.LayerNorm(width), nn.LayerNorm(width, elementwise_affine=False)
        self.layer0, self.layer1 = Linear(width, width, init=INIT), Linear(width, width, init=INIT_LAST)
        self.affine = Linear(width, 2 * width, init=INIT)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.affine(embedding).chunk(2, dim=1)
        hidden = self.norm1(self.layer0(F.silu(self.norm0(x)))) * (1 + scale) + shift
        hidden = F.dropout(F.silu(hidden), p=self.dropout, training=self.training)
        out: Tensor = x + self.layer1(hidden)
        return out


class ConcatMLP(Perceptron):
    """Layers with GELU over features of the flattened image and of the noise label, side by side (GC, VCT).

    The last layer starts near zero, as in every network here; theirs has PyTorch's initial weights.
    """

    def __init__(self, config: ConcatMLPConfig, **sizes: int) -> None:
        super().__init__(**sizes)
        self.dropout = config.dropout
        width, pixels = config.model_channels, self.resolution**2
        widths = [2 * width, *[width] * config.num_blocks]
        self.map_noise = PositionalEmbedding(width, adm=True)
        self.map_label = Linear(self.num_classes, width, init=INIT) if self.num_classes else None
        self.first = Linear(self.in_channels * pixels, width, init=INIT_CONCAT)
        self.layers = nn.ModuleList(Linear(*ends, init=INIT_CONCAT) for ends in pairwise(widths))
        self.last = Linear(width, self.out_channels * pixels, init=INIT_LAST)

    def forward(self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None = None) -> Tensor:
        features = self.features(noise_labels, class_labels)
        hidden = torch.cat([F.gelu(self.first(x.flatten(1))), features.expand(len(x), -1)], dim=1)
        for layer in self.layers:
            hidden = F.dropout(F.gelu(layer(hidden)), p=self.dropout, training=self.training)
        flat: Tensor = self.last(hidden)
        return flat.view(len(x), self.out_channels, *x.shape[2:])
