"""What a training costs: parameters and operations counted, hours modelled."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import nn

from couplet import couplings, networks
from couplet.config import Training
from couplet.config.datasets import DatasetConfig
from couplet.config.networks import NetworkConfig, shrink
from couplet.errors import UserError
from couplet.model import ImageShape


class Cost(NamedTuple):
    """Of one training."""

    parameters: int
    """Network and coupling together."""
    flops: int
    """Floating-point operations per image and step; a multiply-add counts as two."""
    forward: int
    """Floating-point operations of the network's forward pass, per image."""

    @property
    def evaluations(self) -> float:
        """Forward passes of the network that a step costs per image; others count by their operations."""
        return self.flops / self.forward

    def hours(self, training: Training, tflops: float) -> float:
        """Hours at a throughput of ``tflops`` TFLOP/s: modelled, not measured."""
        images = training.recipe.steps * training.recipe.batch
        return self.flops * images / (tflops * 1e12) / 3600


def native_shape(dataset: DatasetConfig) -> ImageShape | None:
    """What images of a kind look like before they are prepared; None where only the files tell."""
    if dataset.native is None:
        return None
    resolution, channels = dataset.native
    return ImageShape(channels, resolution, dataset.num_classes)


def cost(training: Training, shape: ImageShape) -> Cost:
    """Parameters and operations of a training, without allocating any of it.

    A step evaluates teacher and student and goes back through the student, at twice a forward's price:
    four forwards. A network that the coupling owns is trained too, three forwards of it; predictions that
    the coupling asks for are forwards of the main network.

    Raises:
        UserError: the recipe's network does not fit the images.
    """
    recipe = training.recipe
    seen = shape if recipe.conditional else shape._replace(num_classes=0)
    owned: list[_Counted] = []

    def make_network(*, out_channels: int, model_channels: int, num_blocks: int) -> nn.Module:
        owned.append(_counted(shrink(recipe.network, model_channels, num_blocks), seen, out_channels))
        return nn.Module()

    try:
        main = _counted(recipe.network, seen, shape.channels)
        with torch.device("meta"):
            setting = couplings.Setting(shape.channels, recipe.sigma_data, make_network)
            coupling = couplings.build(training.coupling, setting)
    except ValueError as error:
        raise UserError(f"recipes.{training.cell.recipe}.network: {error}") from None
    return Cost(
        parameters=sum(p.numel() for p in coupling.parameters()) + sum(n.parameters for n in (main, *owned)),
        flops=round((4 + coupling.predictions) * main.flops) + 3 * sum(network.flops for network in owned),
        forward=main.flops,
    )


class _Counted(NamedTuple):
    """A network's parameters, and the operations of one image's forward pass."""

    parameters: int
    flops: int


def _counted(config: NetworkConfig, shape: ImageShape, out_channels: int) -> _Counted:
    # Counting takes a second, and the rows of a table share networks, some of them but for the dropout.
    return _count(config.model_copy(update={"dropout": 0.0}), shape, out_channels)


@cache
def _count(config: NetworkConfig, shape: ImageShape, out_channels: int) -> _Counted:
    # Imported where it is used: it brings torch's compiler along, four seconds.
    from torch.utils.flop_counter import FlopCounterMode

    channels, resolution, classes = shape
    network = _network(config, shape, out_channels)
    with torch.device("meta"):
        image, level = torch.empty(1, channels, resolution, resolution), torch.empty(1)
        labels = torch.empty(1, classes) if classes else None
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image, level, labels)
    return _Counted(sum(p.numel() for p in network.parameters()), counter.get_total_flops())


def parameters(training: Training, shape: ImageShape) -> int:
    """Parameters of the network alone, without those of the coupling.

    Raises:
        ValueError: the recipe's network does not fit the images.
    """
    seen = shape if training.recipe.conditional else shape._replace(num_classes=0)
    return sum(p.numel() for p in _network(training.recipe.network, seen, shape.channels).parameters())


def _network(config: NetworkConfig, shape: ImageShape, out_channels: int) -> nn.Module:
    """A network that takes no memory."""
    channels, resolution, classes = shape
    with torch.device("meta"):
        return networks.build(
            config,
            in_channels=channels,
            out_channels=out_channels,
            resolution=resolution,
            num_classes=classes,
        )
