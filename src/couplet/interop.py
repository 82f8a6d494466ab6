"""Reader of EDM and EDM2 snapshots that executes nothing in them.

A snapshot is a pickled dict whose entry `ema` is the network, in NVIDIA's format (repositories NVlabs/edm and
NVlabs/edm2, torch_utils/persistence.py): objects that carry their own Python source, which the original
loader executes.

Python's unpickler calls whatever a pickle names. Ours looks each name up in a table of stand-ins that only
describe the content, and refuses every other name. Before that, one pass over the opcodes refuses those that
bypass the table, or that claim more time and memory than the pickle's size justifies.
"""

from __future__ import annotations

import json
import math
import pickle
import pickletools
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from couplet.errors import UserError
from couplet.files import replacing, sha256

# Without EXT1, EXT2 and EXT4, which take objects from a registry and bypass `find_class`, and without
# text opcodes.
_OPCODES = frozenset(
    """
    PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT
    SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8
    EMPTY_DICT EMPTY_LIST EMPTY_SET EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    APPEND APPENDS ADDITEMS SETITEM SETITEMS MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET
    GLOBAL STACK_GLOBAL REDUCE NEWOBJ BUILD BINPERSID POP
    """.split()  # noqa: SIM905
)
_MOST_OPCODES = 2_000_000  # a snapshot needs about a hundred per tensor
_HEAVIEST = 1000  # weight of a tuple, see `_check`
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_NETWORKS = ("model", "unet")  # attribute of EDM's and of EDM2's preconditioning that holds the network
_LONGEST_ARGUMENTS = 50_000  # characters of JSON
_LONGEST_CAUSE = 300
# fmt: off
_STORAGES = {
    ("torch", f"{name}Storage"): dtype for name, dtype in {
        "Half": torch.float16, "BFloat16": torch.bfloat16, "Float": torch.float32,
        "Double": torch.float64, "Char": torch.int8, "Short": torch.int16, "Int": torch.int32,
        "Long": torch.int64, "Byte": torch.uint8, "Bool": torch.bool,
    }.items()
}
# fmt: on


class _Inert:
    """A stand-in that a pickle can create, and nothing else.

    Without `__setstate__`, a pickle could set any attribute of an instance. Called on the class
    itself it lacks `self`, so that a pickle cannot set attributes of the class either.
    """

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Dict(dict[Any, Any], _Inert):
    """An OrderedDict, or the EasyDict that EDM2 writes."""


class _Module(_Inert):
    """A persistent object of EDM, without its source code, or torch's ModuleDict."""

    class_name = "ModuleDict"
    state: dict[Any, Any] = {}

    def __init__(self, meta: Any) -> None:
        self.class_name, self.state = meta["class_name"], meta["state"] or {}
        if meta["type"] != "class" or (type(self.class_name), type(self.state)) != (str, dict):
            raise UnpicklingError("a persistent object without class name or state")

    def __setstate__(self, state: Any) -> None:
        if type(state) is not dict:
            raise UnpicklingError("a module whose state is no dict")
        self.state = state


class _Method(_Inert):
    """A method of a persistent object, as the attribute of an object."""

    def __init__(self, owner: Any, name: Any) -> None:
        if not isinstance(owner, _Module) or type(name) is not str:
            raise UnpicklingError("calls getattr, which is not allowed")


class _Storage(_Inert):
    """The numbers behind one or more tensors, from a legacy `torch.save` stream.

    The stream has five pickles (magic number, protocol, system, storage, keys), an int64 element
    count, and the elements in little-endian order.
    """

    def __init__(self, blob: bytes) -> None:
        stream = BytesIO(blob)
        magic, protocol, _, described, keys = (_Unpickler(stream, _STORAGES).load() for _ in range(5))
        tag, self.dtype, key, _, count, view = described
        (written,) = struct.unpack("<q", stream.read(8))
        self.data = memoryview(blob)[stream.tell() :]
        header = magic, protocol, tag, view, keys, count, type(count), type(self.dtype)
        if header != (_LEGACY_MAGIC, 1001, "storage", None, [key], written, int, torch.dtype):
            raise UnpicklingError("a tensor storage in an unknown format")
        if count * self.dtype.itemsize != len(self.data):
            raise UnpicklingError(f"a tensor storage with {len(self.data)} bytes of data")


