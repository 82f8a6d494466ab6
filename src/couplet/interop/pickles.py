"""Pickles read without executing anything in them.

Python's unpickler calls whatever a pickle names. Ours looks each name up in a table of stand-ins that only
describe the content, and refuses every other name. Before that, one pass over the opcodes refuses those that
bypass the table, or that claim more time and memory than the pickle's size justifies.

A network of NVIDIA's projects is pickled as objects that carry their own Python source (NVlabs/edm,
torch_utils/persistence.py), which the original loader executes; ours leaves it out.
"""

from __future__ import annotations

import math
import pickle
import pickletools
import struct
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

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
# fmt: off
STORAGES = {
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


class _DefaultDict(dict[Any, Any], _Inert):
    """A defaultdict, without its default."""

    def __init__(self, *default: Any) -> None:
        pass


class _Set(set[Any], _Inert):
    """A set, which protocol 2 writes as a call."""


class Object(_Inert):
    """An object of another project, as the values of its attributes by name."""

    def __init__(self, *arguments: Any) -> None:
        self.state: dict[Any, Any] = {}

    def __setstate__(self, state: Any) -> None:
        if type(state) is tuple and len(state) == 2:  # with slots
            state = (state[0] or {}) | (state[1] or {})
        if type(state) is dict:
            self.state = state


class Module(Object):
    """A persistent object of EDM, without its source code, or torch's ModuleDict."""

    class_name = "ModuleDict"
    state = {}

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
        if not isinstance(owner, Object) or type(name) is not str:
            raise UnpicklingError("calls getattr, which is not allowed")


class Storage(_Inert):
    """The numbers behind one or more tensors, in little-endian order.

    ``length`` is their size in bytes; ``load`` returns them when a tensor is read.
    """

    def __init__(self, dtype: Any, length: int, load: Callable[[], memoryview]) -> None:
        if type(dtype) is not torch.dtype or length % dtype.itemsize:
            raise UnpicklingError("a tensor storage in an unknown format")
        self.dtype, self.length, self.load = dtype, length, load


class _Legacy(Storage):
    """A storage from a legacy `torch.save` stream inside a pickle.

    The stream has five pickles (magic number, protocol, system, storage, keys), an int64 element
    count, and the elements in little-endian order.
    """

    def __init__(self, blob: bytes) -> None:
        stream = BytesIO(blob)
        magic, protocol, _, described, keys = (_Unpickler(stream, STORAGES).load() for _ in range(5))
        tag, dtype, key, _, count, view = described
        (written,) = struct.unpack("<q", stream.read(8))
        data = memoryview(blob)[stream.tell() :]
        header = magic, protocol, tag, view, keys, count, type(count), type(dtype)
        if header != (_LEGACY_MAGIC, 1001, "storage", None, [key], written, int, torch.dtype):
            raise UnpicklingError("a tensor storage in an unknown format")
        if count * dtype.itemsize != len(data):
            raise UnpicklingError(f"a tensor storage with {len(data)} bytes of data")
        super().__init__(dtype, len(data), lambda: data)


class StoredTensor(_Inert):
    """A tensor, still in the bytes of its storage; `nbytes` includes gaps between elements."""

    def __init__(self, storage: Storage, offset: Any, size: Any, stride: Any, _: Any, *more: Any) -> None:
        if any(more) or any(type(n) is not int or n < 0 for n in (offset, *size, *stride)):
            raise UnpicklingError("a tensor with hooks, metadata or an impossible size")
        count, item = math.prod(size), storage.dtype.itemsize
        span = 1 + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if count else 0
        # With strides of 0 a few bytes could claim any amount of memory.
        if count > span or (offset + span) * item > storage.length or len(size) > 16:
            raise UnpicklingError(f"a tensor beyond its storage of {storage.length} bytes")
        self.nbytes = span * item
        self.storage, self._offset, self._size, self._stride = storage, offset * item, size, stride

    def read(self) -> Tensor:
        """Return the tensor, contiguous, in memory of its own."""
        dtype = self.storage.dtype
        if not self.nbytes:
            return torch.empty(self._size, dtype=dtype)
        data = self.storage.load()[self._offset :][: self.nbytes]
        values = torch.frombuffer(bytearray(data), dtype=dtype)
        if dtype == torch.bool:  # bytes other than 0 and 1 are no valid booleans
            values = values.view(torch.uint8) != 0
        return values.as_strided(self._size, self._stride).contiguous()


class _Parameter(_Inert):
    """Constructing one returns the tensor in it."""

    def __new__(cls, tensor: Any, requires_grad: Any, hooks: Any) -> Any:
        return tensor


class _Unpickler(pickle.Unpickler):
    """Python's unpickler, limited to checked opcodes and the names in a table.

    ``storage`` makes a storage from its persistent id.
    """

    def __init__(
        self,
        stream: BytesIO,
        names: Mapping[tuple[str, str], Any],
        storage: Callable[[Any], Any] = lambda pid: pid,
    ) -> None:
        start = stream.tell()
        _check(stream)
        stream.seek(start)
        super().__init__(stream)
        self.names, self.storage = names, storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.names:
            return self.names[module, name]
        if self.names is NAMES and module.startswith(_DESCRIBED):
            return Object
        raise UnpicklingError(f"refers to {module[:80]}.{name[:80]}, which is not allowed")

    def persistent_load(self, pid: Any) -> Any:
        return self.storage(pid)


def load(content: bytes, storage: Callable[[Any], Any] = lambda pid: pid) -> Any:
    """The content of a pickle; anything that it may refer to is in :data:`NAMES`.

    Raises:
        UnpicklingError: the pickle refers to anything else, or claims too much.
        Exception: nearly any, where the pickle is damaged.
    """
    return _Unpickler(BytesIO(content), NAMES, storage).load()


NAMES: dict[tuple[str, str], Any] = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): Module,
    ("torch_utils.persistence_edm2", "_reconstruct_persistent_obj"): Module,  # VCT's copy of EDM2's
    ("torch.nn.modules.container", "ModuleDict"): Module,
    ("torch._utils", "_rebuild_tensor_v2"): StoredTensor,
    ("torch._utils", "_rebuild_parameter"): _Parameter,
    ("torch.storage", "_load_from_bytes"): _Legacy,
    ("collections", "OrderedDict"): _Dict,
    ("collections", "defaultdict"): _DefaultDict,
    ("dnnlib.util", "EasyDict"): _Dict,
    ("__builtin__", "set"): _Set,
    # Types that a configuration of omegaconf names.
    **{("__builtin__", name): _Inert for name in ("dict", "list", "long", "int", "float", "bool", "str")},
    ("typing", "Any"): _Inert,
    ("_codecs", "encode"): _Inert,
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
NAMES |= STORAGES
"""Everything that a checkpoint may refer to; a storage inside a pickle may only refer to its element type."""

