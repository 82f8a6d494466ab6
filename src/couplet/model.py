"""Network, kernel and coupling as one module, and its file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from couplet.config.cells import Training
from couplet.config.designs import Design, Imported, SamplerConfig
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


def build(design: Design, shape: ImageShape, at: str = "network") -> ConsistencyModel:
    """Build a model with initial weights from torch's default generator.

    Raises:
        UserError: the network, whose key is ``at``, does not fit the images.
    """
    sizes = {
        "in_channels": shape.channels,
        "resolution": shape.resolution,
        "num_classes": shape.num_classes if design.conditional else 0,
    }

    def make_network(*, out_channels: int, model_channels: int, num_blocks: int) -> nn.Module:
        config = resized(design.network, model_channels=model_channels, num_blocks=num_blocks)
        return build_variant(config, out_channels=out_channels, **sizes)

    context = {"sigma_min": design.sigma_min, "sigma_max": design.sigma_max, "sigma_data": design.sigma_data}
    try:
        network = build_variant(design.network, out_channels=shape.channels, **sizes)
        coupling = build_variant(design.coupling, Setting(shape.channels, design.sigma_data, make_network))
        return ConsistencyModel(network, coupling, build_variant(design.kernel, **context))
    except ValueError as error:
        raise UserError(f"{at}: {error}") from None


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

    of: Training | Imported
    """The run that trained it, or what is known of a model that others trained."""
    shape: ImageShape
    step: int = 0
    """Steps of the run; 0 for an imported model."""

    @property
    def training(self) -> Training | None:
        """The run that trained it; None for an imported model."""
        return self.of if isinstance(self.of, Training) else None

    @property
    def sampler(self) -> SamplerConfig:
        """How its authors make images from it; UserError for a diffusion model."""
        if self.of.sampler is None:
            raise UserError(
                "a diffusion model, which makes no images in a few steps (a recipe's init_from takes it)"
            )
        return self.of.sampler

    @property
    def conditional(self) -> bool:
        """Whether the network is given classes."""
        return self.of.design.conditional


def save(path: Path, model: ConsistencyModel, saved: Saved) -> None:
    """Write a model as one safetensors file."""
    write(path, model.state_dict(), saved)


def write(path: Path, tensors: Mapping[str, Tensor], saved: Saved) -> None:
    """Write weights, and the configuration that rebuilds the model, as one safetensors file."""
    described = {
        "imported" if saved.training is None else "training": saved.of.model_dump(mode="json"),
        "shape": saved.shape._asdict(),
        "step": saved.step,
    }
    save_tensors(path, tensors, couplet=json.dumps(described, sort_keys=True))


def load(path: Path, device: torch.device) -> tuple[ConsistencyModel, Saved]:
    """Load a file of :func:`save`; the model is in evaluation mode.

    Raises:
        UserError: the file is missing, damaged, or not a model of couplet.
    """
    try:
        texts, tensors = load_tensors(path, device)
        described: dict[str, Any] = json.loads(texts["couplet"])
        of: Training | Imported
        if "imported" in described:
            of = Imported.model_validate(described["imported"])
        else:
            of = Training.model_validate(described["training"])
        saved = Saved(of, ImageShape(**described["shape"]), int(described["step"]))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as safetensors ({error})") from None
    except (KeyError, ValueError, TypeError):
        raise UserError(f"{path}: not a model that couplet saved; expected its header") from None
    model = build(saved.of.design, saved.shape, at=f"{path}: network").to(device)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        cause = " ".join(str(error).split())
        raise UserError(f"{path}: weights do not fit their configuration: {cause}") from None
    return model.eval(), saved
