"""ADM (Dhariwal and Nichol 2021) in the form of EDM, Appendix F."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from couplet.config.networks import ADMConfig
from couplet.networks.base import BlockPlan, Network, plan
from couplet.networks.blocks import Conv2d, Init, Linear, PositionalEmbedding, UNetBlock, group_norm

EPS = 1e-5
INIT = Init("kaiming_uniform", weight=math.sqrt(1 / 3), bias=math.sqrt(1 / 3))
INIT_LAST = Init("kaiming_uniform", weight=0.0, bias=0.0)


class ADM(Network):
    """The U-Net of ADM, with the state keys of EDM's ``DhariwalUNet``."""

    def __init__(self, config: ADMConfig, **sizes: int) -> None:
        super().__init__(**sizes)
        channels = config.model_channels
        emb_channels = channels * config.channel_mult_emb
        self.noise_scale = config.noise_scale
        self.map_noise = PositionalEmbedding(channels, adm=True)
        self.map_layer0 = Linear(channels, emb_channels, init=INIT)
        self.map_layer1 = Linear(emb_channels, emb_channels, init=INIT)
        self.map_label: Linear | None = None
        if self.num_classes:
            # One-hot rows are not rescaled at run time, so the weights are.
            init = Init("kaiming_normal", weight=math.sqrt(self.num_classes))
            self.map_label = Linear(self.num_classes, emb_channels, init=init, bias=False)

        encoder, decoder = plan(config, in_channels=self.in_channels, resolution=self.resolution)

        def module(cell: BlockPlan) -> nn.Module:
            if cell.role == "conv":
                return Conv2d(cell.in_channels, cell.out_channels, 3, init=INIT)
            return UNetBlock(
                cell,
                embedding=emb_channels,
                adaptive_scale=config.adaptive_scale,
                eps=EPS,
                group_width=config.channels_per_group,
                init=INIT,
                init_last=INIT_LAST,
            )

        self.enc = nn.ModuleDict({cell.name: module(cell) for cell in encoder})
        self.dec = nn.ModuleDict({cell.name: module(cell) for cell in decoder})
        self.out_norm = group_norm(decoder[-1].out_channels, EPS, config.channels_per_group)
        self.out_conv = Conv2d(decoder[-1].out_channels, self.out_channels, 3, init=INIT_LAST)

    def forward(self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None = None) -> Tensor:
        emb = self._embed(noise_labels, class_labels)
        skips: list[Tensor] = []
        for module in self.enc.values():
            x = module(x, emb) if isinstance(module, UNetBlock) else module(x)
            skips.append(x)
        for name, module in self.dec.items():
            if "_block" in name:
                x = torch.cat([x, skips.pop()], dim=1)
            x = module(x, emb)
        return self.out_conv(F.silu(self.out_norm(x)))

    def _embed(self, noise_labels: Tensor, class_labels: Tensor | None) -> Tensor:
        emb = self.map_layer1(F.silu(self.map_layer0(self.map_noise(self.noise_scale * noise_labels))))
        if self.map_label is not None:
            emb = emb + self.map_label(self.label_rows(class_labels, like=emb))
        return F.silu(emb)