class _Tensor(_Inert):
    """A tensor, still in the bytes of its storage; `nbytes` includes gaps between elements."""

    def __init__(self, storage: _Storage, offset: Any, size: Any, stride: Any, _: Any, *more: Any) -> None:
        if any(more) or any(type(n) is not int or n < 0 for n in (offset, *size, *stride)):
            raise UnpicklingError("a tensor with hooks, metadata or an impossible size")
        count, item = math.prod(size), storage.dtype.itemsize
        span = 1 + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if count else 0
        # With strides of 0 a few bytes could claim any amount of memory.
        if count > span or (offset + span) * item > len(storage.data) or len(size) > 16:
            raise UnpicklingError(f"a tensor beyond its storage of {len(storage.data)} bytes")
        self.nbytes = span * item
        self._dtype, self._size, self._stride = storage.dtype, size, stride
        self._data = storage.data[offset * item :][: self.nbytes]

    def read(self) -> Tensor:
        """Return the tensor, contiguous, in memory of its own."""
        if not self.nbytes:
            return torch.empty(self._size, dtype=self._dtype)
        values = torch.frombuffer(bytearray(self._data), dtype=self._dtype)
        if self._dtype == torch.bool:  # bytes other than 0 and 1 are no valid booleans
            values = values.view(torch.uint8) != 0
        return values.as_strided(self._size, self._stride).contiguous()


class _Parameter(_Inert):
    """Constructing one returns the tensor in it."""

    def __new__(cls, tensor: Any, requires_grad: Any, hooks: Any) -> Any:
        return tensor


class _Unpickler(pickle.Unpickler):
    """Python's unpickler, limited to checked opcodes and the names in a table."""

    def __init__(self, stream: BytesIO, names: Mapping[tuple[str, str], Any]) -> None:
        start = stream.tell()
        _check(stream)
        stream.seek(start)
        super().__init__(stream)
        self.names = names

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.names:
            raise UnpicklingError(f"refers to {module[:80]}.{name[:80]}, which is not allowed")
        return self.names[module, name]

    def persistent_load(self, pid: Any) -> Any:
        return pid


_NAMES = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _Module,
    ("torch.nn.modules.container", "ModuleDict"): _Module,
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
    ("torch._utils", "_rebuild_parameter"): _Parameter,
    ("torch.storage", "_load_from_bytes"): _Storage,
    ("collections", "OrderedDict"): _Dict,
    ("dnnlib.util", "EasyDict"): _Dict,
    # ECT's loss keeps a method of itself, which is pickled as a call of getattr.
    ("builtins", "getattr"): _Method,
    ("__builtin__", "getattr"): _Method,
    # Scalars and arrays of numpy are no part of a network; its version 2 has a new name.
    ("numpy", "dtype"): _Inert,
    ("numpy", "ndarray"): _Inert,
    ("numpy.core.multiarray", "scalar"): _Inert,
    ("numpy.core.multiarray", "_reconstruct"): _Inert,
    ("numpy._core.multiarray", "scalar"): _Inert,
    ("numpy._core.multiarray", "_reconstruct"): _Inert,
}
"""Everything that a snapshot may refer to; a storage in it may only refer to its element type."""


def _check(stream: BytesIO) -> None:
    """Refuse forbidden opcodes and excessive claims of a pickle; `genops` refuses lengths beyond the end.

    Each tuple that holds the previous one twice doubles the time of hashing it as a key. So the
    weight of each value on the stack and in the memo is followed: for a tuple, one plus the
    weights of its items.
    """
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[Any, int] = {}
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        name, before = opcode.name, opcode.stack_before
        if name not in _OPCODES:
            raise UnpicklingError(f"opcode {name} is not allowed")
        if name == "MARK":
            marks.append(len(stack))
            continue
        bottom = len(stack) - len(before)
        if pickletools.markobject in before:
            bottom = marks.pop() - before.index(pickletools.markobject)
        if name == "POP" and bottom < max([0, *marks[-1:]]):
            raise UnpicklingError("damaged: a POP without a value")  # Python's unpickler would drop the mark
        taken = stack[max(0, bottom) :]
        weight = 1 + sum(taken) if name.startswith("TUPLE") else max(taken, default=0)
        place: Any = len(memo) if name == "MEMOIZE" else argument
        if name.endswith("GET"):
            weight = memo[place]
        elif name.endswith("PUT") or name == "MEMOIZE":
            memo[place] = weight
            if place > count:  # the unpickler allocates all places before it
                raise UnpicklingError(f"damaged: place {place} in the memo")
        if count > _MOST_OPCODES or weight > _HEAVIEST:
            raise UnpicklingError("more values than a snapshot needs")
        stack[max(0, bottom) :] = [weight] * len(opcode.stack_after)


