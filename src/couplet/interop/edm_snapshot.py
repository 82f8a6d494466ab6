"""Reader of EDM and EDM2 snapshots that executes nothing in them.

A snapshot is a pickled dict whose entry `ema` is the network, in NVIDIA's format (repositories
NVlabs/edm and NVlabs/edm2, torch_utils/persistence.py): objects that carry their own Python
source, which the original loader executes. `snapshot_pickle` skips it and describes the objects.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import safetensors.torch
from torch import Tensor

from couplet.errors import UserError
from couplet.files import replacing, sha256
from couplet.interop.snapshot_pickle import PickledModule, PickledTensor, load

# Attribute of the preconditioning that holds the network: EDM's, EDM2's.
_PREFIXES = ("model", "unet")
# Entries of the network that only EDM's augmentation uses.
_AUGMENTATION = "map_augment."
_LONGEST_ARGUMENTS = 50_000  # characters of JSON
_LONGEST_CAUSE = 300


class Snapshot(NamedTuple):
    """Description and tensors of the network in a snapshot."""

    source: Path
    sha256: str
    """Digest of the file, hexadecimal."""
    class_name: str
    """Class of the preconditioned model, such as "EDMPrecond" or "Precond"."""
    network_class: str
    """Class of the network inside it, such as "SongUNet"."""
    prefix: str
    """Name of the network in the model: "model" (EDM) or "unet" (EDM2)."""
    arguments: dict[str, Any]
    """Keyword arguments of the model's constructor, as JSON values."""
    network_arguments: dict[str, Any]
    """Keyword arguments of the network's constructor, as JSON values."""
    tensors: dict[str, Tensor]
    """`ema.state_dict()`: the model's parameters and persistent buffers by name, in the file's order and
    element types, contiguous, each with memory of its own."""


class NetworkTensors(NamedTuple):
    """The tensors of the network alone."""

    tensors: dict[str, Tensor]
    """By name inside the network, without "model." or "unet."."""
    extras: dict[str, tuple[int, ...]]
    """Names in the snapshot, with shapes, of the tensors left out: those outside the network
    (`logvar_linear.weight`) and those of data augmentation (`model.map_augment.weight`)."""


def read_snapshot(path: Path | str) -> Snapshot:
    """Read the network in a snapshot pickle of EDM or EDM2. Needs memory of twice the file's size.

    Raises:
        UserError: the file cannot be read, is damaged, is not such a snapshot, or refers to
            anything that such a snapshot does not need. The message names file and cause.
    """
    path = Path(path)
    digest = sha256(path)
    try:
        return _snapshot(path, digest, load(path.read_bytes()))
    except Exception as error:  # damage can make Python, numpy and torch raise nearly anything
        cause = str(error)
        if not isinstance(error, UnpicklingError):
            cause = f"damaged ({type(error).__name__}: {cause})"
        printable = "".join(c if c.isprintable() else "?" for c in cause[:_LONGEST_CAUSE])
        raise UserError(f"{path}: not a usable EDM snapshot: {printable}") from error


def _snapshot(path: Path, digest: str, content: Any) -> Snapshot:
    whole = content.get("ema") if isinstance(content, dict) else None
    if not isinstance(whole, PickledModule):
        raise UnpicklingError("not a dict whose entry 'ema' is a network")
    modules = _section(whole, "_modules")
    prefixes = [name for name in _PREFIXES if isinstance(modules.get(name), PickledModule)]
    if len(prefixes) != 1:
        raise UnpicklingError("entry 'ema' does not wrap one network, under 'model' or 'unet'")
    network = modules[prefixes[0]]
    tensors = dict(_tensors(whole, "", set()))
    if sum(tensor.nbytes for tensor in tensors.values()) > path.stat().st_size:
        raise UnpicklingError("tensors add up to more than the file")
    return Snapshot(
        source=path,
        sha256=digest,
        class_name=whole.class_name,
        network_class=network.class_name,
        prefix=prefixes[0],
        arguments=_arguments(whole),
        network_arguments=_arguments(network),
        tensors={name: tensor.read() for name, tensor in tensors.items()},
    )


