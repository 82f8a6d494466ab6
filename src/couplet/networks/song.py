"""DDPM++ and NCSN++ (Song et al. 2021) in the form of EDM, Appendix F."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from couplet.config.networks import SongConfig
from couplet.networks.base import BlockPlan, Network, plan
from couplet.networks.blocks import (
    Conv2d,
    FourierEmbedding,
    Init,
    Linear,
    PositionalEmbedding,
    UNetBlock,
    group_norm,
)

EPS = 1e-6
INIT = Init("xavier_uniform")
INIT_LAST = Init("xavier_uniform", weight=1e-5)
INIT_ATTENTION = Init("xavier_uniform", weight=math.sqrt(0.2))


class SongUNet(Network):
    """The U-Net of DDPM++ and NCSN++, with the state keys of EDM's ``SongUNet``."""

    def __init__(self, config: SongConfig, **sizes: int) -> None:
        super().__init__(**sizes)
        noise_channels = config.model_channels * config.channel_mult_noise
        emb_channels = config.model_channels * config.channel_mult_emb
        self.map_noise: nn.Module
        if config.embedding_type == "positional":
            self.map_noise = PositionalEmbedding(noise_channels, adm=False)
        else:
            self.map_noise = FourierEmbedding(noise_channels, scale=config.fourier_scale)
        self.map_label = Linear(self.num_classes, noise_channels, init=INIT) if self.num_classes else None
        self.map_layer0 = Linear(noise_channels, emb_channels, init=INIT)
        self.map_layer1 = Linear(emb_channels, emb_channels, init=INIT)

        encoder, decoder = plan(config, in_channels=self.in_channels, resolution=self.resolution)
        taps = config.resample_filter

        def module(cell: BlockPlan) -> nn.Module:
            if cell.role == "conv":
                return Conv2d(cell.in_channels, cell.out_channels, 3, init=INIT)
            return UNetBlock(
                cell,
                embedding=emb_channels,
                adaptive_scale=False,
                eps=EPS,
                init=INIT,
                init_attention=INIT_ATTENTION,
                init_last=INIT_LAST,
                skip_scale=math.sqrt(0.5),
                project_resampled=True,
                taps=taps,
            )

        self.enc, aux_channels = nn.ModuleDict(), self.in_channels
        for cell in encoder:
            self.enc[cell.name] = module(cell)
            if cell.role == "down" and config.encoder_type == "residual":
                # A convolution of the level above.
                self.enc[f"{cell.name.removesuffix('down')}aux_residual"] = Conv2d(
                    aux_channels, cell.out_channels, 3, init=INIT, resampling="down", taps=taps, fused=True
                )
                aux_channels = cell.out_channels
        self.dec = nn.ModuleDict({cell.name: module(cell) for cell in decoder})
        size = f"{self.resolution}x{self.resolution}"
        self.dec[f"{size}_aux_norm"] = group_norm(decoder[-1].out_channels, EPS)
        self.dec[f"{size}_aux_conv"] = Conv2d(decoder[-1].out_channels, self.out_channels, 3, init=INIT_LAST)

    def forward(self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None = None) -> Tensor:
        emb = self._embed(noise_labels, class_labels)
        skips: list[Tensor] = []
        aux = x
        for name, module in self.enc.items():
            if name.endswith("_aux_residual"):
                x = aux = skips[-1] = (x + module(aux)) / math.sqrt(2)
                continue
            x = module(x, emb) if isinstance(module, UNetBlock) else module(x)
            skips.append(x)
        for name, module in self.dec.items():
            if "_block" in name:
                x = torch.cat([x, skips.pop()], dim=1)
            if name.endswith("_aux_norm"):
                x = F.silu(module(x))
            else:
                x = module(x, emb) if isinstance(module, UNetBlock) else module(x)
        return x

    def _embed(self, noise_labels: Tensor, class_labels: Tensor | None) -> Tensor:
        emb = self.map_noise(noise_labels)
        if self.map_label is not None:
            labels = self.label_rows(class_labels, like=emb)
            emb = emb + self.map_label(labels * math.sqrt(self.num_classes))
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))
