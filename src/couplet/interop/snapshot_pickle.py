"""Unpickler of EDM snapshots whose objects cannot execute anything.

Python's unpickler calls whatever a pickle names. This one looks each name up in a table of
stand-ins that only describe the content, and refuses every other name. Before that, one pass over
the opcodes refuses those that bypass the table, or that claim more time and memory than the
pickle's size justifies.
"""

from __future__ import annotations

import math
import pickle
import pickletools
import struct
from collections.abc import Mapping
from io import BytesIO
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

# Without EXT1, EXT2 and EXT4, which take objects from a registry and bypass `find_class`; without
# POP, which `_check` does not follow; and without text opcodes.
_OPCODES = frozenset(
    """
    PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT
    SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8
    EMPTY_DICT EMPTY_LIST EMPTY_SET EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    APPEND APPENDS ADDITEMS SETITEM SETITEMS MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET
    GLOBAL STACK_GLOBAL REDUCE NEWOBJ BUILD BINPERSID
    """.split()  # noqa: SIM905
)
_MOST_OPCODES = 2_000_000  # a snapshot needs about a hundred per tensor
_HEAVIEST = 1000  # weight of a tuple, see `_check`
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# fmt: off
_STORAGES = {
    "Half": torch.float16, "BFloat16": torch.bfloat16, "Float": torch.float32,
    "Double": torch.float64, "Char": torch.int8, "Short": torch.int16, "Int": torch.int32,
    "Long": torch.int64, "Byte": torch.uint8, "Bool": torch.bool,
}
# fmt: on


class _Inert:
    """A stand-in that a pickle can create, and nothing else.

    Without `__setstate__`, a pickle could set any attribute of an instance. Called on the class
    itself it lacks `self`, so that a pickle cannot set attributes of the class either.
    """

    def __setstate__(self, state: Any) -> None:
        raise UnpicklingError(f"state for a {type(self).__name__} is not allowed")


class _Dict(_Inert, dict[Any, Any]):
    """An OrderedDict, or the EasyDict that EDM2 writes with an empty state."""

    def __setstate__(self, state: Any) -> None:
        if state:
            super().__setstate__(state)


class _Ignored(_Inert):
    """Numpy's scalars, arrays and element types: no part of a network."""

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class PickledModule(_Inert):
    """A persistent object of EDM, without its source code, or torch's ModuleDict."""

    class_name = "ModuleDict"
    state: dict[Any, Any] | None = None

    def __init__(self, meta: Any) -> None:
        self.class_name, self.state = meta["class_name"], meta["state"] or {}
        if meta["type"] != "class" or (type(self.class_name), type(self.state)) != (str, dict):
            raise UnpicklingError("a persistent object without class name or state")

    def __setstate__(self, state: Any) -> None:
        if self.state is not None or type(state) is not dict:
            super().__setstate__(state)
        self.state = state


class _Storage(_Inert):
    """The numbers behind one or more tensors, from a legacy `torch.save` stream.

    The stream has five pickles (magic number, protocol, system, storage, keys), an int64 element
    count, and the elements in little-endian order.
    """

    def __init__(self, blob: bytes) -> None:
        stream = BytesIO(blob)
        magic, protocol, _, described, keys = (_Storages(stream).load() for _ in range(5))
        tag, self.dtype, key, _, count, view = described
        if (magic, protocol, tag, view) != (_LEGACY_MAGIC, 1001, "storage", None):
            raise UnpicklingError("a tensor storage in an unknown format")
        if not isinstance(self.dtype, torch.dtype) or type(key) is not str or keys != [key]:
            raise UnpicklingError("a tensor storage that is not the one announced")
        written = struct.unpack("<q", stream.read(8))[0]
        self.data = memoryview(blob)[stream.tell() :]
        if type(count) is not int or count != written:
            raise UnpicklingError("a tensor storage with two different sizes")
        if count * self.dtype.itemsize != len(self.data):
            raise UnpicklingError(f"a tensor storage with {len(self.data)} bytes of data")


class PickledTensor(_Inert):
    """A tensor, still in the bytes of its storage; `nbytes` includes gaps between elements."""

    def __init__(
        self,
        storage: _Storage,
        offset: Any,
        size: Any,
        stride: Any,
        requires_grad: Any,
        hooks: Any,
        *more: Any,
    ) -> None:
        numbers = (offset, *size, *stride)
        if hooks or any(more) or any(type(n) is not int or n < 0 for n in numbers):
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
        """Return the tensor, contiguous, in memory of its own.

        Raises:
            RuntimeError: torch has no tensors of this shape.
        """
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

    names: Mapping[tuple[str, str], Any]

    def __init__(self, stream: BytesIO) -> None:
        start = stream.tell()
        _check(stream)
        stream.seek(start)
        super().__init__(stream)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.names:
            raise UnpicklingError(f"refers to {module[:80]}.{name[:80]}, which is not allowed")
        return self.names[module, name]


class _Storages(_Unpickler):
    """Unpickler of a storage: plain values, a storage type, and a tuple describing it."""

    names = {("torch", f"{name}Storage"): _STORAGES[name] for name in _STORAGES}

    def persistent_load(self, pid: Any) -> Any:
        return pid


class _Snapshots(_Unpickler):
    """Unpickler of the snapshot itself; without `persistent_load`, it refuses persistent ids."""

    names = {
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): PickledModule,
        ("torch.nn.modules.container", "ModuleDict"): PickledModule,
        ("torch._utils", "_rebuild_tensor_v2"): PickledTensor,
        ("torch._utils", "_rebuild_parameter"): _Parameter,
        ("torch.storage", "_load_from_bytes"): _Storage,
        ("collections", "OrderedDict"): _Dict,
        ("dnnlib.util", "EasyDict"): _Dict,
        ("numpy", "dtype"): _Ignored,
        ("numpy", "ndarray"): _Ignored,
        ("numpy.core.multiarray", "scalar"): _Ignored,
        ("numpy.core.multiarray", "_reconstruct"): _Ignored,
        ("numpy._core.multiarray", "scalar"): _Ignored,  # numpy 2
        ("numpy._core.multiarray", "_reconstruct"): _Ignored,
    }


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


def load(data: bytes) -> Any:
    """Load the pickle of a snapshot as plain values and stand-ins; nothing is executed.

    Raises:
        UnpicklingError: the pickle refers to anything that a snapshot does not need.
        Exception: of nearly any type, where the pickle is damaged.
    """
    stream = BytesIO(data)
    content = _Snapshots(stream).load()
    if stream.read(1):
        raise UnpicklingError("damaged: more bytes after the end of the pickle")
    return content
