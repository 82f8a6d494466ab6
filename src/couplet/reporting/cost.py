"""What a training costs: parameters and operations counted, hours modelled."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from couplet import networks
from couplet.config import Training
from couplet.model import ImageShape, build


class Cost(NamedTuple):
    """Of one training."""

    parameters: int
    """Network and coupling together."""
    flops: int
    """Floating-point operations per image and step; a multiply-add counts as two."""

    def hours(self, training: Training, tflops: float) -> float:
        """Hours at a throughput of ``tflops`` TFLOP/s: modelled, not measured."""
        images = training.recipe.steps * training.recipe.batch
        return self.flops * images / (tflops * 1e12) / 3600


def cost(training: Training, shape: ImageShape) -> Cost:
    """Parameters and operations of a training, without allocating any of it.

    A step evaluates teacher and student and goes back through the student, at twice a forward's price:
    four forwards. A network that the coupling owns is trained too, three forwards of it; predictions that
    the coupling asks for are forwards of the main network.

    Raises:
        UserError: the recipe's network does not fit the images.
    """
    # Counting takes a second, and the rows of a table share networks.
    recipe = training.recipe
    key = (recipe.network.model_dump_json(), recipe.conditional, training.coupling.model_dump_json(), shape)
    if key not in _COUNTED:
        _COUNTED[key] = _count(training, shape)
    return _COUNTED[key]


_COUNTED: dict[tuple[str, bool, str, ImageShape], Cost] = {}


def _count(training: Training, shape: ImageShape) -> Cost:
    with torch.device("meta"):
        model = build(training, shape)
    owned = [part for part in model.coupling.modules() if isinstance(part, networks.Network)]
    own = sum(_forward(network, training, shape) for network in owned)
    forward = _forward(model.network, training, shape)
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        flops=round((4 + model.coupling.predictions) * forward + 3 * own),
    )


def _forward(network: torch.nn.Module, training: Training, shape: ImageShape) -> int:
    """Operations of one image's forward pass through a network on the meta device."""
    with torch.device("meta"):
        image = torch.empty(1, shape.channels, shape.resolution, shape.resolution)
        labels = torch.empty(1, shape.num_classes) if training.recipe.conditional else None
        level = torch.empty(1)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image, level, labels)
    return counter.get_total_flops()
