"""Inception as clean-fid runs it: its resizing function, image by image, and its networks."""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from couplet.config.extractors import InceptionConfig
from couplet.errors import UserError
from couplet.metrics.extractor.base import Extractor, Pixels, read_weights, rgb, tensors


class InceptionExtractor(Extractor):
    """Features are the 2048 averages before the last layer; logits are that layer without its bias.

    The Inception Scores of the original code, StyleGAN, ECT and torchmetrics leave out the bias as well.
    """

    config: InceptionConfig

    def __init__(self, config: InceptionConfig, folder: Path, device: torch.device) -> None:
        path, content = read_weights(config)
        super().__init__(config, folder, device, digest=config.sha256)
        self.batch = config.batch
        load = _pytorch_fid if config.mode == "legacy_pytorch" else _torchscript
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # TorchScript and torchvision's `pretrained` are deprecated
                from cleanfid.resize import build_resizer

                self.resize: Callable[[Any], Any] = build_resizer(config.mode)
                self.features, self.output = load(config.mode, path, content, device)
        except (RuntimeError, AttributeError, KeyError, ValueError):
            raise UserError(f"{path}: not the Inception network of mode {config.mode}") from None

    @property
    def name(self) -> str:
        """``inception-f58cb9b6``; modes other than clean-fid's own are in between."""
        mode = "" if self.config.mode == "clean" else f"-{self.config.mode}"
        return f"{self.config.kind}{mode}-{self.digest[:8]}"

    def prepare(self, images: Pixels) -> Tensor:
        """Resize to [b, 3, 299, 299] in [0, 255]; in mode legacy_tensorflow the network itself resizes."""
        if self.config.mode == "legacy_tensorflow":
            return torch.from_numpy(np.ascontiguousarray(rgb(images).transpose(0, 3, 1, 2))).float()
        resized = np.stack([self.resize(image) for image in rgb(images)])
        return torch.from_numpy(resized).permute(0, 3, 1, 2)

    def network(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        # The resized images are channels_last, which is faster on the CPU and equal up to rounding.
        features = self.features(prepared if self.device.type == "cpu" else prepared.contiguous())
        return features, F.linear(features, self.output)


Network = tuple[Callable[[Tensor], Tensor], Tensor]
"""Features of prepared images, and the weights [k, d] of the last layer."""


def _torchscript(mode: str, path: Path, content: bytes, device: torch.device) -> Network:
    """Load the network of `cleanfid.inception_torchscript`, with the file from memory instead of /tmp."""
    network = torch.jit.load(io.BytesIO(content), map_location=device).eval()
    layers = network.layers

    def features(images: Tensor) -> Tensor:
        if mode == "clean":
            return layers((images - 128) / 128).flatten(1)
        return network(images, return_features=True).flatten(1)

    return features, network.output.weight


def _pytorch_fid(mode: str, path: Path, content: bytes, device: torch.device) -> Network:
    """Load the network of `cleanfid.inception_pytorch`, which reads its weights from torch's cache."""
    from cleanfid import inception_pytorch

    state = tensors(path, content)
    cache = torch.hub.get_dir()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "checkpoints", inception_pytorch.FID_WEIGHTS_URL.rpartition("/")[2])
        file.parent.mkdir()
        torch.save(state, file)
        torch.hub.set_dir(folder)
        try:
            network = inception_pytorch.InceptionV3(output_blocks=[3], resize_input=False)
        finally:
            torch.hub.set_dir(cache)
    network.to(device).eval()

    def features(images: Tensor) -> Tensor:
        return network(images / 255)[0].flatten(1)

    return features, state["fc.weight"].to(device)