@dataclass(frozen=True)
class Snapshot:
    """Description and tensors of the network in a snapshot."""

    sha256: str
    """Digest of the file, hexadecimal."""
    class_name: str
    """Class of the preconditioned model, such as "EDMPrecond" or "Precond"."""
    network_class: str
    """Class of the network inside it, such as "SongUNet"."""
    arguments: dict[str, Any]
    """Keyword arguments of the model's constructor, as JSON values."""
    network_arguments: dict[str, Any]
    """Keyword arguments of the network's constructor, as JSON values."""
    tensors: dict[str, Tensor]
    """`ema.state_dict()`: the model's parameters and persistent buffers by name, in the file's order and
    element types, contiguous, each with memory of its own."""

    @property
    def network(self) -> dict[str, Tensor]:
        """Tensors of the network alone, by their names inside it, without data augmentation."""
        return {short: tensor for name, tensor in self.tensors.items() if (short := _inside(name))}

    @property
    def extras(self) -> dict[str, tuple[int, ...]]:
        """Names, with shapes, of all other tensors, such as `logvar_linear.weight`."""
        return {name: tuple(t.shape) for name, t in self.tensors.items() if not _inside(name)}


def _inside(name: str) -> str:
    """Name inside the network of a tensor that belongs to it, else an empty text."""
    attribute, _, short = name.partition(".")
    return short if attribute in _NETWORKS and not short.startswith("map_augment.") else ""


def read_snapshot(path: Path) -> Snapshot:
    """Read the network in a snapshot pickle of EDM or EDM2. Needs memory of twice the file's size.

    Raises:
        UserError: the file cannot be read, is damaged, is not such a snapshot, or refers to anything that
            such a snapshot does not need.
    """
    digest, content = sha256(path), path.read_bytes()
    if (found := _recognised(content)) is not None:
        raise UserError(f"{path}: not a usable EDM snapshot: {found}; {_WANTED}")
    try:
        return _snapshot(path, digest, _Unpickler(BytesIO(content), _NAMES).load())
    except Exception as error:  # damage can make Python, numpy and torch raise nearly anything
        cause = str(error)
        if not isinstance(error, UnpicklingError):
            cause = f"damaged ({type(error).__name__}: {cause})"
        printable = "".join(c if c.isprintable() else "?" for c in cause[:_LONGEST_CAUSE])
        raise UserError(f"{path}: not a usable EDM snapshot: {printable}") from error


_WANTED = "wanted is a network-snapshot-*.pkl of EDM, EDM2 or ECT"
_BEGINNINGS = {
    b"PK\x03\x04": "a zip, as torch.save writes it: a training state or weights alone",
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.": "a file of torch.save before 1.6",
    b"version https://git-lfs": "a pointer of Git LFS, whose file was not fetched (git lfs pull)",
    b"\x1f\x8b": "compressed by gzip",
    b"\xfd7zXZ": "compressed by xz",
    b"\x89HDF": "an HDF5 file",
    b"<": "a page of HTML or XML, not the file that it describes",
}


def _recognised(content: bytes) -> str | None:
    """The kind of a file that is no pickle, as far as its first bytes tell."""
    for beginning, kind in _BEGINNINGS.items():
        if content.startswith(beginning):
            return kind
    if content[8:10] == b'{"':
        return "a safetensors file"
    return None if content else "empty"