def _tensors(module: PickledModule, prefix: str, seen: set[int]) -> Iterator[tuple[str, PickledTensor]]:
    """Yield parameters and persistent buffers by full name, in the order of `state_dict`."""
    if id(module) in seen:  # a module may contain itself
        raise UnpicklingError(f"module {prefix!r} occurs twice")
    seen.add(id(module))
    parameters, buffers = _section(module, "_parameters"), _section(module, "_buffers")
    transient = (module.state or {}).get("_non_persistent_buffers_set", set())
    if not isinstance(transient, set):
        raise UnpicklingError(f"{prefix!r} has a malformed set of buffers")
    persistent = {name: buffer for name, buffer in buffers.items() if name not in transient}
    for name, tensor in (*parameters.items(), *persistent.items()):
        if isinstance(tensor, PickledTensor):
            yield prefix + name, tensor
        elif tensor is not None:
            raise UnpicklingError(f"{prefix + name!r} is no tensor")
    for name, child in _section(module, "_modules").items():
        if isinstance(child, PickledModule):
            yield from _tensors(child, f"{prefix}{name}.", seen)
        elif child is not None:
            raise UnpicklingError(f"{prefix + name!r} is no module")


def _section(module: PickledModule, section: str) -> dict[str, Any]:
    """Return a module's dict of parameters, buffers or submodules."""
    entries = (module.state or {}).get(section)
    if not isinstance(entries, dict):
        raise UnpicklingError(f"a {module.class_name} without {section}: not a network")
    for name in entries:
        if type(name) is not str or not name or "." in name or not name.isprintable():
            raise UnpicklingError(f"a {module.class_name} with an impossible name in {section}")
    return entries


def _arguments(module: PickledModule) -> dict[str, Any]:
    """Return the constructor's keyword arguments; positional ones, if any, under 'positional'."""
    state = module.state or {}
    arguments = dict(state.get("_init_kwargs", {}))
    if state.get("_init_args"):
        arguments["positional"] = state["_init_args"]
    encoder = json.JSONEncoder(default=lambda value: f"<{type(value).__name__.lstrip('_')}>")
    text = ""
    for piece in encoder.iterencode(arguments):
        text += piece
        if len(text) > _LONGEST_ARGUMENTS:  # shared lists can hold far more than the file
            raise UnpicklingError("constructor arguments are too large")
    return json.loads(text, parse_constant=str)


def network_tensors(snapshot: Snapshot) -> NetworkTensors:
    """Split a snapshot's tensors: those of the network, by this package's names, and the rest."""
    inside = f"{snapshot.prefix}."
    tensors: dict[str, Tensor] = {}
    extras: dict[str, tuple[int, ...]] = {}
    for name, tensor in snapshot.tensors.items():
        short = name.removeprefix(inside)
        if name.startswith(inside) and not short.startswith(_AUGMENTATION):
            tensors[short] = tensor
        else:
            extras[name] = tuple(tensor.shape)
    return NetworkTensors(tensors, extras)


def write_model(snapshot: Snapshot, out: Path | str) -> NetworkTensors:
    """Write the network of a snapshot as a safetensors file, atomically.

    The file's metadata has one entry, `couplet`: JSON with `source` (file name), `sha256` (of
    the snapshot), `class`, `network_class`, `arguments`, `network_arguments` and `extras` (names
    and shapes of the tensors left out). The same snapshot gives the same bytes.

    Returns:
        The tensors written, and those left out.

    Raises:
        UserError: the network has no tensors, or the file cannot be written.
    """
    network = network_tensors(snapshot)
    if not network.tensors:
        raise UserError(f"{snapshot.source}: the network has no tensors")
    origin = {
        "source": snapshot.source.name,
        "sha256": snapshot.sha256,
        "class": snapshot.class_name,
        "network_class": snapshot.network_class,
        "arguments": snapshot.arguments,
        "network_arguments": snapshot.network_arguments,
        "extras": network.extras,
    }
    # One entry: safetensors does not write several in a fixed order.
    metadata = {"couplet": json.dumps(origin, sort_keys=True)}
    with replacing(Path(out)) as temporary:
        temporary.write_bytes(safetensors.torch.save(network.tensors, metadata))
    return network


def import_edm(source: Path, out: Path) -> str:
    """Write the network of a snapshot as a safetensors file for `init_from`; return a summary for users.

    Args:
        source: snapshot pickle of EDM or EDM2.
        out: safetensors file to write; replaced if it exists, unchanged on any error.

    Raises:
        UserError: the snapshot is unusable or `out` cannot be written.
    """
    snapshot = read_snapshot(source)
    network = write_model(snapshot, out)
    elements = sum(tensor.numel() for tensor in network.tensors.values())
    lines = [
        f"{source} (sha256 {snapshot.sha256}): {snapshot.class_name}({snapshot.network_class})",
        f"{out}: {len(network.tensors)} tensors, {elements} elements",
    ]
    if network.extras:
        lines.append(f"left out: {', '.join(network.extras)}")
    return "\n".join(lines)
