"""DDPM++ and NCSN++ (Song et al. 2021) in the form of EDM, Appendix F."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from couplet.config.networks import SongConfig
from couplet.networks.base import BlockPlan, Network, plan
from couplet.networks.blocks import Conv2d, Init, Linear, Style, UNetBlock, group_norm
from couplet.networks.embeddings import FourierEmbedding, PositionalEmbedding

EPS = 1e-6
INIT = Init("xavier_uniform")
INIT_LAST = Init("xavier_uniform", weight=1e-5)
INIT_ATTENTION = Init("xavier_uniform", weight=math.sqrt(0.2))


class SongUNet(Network):
    """The U-Net of DDPM++ and NCSN++, with the state keys of EDM's ``SongUNet``.

    Raises:
        ValueError: the resolution or a number of channels does not fit the levels.
    """

    def __init__(
        self,
        config: SongConfig,
        *,
        in_channels: int,
        out_channels: int,
        resolution: int,
        num_classes: int = 0,
    ) -> None:
        super().__init__(in_channels=in_channels, out_channels=out_channels, num_classes=num_classes)
        noise_channels = config.model_channels * config.channel_mult_noise
        emb_channels = config.model_channels * config.channel_mult_emb
        self.map_noise: nn.Module
        if config.embedding_type == "positional":
            self.map_noise = PositionalEmbedding(noise_channels, endpoint=True, sine_first=True)
        else:
            self.map_noise = FourierEmbedding(noise_channels, scale=config.fourier_scale, sine_first=True)
        self.map_label = Linear(num_classes, noise_channels, init=INIT) if num_classes else None
        self.map_layer0 = Linear(noise_channels, emb_channels, init=INIT)
        self.map_layer1 = Linear(emb_channels, emb_channels, init=INIT)

        layout = plan(
            config,
            in_channels=in_channels,
            resolution=resolution,
            stem_channels=config.model_channels,
            decoder_attention="last",
        )
        style = Style(
            eps=EPS,
            skip_scale=math.sqrt(0.5),
            adaptive_scale=False,
            project_resampled=True,
            init=INIT,
            init_attention=INIT_ATTENTION,
            init_last=INIT_LAST,
            taps=config.resample_filter,
        )
        residual = config.encoder_type == "residual"
        self.enc = _encoder(layout.encoder, emb_channels, style, residual=residual)
        self.dec = _decoder(layout.decoder, emb_channels, style)
        size = f"{resolution}x{resolution}"
        self.dec[f"{size}_aux_norm"] = group_norm(layout.channels, EPS)
        self.dec[f"{size}_aux_conv"] = Conv2d(layout.channels, out_channels, 3, init=INIT_LAST)

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


def _encoder(cells: tuple[BlockPlan, ...], embedding: int, style: Style, *, residual: bool) -> nn.ModuleDict:
    """The encoder; with ``residual``, a convolution of the level above after each "down" block."""
    modules = nn.ModuleDict()
    aux_channels = cells[0].in_channels
    for cell in cells:
        if cell.role == "stem":
            modules[cell.name] = Conv2d(cell.in_channels, cell.out_channels, 3, init=INIT)
            continue
        modules[cell.name] = _block(cell, embedding, style)
        if residual and cell.role == "down":
            modules[cell.name.removesuffix("down") + "aux_residual"] = Conv2d(
                aux_channels,
                cell.out_channels,
                3,
                init=INIT,
                resampling="down",
                taps=style.taps,
                fused=True,
            )
            aux_channels = cell.out_channels
    return modules


def _decoder(cells: tuple[BlockPlan, ...], embedding: int, style: Style) -> nn.ModuleDict:
    return nn.ModuleDict({cell.name: _block(cell, embedding, style) for cell in cells})


def _block(cell: BlockPlan, embedding: int, style: Style) -> UNetBlock:
    return UNetBlock(cell, embedding=embedding, heads=int(cell.attention), style=style)
