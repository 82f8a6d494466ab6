"""Initial weights of a network, from a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from couplet.errors import UserError


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a network's tensors by name, of a model file or of a file of the network alone.

    Raises:
        UserError: the file is missing or is not safetensors.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as safetensors ({error})") from None
    # A model also has the parameters of its coupling, which names of the network alone never begin with.
    inside = {name: tensor for name, tensor in tensors.items() if not name.startswith("coupling.")}
    return {name.removeprefix("network."): tensor for name, tensor in inside.items()}


@dataclass(frozen=True)
class LoadReport:
    """Names that were copied into a network, in its order."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    """Names of the network that the source lacks; these keep their values."""
    unexpected: tuple[str, ...]
    """Names of the source that the network lacks; these are ignored."""

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} tensors loaded"]
        if self.missing:
            lines.append(f"not in the file, left as initialised: {', '.join(self.missing)}")
        if self.unexpected:
            lines.append(f"not in the network, ignored: {', '.join(self.unexpected)}")
        return "\n".join(lines)


def initialise(network: nn.Module, tensors: Mapping[str, Tensor]) -> LoadReport:
    """Copy tensors, by name in the network, into its parameters and persistent buffers.

    Same as EDM's `copy_params_and_buffers` with `require_all=False`. Values are converted to the element
    type and device of the network (EDM2 snapshots are float16). The network changes only if everything fits.

    Raises:
        UserError: a shape differs, with name and both shapes, or no name is shared at all.
    """
    own = network.state_dict()
    loaded = tuple(name for name in own if name in tensors)
    for name in loaded:
        expected, given = tuple(own[name].shape), tuple(tensors[name].shape)
        if given != expected:
            raise UserError(f"{name}: shape {given} in the file, {expected} in the network")
    if not loaded:
        raise UserError(
            "no tensor of the file has a name in this network; choose weights of this architecture"
        )
    for name in loaded:
        own[name].copy_(tensors[name])
    missing = tuple(name for name in own if name not in tensors)
    return LoadReport(loaded, missing, tuple(name for name in tensors if name not in own))