_DESCRIBED = ("models.", "kernels.", "networks.", "omegaconf.", "lightning.", "pytorch_lightning.")
"""Modules, of VCT and its libraries, whose objects are read as the values of their attributes."""


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


def state_of(module: Module) -> dict[str, StoredTensor]:
    """Parameters and persistent buffers by full name, in the order of `state_dict`.

    Raises:
        UnpicklingError: the module is malformed.
    """
    return dict(_tensors(module, "", set()))


def _tensors(module: Module, prefix: str, seen: set[int]) -> Iterator[tuple[str, StoredTensor]]:
    if id(module) in seen:  # a module may contain itself
        raise UnpicklingError(f"module {prefix!r} occurs twice")
    seen.add(id(module))
    parameters, buffers = section(module, "_parameters"), section(module, "_buffers")
    transient = module.state.get("_non_persistent_buffers_set", set())
    if not isinstance(transient, set):
        raise UnpicklingError(f"{prefix!r} has a malformed set of buffers")
    persistent = {name: buffer for name, buffer in buffers.items() if name not in transient}
    for name, tensor in (*parameters.items(), *persistent.items()):
        if isinstance(tensor, StoredTensor):
            yield prefix + name, tensor
        elif tensor is not None:
            raise UnpicklingError(f"{prefix + name!r} is no tensor")
    for name, child in section(module, "_modules").items():
        if isinstance(child, Module):
            yield from _tensors(child, f"{prefix}{name}.", seen)
        elif child is not None:
            raise UnpicklingError(f"{prefix + name!r} is no module")


def section(module: Module, name: str) -> dict[str, Any]:
    """A module's dict of parameters, buffers or submodules; UnpicklingError if it has none."""
    entries = module.state.get(name)
    if not isinstance(entries, dict):
        raise UnpicklingError(f"a {module.class_name} without {name}: not a network")
    for key in entries:
        if type(key) is not str or not key or "." in key or not key.isprintable():
            raise UnpicklingError(f"a {module.class_name} with an impossible name in {name}")
    return entries
