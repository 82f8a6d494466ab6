"""DINOv2 as dgm-eval runs it: the class token of a vision transformer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from couplet.config.extractors import DinoV2Config
from couplet.errors import UserError
from couplet.metrics.extractor.base import Extractor, Pixels, read_weights, rgb, tensors

SIDE = 224
"""Pixels per side that the network sees."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's channels, on the scale 0 to 1."""


class DinoV2Extractor(Extractor):
    """Features are the normalised class token; there are no logits."""

    def __init__(self, config: DinoV2Config, folder: Path, device: torch.device) -> None:
        path, content = read_weights(config)
        super().__init__(config, folder, device, digest=config.sha256)
        self.batch = config.batch
        self.model = _transformer(config.architecture)
        try:
            # DINOv2's and timm's files have the same names; the mask token is used only in training.
            state = {name: value for name, value in tensors(path, content).items() if name != "mask_token"}
            side = round((self.model.get_parameter("pos_embed").shape[1] - 1) ** 0.5)
            state["pos_embed"] = positions_at(state["pos_embed"], side)
            self.model.load_state_dict(state)
        except (RuntimeError, KeyError):
            raise UserError(f"{path}: not weights of {config.architecture}") from None
        self.model.to(device).eval()
        self.mean, self.std = (torch.tensor(v, device=device).reshape(1, 3, 1, 1) for v in (MEAN, STD))

    def prepare(self, images: Pixels) -> Tensor:
        """Resize to uint8 [b, 3, 224, 224] by PIL's bicubic, whatever the aspect."""
        from PIL import Image

        resized = [
            np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
            for image in rgb(images)
        ]
        return torch.from_numpy(np.stack(resized).transpose(0, 3, 1, 2))

    def network(self, prepared: Tensor) -> tuple[Tensor, None]:
        return self.model((prepared.float() / 255 - self.mean) / self.std), None


def _transformer(architecture: str) -> nn.Module:
    """Build timm's vision transformer of that name for 224 × 224 pixels, without a head."""
    import timm

    try:
        model = timm.create_model(architecture, pretrained=False, img_size=SIDE, num_classes=0)
    except (RuntimeError, TypeError, ValueError):
        model = None
    if not isinstance(model, timm.models.VisionTransformer):
        raise UserError(f"architecture = {architecture!r}: timm has no vision transformer of this name")
    return model


def positions_at(embedding: Tensor, side: int) -> Tensor:
    """Interpolate a position embedding [1, 1 + m², d], class token first, to a grid of ``side``² patches.

    As in DINOv2's own code and unlike timm's: bicubic without antialiasing, scaled by (side + 0.1)/m.
    """
    token, grid = embedding[:, :1], embedding[:, 1:]
    before = round(grid.shape[1] ** 0.5)
    if before == side:
        return embedding
    grid = grid.reshape(1, before, before, -1).permute(0, 3, 1, 2)
    scale = (side + 0.1) / before
    grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([token, grid.flatten(2).transpose(1, 2)], dim=1)