def _snapshot(path: Path, digest: str, content: Any) -> Snapshot:
    whole = content.get("ema") if isinstance(content, dict) else None
    if not isinstance(whole, _Module):
        raise UnpicklingError("not a dict whose entry 'ema' is a network")
    modules = _section(whole, "_modules")
    networks = [modules[name] for name in _NETWORKS if isinstance(modules.get(name), _Module)]
    if len(networks) != 1:
        raise UnpicklingError("entry 'ema' does not wrap one network, under 'model' or 'unet'")
    tensors = dict(_tensors(whole, "", set()))
    if sum(tensor.nbytes for tensor in tensors.values()) > path.stat().st_size:
        raise UnpicklingError("tensors add up to more than the file")
    return Snapshot(
        sha256=digest,
        class_name=whole.class_name,
        network_class=networks[0].class_name,
        arguments=_arguments(whole),
        network_arguments=_arguments(networks[0]),
        tensors={name: tensor.read() for name, tensor in tensors.items()},
    )


def _tensors(module: _Module, prefix: str, seen: set[int]) -> Iterator[tuple[str, _Tensor]]:
    """Yield parameters and persistent buffers by full name, in the order of `state_dict`."""
    if id(module) in seen:  # a module may contain itself
        raise UnpicklingError(f"module {prefix!r} occurs twice")
    seen.add(id(module))
    parameters, buffers = _section(module, "_parameters"), _section(module, "_buffers")
    transient = module.state.get("_non_persistent_buffers_set", set())
    if not isinstance(transient, set):
        raise UnpicklingError(f"{prefix!r} has a malformed set of buffers")
    persistent = {name: buffer for name, buffer in buffers.items() if name not in transient}
    for name, tensor in (*parameters.items(), *persistent.items()):
        if isinstance(tensor, _Tensor):
            yield prefix + name, tensor
        elif tensor is not None:
            raise UnpicklingError(f"{prefix + name!r} is no tensor")
    for name, child in _section(module, "_modules").items():
        if isinstance(child, _Module):
            yield from _tensors(child, f"{prefix}{name}.", seen)
        elif child is not None:
            raise UnpicklingError(f"{prefix + name!r} is no module")


def _section(module: _Module, section: str) -> dict[str, Any]:
    """Return a module's dict of parameters, buffers or submodules."""
    entries = module.state.get(section)
    if not isinstance(entries, dict):
        raise UnpicklingError(f"a {module.class_name} without {section}: not a network")
    for name in entries:
        if type(name) is not str or not name or "." in name or not name.isprintable():
            raise UnpicklingError(f"a {module.class_name} with an impossible name in {section}")
    return entries


def _arguments(module: _Module) -> dict[str, Any]:
    """Return the constructor's arguments, which EDM passes by keyword."""
    encoder = json.JSONEncoder(default=lambda value: f"<{type(value).__name__.lstrip('_')}>")
    text = ""
    for piece in encoder.iterencode(module.state.get("_init_kwargs", {})):
        text += piece
        if len(text) > _LONGEST_ARGUMENTS:  # shared lists can hold far more than the file
            raise UnpicklingError("constructor arguments are too large")
    return json.loads(text, parse_constant=str)


def import_edm(source: Path, out: Path) -> str:
    """Write the network of a snapshot as a safetensors file for `init_from`; return a summary for users.

    The file's metadata has one entry, `couplet`: JSON with `source` (file name), `sha256` (of the snapshot),
    `class`, `network_class`, `arguments`, `network_arguments` and `extras` (names and shapes of the tensors
    left out). The same snapshot gives the same bytes. An existing file is unchanged on any error.

    Raises:
        UserError: the snapshot is unusable or has no tensors, or `out` cannot be written.
    """
    snapshot = read_snapshot(source)
    network, extras = snapshot.network, snapshot.extras
    if not network:
        raise UserError(f"{source}: the network has no tensors")
    origin = {
        "source": source.name,
        "sha256": snapshot.sha256,
        "class": snapshot.class_name,
        "network_class": snapshot.network_class,
        "arguments": snapshot.arguments,
        "network_arguments": snapshot.network_arguments,
        "extras": extras,
    }
    # One entry: safetensors does not write several in a fixed order.
    metadata = {"couplet": json.dumps(origin, sort_keys=True)}
    with replacing(out) as temporary:
        temporary.write_bytes(safetensors.torch.save(network, metadata))
    lines = [
        f"{source} (sha256 {snapshot.sha256}): {snapshot.class_name}({snapshot.network_class})",
        f"{out}: {len(network)} tensors, {sum(tensor.numel() for tensor in network.values())} elements",
    ]
    return "\n".join([*lines, f"left out: {', '.join(extras)}"] if extras else lines)
