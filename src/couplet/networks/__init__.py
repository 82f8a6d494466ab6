"""The networks: U-Nets of the EDM family, whose published weights load by name, and a perceptron."""

from __future__ import annotations

from collections.abc import Callable

from couplet.config.networks import (
    ADMConfig,
    DDPMPlusPlusConfig,
    EDM2Config,
    MLPConfig,
    NCSNPlusPlusConfig,
    NetworkConfig,
)
from couplet.networks.adm import ADM
from couplet.networks.base import Network
from couplet.networks.edm2 import EDM2
from couplet.networks.mlp import MLP
from couplet.networks.song import SongUNet

__all__ = ["ADM", "EDM2", "MLP", "REGISTRY", "Network", "SongUNet", "build"]

REGISTRY: dict[type[NetworkConfig], Callable[..., Network]] = {
    DDPMPlusPlusConfig: SongUNet,
    NCSNPlusPlusConfig: SongUNet,
    ADMConfig: ADM,
    EDM2Config: EDM2,
    MLPConfig: MLP,
}
"""The network of each class of configuration; a plug-in adds its own."""


def build(
    config: NetworkConfig,
    *,
    in_channels: int,
    out_channels: int,
    resolution: int,
    num_classes: int = 0,
) -> Network:
    """The network that ``config`` describes, with weights from torch's default generator.

    Args:
        config: kind and size of the network.
        in_channels: channels of the input.
        out_channels: channels of the output.
        resolution: height of the images in pixels.
        num_classes: length of a row of class labels; 0 for a network without labels.

    Raises:
        TypeError: there is no network for this class of configuration.
        ValueError: the resolution or a number of channels does not fit ``config``.
    """
    if type(config) not in REGISTRY:
        known = ", ".join(sorted(known.__name__ for known in REGISTRY))
        raise TypeError(f"no network for a {type(config).__name__}; known: {known}")
    return REGISTRY[type(config)](
        config,
        in_channels=in_channels,
        out_channels=out_channels,
        resolution=resolution,
        num_classes=num_classes,
    )
