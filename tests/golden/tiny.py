"""The one-layer network that the vectors of losses and sampling were computed with."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from harness import Group
from torch import Tensor, nn

from couplet.config import couplings as config
from couplet.config.recipes import KernelConfig
from couplet.config.variants import build
from couplet.couplings.base import Coupling, Setting
from couplet.kernels import Kernel
from couplet.model import ConsistencyModel
from couplet.networks.base import Network

TIME = {"tanh": torch.tanh, "sin": torch.sin}


class Tiny(Network):
    """``conv3x3(x; W, b) * (1 + 0.1 time(c))``, plus ``y @ U`` at every pixel where there is a U.

    With ``time = "sin"`` the output is NaN at ``c = -inf``, as with a sinusoidal embedding.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor, labels: Tensor | None = None, time: str = "tanh"
    ) -> None:
        super().__init__(
            in_channels=weight.shape[1],
            out_channels=weight.shape[0],
            num_classes=0 if labels is None else labels.shape[0],
        )
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)
        self.labels = None if labels is None else nn.Parameter(labels)
        self.time = TIME[time]
        self.noise_labels: list[Tensor] = []

    def forward(self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None = None) -> Tensor:
        assert x.dtype == noise_labels.dtype == self.weight.dtype
        self.noise_labels.append(noise_labels.detach())
        factor = (1 + 0.1 * self.time(noise_labels))[:, None, None, None]
        out = nn.functional.conv2d(x, self.weight, self.bias, padding=1) * factor
        if self.labels is not None:
            out = out + (self.label_rows(class_labels, x) @ self.labels)[:, :, None, None]
        return out

    def gradients(self, suffix: str = "") -> Mapping[str, Tensor | None]:
        """Gradients under their names in the vectors, e.g. ``grad_W_enc``."""
        gradients = {f"grad_W{suffix}": self.weight.grad, f"grad_b{suffix}": self.bias.grad}
        if self.labels is not None:
            gradients[f"grad_U{suffix}"] = self.labels.grad
        return gradients


def floats(group: Group, array: str) -> Tensor:
    """A stored array in its own precision, or in double precision where that is the default."""
    values = group.tensor(array)
    return values.to(torch.promote_types(values.dtype, torch.get_default_dtype()))


def network(group: Group, case: str, suffix: str = "", time: str = "tanh") -> Tiny:
    """The network of a case; ``suffix`` is ``_enc`` or ``_ema`` for another than the main one."""
    labels = f"{case}/U{suffix}"
    return Tiny(
        floats(group, f"{case}/W{suffix}"),
        floats(group, f"{case}/b{suffix}"),
        floats(group, labels) if group.has(labels) else None,
        time,
    )


def kernel_of(name: str, sigma_min: float, sigma_max: float, sigma_data: float) -> Kernel:
    """The kernel that the vectors call ``name``; linear interpolation is "cot" in VCT's code."""
    kinds = {"ve": "ve", "cot": "li"}
    long = {"variance exploding": "ve", "linear interpolation": "cot"}
    settings = KernelConfig.parse(kinds[long.get(name.split(" (")[0], name)])
    levels = {"sigma_min": float(sigma_min), "sigma_max": float(sigma_max), "sigma_data": sigma_data}
    kernel: Kernel = build(settings, **levels)
    return kernel


def coupling_of(group: Group, case: str, settings: config.CouplingConfig) -> Coupling:
    """Our coupling; where it wants an encoder, that of the case."""

    def encoder(**size: int) -> Tiny:
        made = network(group, case, "_enc")
        assert made.out_channels == size["out_channels"]
        return made

    channels = group.get(f"{case}/W").shape[0]
    sigma_data = group.cases[case]["sigma_data"]
    return build(settings, Setting(channels, sigma_data, encoder))


def model_of(
    group: Group,
    case: str,
    kernel: Kernel,
    settings: config.CouplingConfig,
    suffix: str = "",
    time: str = "tanh",
) -> ConsistencyModel:
    """Our model around the network of a case."""
    coupling = coupling_of(group, case, settings)
    return ConsistencyModel(network(group, case, suffix, time), coupling, kernel)


def labels_of(group: Group, case: str) -> Tensor | None:
    """The one-hot classes of a case, if it has any."""
    name = f"{case}/labels"
    return floats(group, name) if group.has(name) else None
