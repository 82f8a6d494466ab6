"""Cost of a run: parameters and operations, counted, and hours, modelled."""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

import torch
from torch import nn

from couplet.config.cells import Training
from couplet.config.datasets import DatasetConfig
from couplet.config.networks import NetworkConfig
from couplet.config.variants import build
from couplet.couplings.base import Setting
from couplet.errors import UserError
from couplet.model import ImageShape, resized


class Cost(NamedTuple):
    """The cost of one run."""

    parameters: int
    """Network and coupling together."""
    flops: int
    """Floating-point operations per image and step; a multiply-add counts as two."""
    forward: int
    """Floating-point operations of the network's forward pass, per image."""

    @property
    def evaluations(self) -> float:
        """The cost of a step per image in forward passes of the main network."""
        return self.flops / self.forward

    def hours(self, training: Training, tflops: float) -> float:
        """Hours of the run at a throughput of ``tflops`` TFLOP/s: modelled, not measured."""
        images = training.recipe.steps * training.recipe.batch
        return self.flops * images / (tflops * 1e12) / 3600


PEAKS: dict[str, dict[str, float]] = {
    "NVIDIA A100": {"float32": 19.5, "tf32": 156, "bf16": 312},
    "NVIDIA H100 80GB HBM3": {"float32": 67, "tf32": 494, "bf16": 989},
    "NVIDIA H100 PCIe": {"float32": 51, "tf32": 378, "bf16": 756},
    "NVIDIA H200": {"float32": 67, "tf32": 494, "bf16": 989},
}
"""TFLOP/s of GPUs by the beginning of their name and `train.precision`; NVIDIA's data sheets, dense."""


def peak_tflops(device: str, precision: str) -> float | None:
    """TFLOP/s that the GPU of that name can do in a precision; None where that is not known."""
    known = [peaks[precision] for name, peaks in PEAKS.items() if re.match(rf"{name}(?!\s*NVL)\b", device)]
    return known[0] if known else None


def native_shape(dataset: DatasetConfig) -> ImageShape | None:
    """Shape of a data set's images before they are prepared; None where only its files know it."""
    if dataset.native is None:
        return None
    _, resolution, channels = dataset.native
    return ImageShape(channels, resolution, dataset.num_classes or 0)


def cost(training: Training, shape: ImageShape) -> Cost:
    """Count parameters and operations of a run, without allocating any of it.

    A step costs four forward passes of the main network: the teacher's, the student's, and the student's
    backward pass, which costs two. A network that the coupling owns costs three passes of its own. Each
    prediction that the coupling asks for costs one more pass of the main network.

    Raises:
        UserError: the recipe's network does not fit the images.
    """
    recipe = training.recipe
    # Rows of a table share networks, some of them except for the dropout.
    shared = recipe.network.model_copy(update={"dropout": 0.0})
    shape_seen = _conditioned(training, shape)
    owned: list[tuple[int, int]] = []

    def make_network(*, out_channels: int, model_channels: int, num_blocks: int) -> nn.Module:
        config = resized(shared, model_channels=model_channels, num_blocks=num_blocks)
        owned.append(_counted(config, shape_seen, out_channels))
        return nn.Module()

    try:
        size, forward = _counted(shared, shape_seen, shape.channels)
        with torch.device("meta"):
            coupling = build(training.coupling, Setting(shape.channels, recipe.sigma_data, make_network))
    except ValueError as error:
        raise UserError(f"recipes.{training.cell.recipe}.network: {error}") from None
    return Cost(
        parameters=_size(coupling) + size + sum(parameters for parameters, _ in owned),
        flops=round((4 + coupling.predictions) * forward) + 3 * sum(flops for _, flops in owned),
        forward=forward,
    )


@cache
def _counted(config: NetworkConfig, shape: ImageShape, out_channels: int) -> tuple[int, int]:
    """A network's parameters, and the operations of one image's forward pass."""
    # Imports torch's compiler, which takes four seconds.
    from torch.utils.flop_counter import FlopCounterMode

    network = _network(config, shape, out_channels)
    with torch.device("meta"):
        image, level = torch.empty(1, shape.channels, shape.resolution, shape.resolution), torch.empty(1)
        labels = torch.empty(1, shape.num_classes) if shape.num_classes else None
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image, level, labels)
    return _size(network), counter.get_total_flops()


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def parameters(training: Training, shape: ImageShape) -> int:
    """Count the parameters of the network; ValueError if it does not fit the images."""
    return _size(_network(training.recipe.network, _conditioned(training, shape), shape.channels))


def _conditioned(training: Training, shape: ImageShape) -> ImageShape:
    """The shape as the network sees it: without classes unless the recipe is conditional."""
    return shape if training.recipe.conditional else shape._replace(num_classes=0)


def _network(config: NetworkConfig, shape: ImageShape, out_channels: int) -> nn.Module:
    """A network that takes no memory."""
    channels, resolution, classes = shape
    sizes = {"in_channels": channels, "resolution": resolution, "num_classes": classes}
    with torch.device("meta"):
        network: nn.Module = build(config, out_channels=out_channels, **sizes)
    return network
