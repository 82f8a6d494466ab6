"""Network, kernel and coupling as one module, and its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from couplet.config.cells import Training
from couplet.config.networks import NetworkConfig
from couplet.config.variants import build as build_variant
from couplet.couplings.base import Coupling, Setting
from couplet.errors import UserError
from couplet.kernels import Kernel, time_embedding_input
from couplet.networks.base import Network
from couplet.tensors import load_tensors, per_image, save_tensors


class ImageShape(NamedTuple):
    """Facts of a data set that determine a model's shape."""

    channels: int
    resolution: int
    num_classes: int
    """0 for a data set without labels."""


class ConsistencyModel(nn.Module):
    """``f(x, t) = c_skip(t) x + c_out(t) F(c_in(t) x, ln(t)/4)`` with the coupling it is trained with."""

    def __init__(self, network: nn.Module, coupling: Coupling, kernel: Kernel) -> None:
        super().__init__()
        self.network, self.coupling, self.kernel = network, coupling, kernel

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None, *, boundary: bool) -> Tensor:
        """The clean image [b, c, h, w], float32, for a noisy one.

        Args:
            x: noisy images, [b, c, h, w], any floating type; computed in float32.
            t: noise levels > 0, [b] or [1].
            labels: one-hot classes [b, k], or None.
            boundary: shift the preconditioning so that f(x, sigma_min) = x exactly.
        """
        x, t = x.float(), t.float()
        c_skip, c_out, c_in = (per_image(c, x) for c in self.kernel.scalings(t, boundary=boundary))
        inner = self.network(c_in * x, time_embedding_input(t), labels)
        return c_skip * x + c_out * inner.float()

    def normalize_weights_(self) -> None:
        """Normalise the stored weights of networks that need it (EDM2); call once per training step."""
        for module in self.modules():
            if isinstance(module, Network):
                module.normalize_weights_()


def build(training: Training, shape: ImageShape) -> ConsistencyModel:
    """Build a model with initial weights from torch's default generator.

    Raises:
        UserError: the recipe's network does not fit the images.
    """
    recipe = training.recipe
    sizes = {
        "in_channels": shape.channels,
        "resolution": shape.resolution,
        "num_classes": shape.num_classes if recipe.conditional else 0,
    }

    def make_network(*, out_channels: int, model_channels: int, num_blocks: int) -> nn.Module:
        config = resized(recipe.network, model_channels=model_channels, num_blocks=num_blocks)
        return build_variant(config, out_channels=out_channels, **sizes)

    context = {"sigma_min": recipe.sigma_min, "sigma_max": recipe.sigma_max, "sigma_data": recipe.sigma_data}
    try:
        network = build_variant(recipe.network, out_channels=shape.channels, **sizes)
        coupling = build_variant(training.coupling, Setting(shape.channels, recipe.sigma_data, make_network))
        return ConsistencyModel(network, coupling, build_variant(training.kernel, **context))
    except ValueError as error:
        raise UserError(f"recipes.{training.cell.recipe}.network: {error}") from None


def resized(config: NetworkConfig, *, model_channels: int, num_blocks: int) -> NetworkConfig:
    """``config`` with other numbers of channels and blocks: the network of a coupling's encoder (VCT).

    Everything else, dropout included, is as in the main network.

    Raises:
        pydantic.ValidationError: a number is not positive.
    """
    changed = {"model_channels": model_channels, "num_blocks": num_blocks}
    return type(config).model_validate(config.model_dump() | changed)


class Saved(NamedTuple):
    """Content of a model file besides the weights."""

    training: Training
    shape: ImageShape
    step: int


def save(path: Path, model: ConsistencyModel, saved: Saved) -> None:
    """Write weights, and the configuration that rebuilds the model, as one safetensors file."""
    described = {
        "training": saved.training.model_dump(mode="json"),
        "shape": saved.shape._asdict(),
        "step": saved.step,
    }
    save_tensors(path, model.state_dict(), couplet=json.dumps(described, sort_keys=True))


def load(path: Path, device: torch.device) -> tuple[ConsistencyModel, Saved]:
    """Load a file of :func:`save`; the model is in evaluation mode.

    Raises:
        UserError: the file is missing, damaged, or not a model of couplet.
    """
    try:
        texts, tensors = load_tensors(path, device)
        described: dict[str, Any] = json.loads(texts["couplet"])
        training, shape = Training.model_validate(described["training"]), ImageShape(**described["shape"])
        saved = Saved(training, shape, int(described["step"]))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as safetensors ({error})") from None
    except (KeyError, ValueError, TypeError):
        raise UserError(f"{path}: not a model that couplet saved; expected its header") from None
    model = build(training, shape).to(device)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        cause = " ".join(str(error).split())
        raise UserError(f"{path}: weights do not fit their configuration: {cause}") from None
    return model.eval(), saved
