"""Pickled networks of NVIDIA's projects: genuine ones, hostile ones and damaged ones.

Genuine files are made here by Python's pickler and torch's own storage format, from classes that
pickle themselves as NVIDIA's do. Every embedded source text is a tripwire.
"""

from __future__ import annotations

import codecs
import copyreg
import gzip
import io
import os
import pickle
import pickletools
import struct
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from couplet import model
from couplet.config.networks import DDPMPlusPlusConfig
from couplet.config.variants import build
from couplet.errors import UserError
from couplet.interop import files, pickles
from couplet.interop.convert import import_model
from couplet.networks.initial import initialise, read_weights

EXTENSION = 0x51
STORAGE = torch.storage._load_from_bytes


class EasyDict(dict):
    """Pickled as dnnlib.util.EasyDict, with the empty state that Python up to 3.10 wrote."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        return copyreg.__newobj__, (EasyDict,), {}, None, iter(self.items())


def _reconstruct_persistent_obj(meta: dict) -> Any:
    raise AssertionError("the original loader must not be called")


@pytest.fixture(scope="module", autouse=True)
def nvidia() -> Iterator[None]:
    """Modules under the names that genuine files refer to; the pickler wants to see them."""
    persistence, util = ModuleType("torch_utils.persistence"), ModuleType("dnnlib.util")
    with pytest.MonkeyPatch.context() as patch:
        for module, thing in ((persistence, _reconstruct_persistent_obj), (util, EasyDict)):
            patch.setitem(sys.modules, module.__name__.split(".")[0], ModuleType("parent"))
            patch.setitem(sys.modules, module.__name__, module)
            patch.setattr(thing, "__module__", module.__name__)
            patch.setattr(module, thing.__name__, thing, raising=False)
        yield


@pytest.fixture(autouse=True)
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A file "executed" exists afterwards only if something was executed."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not Path("executed").exists(), "the file's code was executed"


class Persistent(nn.Module):
    """Pickles itself as NVIDIA's persistent classes do."""

    source = "open('executed', 'w').close()"
    class_name = "Persistent"

    def __reduce__(self) -> Any:
        meta = {"type": "class", "version": 6, "module_src": self.source}
        meta |= {"class_name": self.class_name, "state": self.__dict__}
        return _reconstruct_persistent_obj, (meta,)


def module(class_name: str, entries: dict[str, Any], **arguments: Any) -> Persistent:
    """A persistent module from children, parameters and buffers."""
    made = Persistent()
    made.class_name, made._init_args, made._init_kwargs = class_name, (), arguments
    for name, value in entries.items():
        if isinstance(value, nn.Module):
            made.add_module(name, value)
        elif isinstance(value, nn.Parameter):
            made.register_parameter(name, value)
        else:
            made.register_buffer(name, value)
    return made


def weight(*shape: int) -> nn.Parameter:
    generator = torch.Generator().manual_seed(sum(shape))
    return nn.Parameter(torch.randn(shape, generator=generator), requires_grad=False)


def persistent(part: nn.Module, class_name: str = "Layer") -> nn.Module:
    """The same tensors in a module that pickles itself as NVIDIA's do."""
    children = {name: persistent(child) for name, child in part.named_children()}
    if isinstance(part, nn.ModuleDict):
        return nn.ModuleDict(children)
    return module(class_name, {**part._parameters, **part._buffers, **children})


def edm_network() -> Persistent:
    """As small as possible, but with everything that EDM's networks have."""
    config = DDPMPlusPlusConfig(model_channels=4, channel_mult=(1,), num_blocks=1, attn_resolutions=())
    with torch.random.fork_rng():
        torch.manual_seed(3)
        unet = persistent(build(config, in_channels=3, out_channels=3, resolution=8), "SongUNet")
    for parameter in unet.parameters():
        parameter.requires_grad_(False)
    unet.add_module("map_augment", module("Linear", {"weight": weight(4, 9)}))
    unet._init_kwargs.update(img_resolution=8, channel_mult=[1])
    unet.register_buffer("scratch", torch.zeros(3), persistent=False)
    unet.register_parameter("absent", None)
    unet.skip_scale = np.sqrt(0.5)
    return module("EDMPrecond", {"model": unet}, img_resolution=8, sigma=float("inf"))


def read_snapshot(path: Path) -> SimpleNamespace:
    """The network in a pickle, which need not be one that couplet has."""
    whole = files.read(path).value["ema"]
    tensors = {name: tensor.read() for name, tensor in pickles.state_of(whole).items()}
    return SimpleNamespace(tensors=tensors, class_name=whole.class_name)


def dumped(change: Callable[[Persistent], Any] = lambda network: None, **more: Any) -> bytes:
    """A snapshot of EDM whose network was changed, with further entries."""
    network = edm_network()
    change(network)
    return pickle.dumps({"ema": network, "dataset_kwargs": {"path": "x.zip"}} | more, protocol=4)


def save(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "snapshot.pkl"
    path.write_bytes(data)
    return path


def refusal(tmp_path: Path, data: bytes) -> str:
    """Import hostile or damaged data; check everything but the cause, and return that."""
    path, out = save(tmp_path, data), tmp_path / "model.safetensors"
    before = set(tmp_path.iterdir())
    with pytest.raises(UserError) as caught:
        import_model(str(path), out)
    assert set(tmp_path.iterdir()) == before
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    return message.removeprefix(f"{path}: ")


def test_edm(tmp_path: Path) -> None:
    snapshot = read_snapshot(save(tmp_path, dumped()))
    expected = edm_network().state_dict()
    assert list(snapshot.tensors) == list(expected)
    for name, tensor in snapshot.tensors.items():
        assert torch.equal(tensor, expected[name])
        assert tensor.dtype == expected[name].dtype
    assert snapshot.class_name == "EDMPrecond"


class Loss:
    """Pickles itself as ECT's loss does, which keeps one of its methods as an attribute."""

    def __init__(self) -> None:
        self.sigma_data, self.t_to_r = 0.5, self.t_to_r_sigmoid

    def t_to_r_sigmoid(self, t: Any) -> Any:
        raise AssertionError("no method of a file is called")

    def __reduce__(self) -> Any:
        meta = {"type": "class", "version": 6, "module_src": Persistent.source}
        meta |= {"class_name": "ECMLoss", "state": self.__dict__}
        return _reconstruct_persistent_obj, (meta,)


@pytest.mark.parametrize("protocol", [4, 5])
def test_ect(tmp_path: Path, protocol: int) -> None:
    network = edm_network()
    content = {"ema": network, "loss_fn": Loss(), "augment_pipe": None, "dataset_kwargs": EasyDict()}
    data = pickle.dumps(content, protocol)
    names = {opcode.name for opcode, _, _ in pickletools.genops(data)}
    assert "POP" in names  # a method refers to its object, which is then there twice
    snapshot = read_snapshot(save(tmp_path, data))
    expected = network.state_dict()
    assert list(snapshot.tensors) == list(expected)
    assert all(torch.equal(snapshot.tensors[name], expected[name]) for name in expected)


@pytest.mark.parametrize("data", [b"\x80\x040.", b"\x80\x04(0N.", b"\x80\x04N(0N.", b"\x80\x04]N0."])
def test_pop_of_nothing_is_refused_and_of_a_value_drops_it(tmp_path: Path, data: bytes) -> None:
    assert "POP without" in refusal(tmp_path, data) or data.startswith(b"\x80\x04]")
    assert "a saved list" in refusal(tmp_path, b"\x80\x04]N0.")


def saved(content: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def test_other_files_are_called_by_their_name(tmp_path: Path) -> None:
    state = {"net": {"weight": torch.zeros(2)}}
    safetensors = tmp_path / "other.safetensors"
    save_file(state["net"], safetensors)
    for data, kind in {
        saved(state): "a dict of 1 entries: 'net'",
        saved([1]): "a saved list",
        saved(state, _use_new_zipfile_serialization=False): "a file of torch.save before 1.6",
        safetensors.read_bytes(): "a dict of 1 entries: 'weight'",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n": "a pointer of Git LFS",
        b"<!DOCTYPE html><title>Not found</title>": "a page of HTML or XML",
        gzip.compress(dumped()): "compressed by gzip",
        b"": "empty",
    }.items():
        assert refusal(tmp_path, data).startswith(f"found {kind}")
        assert "; expected a checkpoint of EDM, EDM2, ECT, " in refusal(tmp_path, data)


@pytest.mark.parametrize("numpy", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_edm2(tmp_path: Path, numpy: bytes) -> None:
    fourier = module("MPFourier", {"freqs": torch.arange(4.0)})
    unet = module("UNet", {"emb_fourier": fourier, "out_gain": weight()})
    logvar = module("MPConv", {"weight": weight(1, 8)})
    whole = module("Precond", {"unet": unet, "logvar_linear": logvar})
    encoder = module("StabilityVAEEncoder", {})
    encoder.scale = np.float32(0.5) / np.float32([4.17, 4.62])
    content = EasyDict(encoder=encoder, dataset_kwargs=EasyDict(), loss_fn=None)
    content["ema"] = whole.to(torch.float16)
    data, written = unframed(pickle.dumps(content, 4)), b"numpy._core.multiarray"
    old, new = (bytes([0x8C, len(name)]) + name for name in (written, numpy))
    assert old in data
    snapshot = read_snapshot(save(tmp_path, data.replace(old, new)))
    expected = whole.state_dict()
    assert list(snapshot.tensors) == list(expected)
    assert all(torch.equal(snapshot.tensors[name], expected[name]) for name in expected)
    assert {tensor.dtype for tensor in snapshot.tensors.values()} == {torch.float16}


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool),
    ],
)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,), (2, 0)])
def test_every_element_type_bit_by_bit(tmp_path: Path, dtype: Any, shape: tuple[int, ...]) -> None:
    count = max(1, int(np.prod(shape))) * 8
    raw = np.random.default_rng(0).integers(0, 256, count, dtype=np.uint8)
    if dtype == torch.bool:
        raw = raw % 2
    tensor = torch.from_numpy(raw).view(dtype)[: int(np.prod(shape))].reshape(shape).clone()
    data = dumped(lambda network: network.model.register_buffer("probe", tensor))
    found = read_snapshot(save(tmp_path, data)).tensors["model.probe"]
    assert found.dtype == dtype
    assert found.shape == tensor.shape
    bits = [part.contiguous().view(-1).view(torch.uint8) for part in (found, tensor)]
    assert torch.equal(*bits)  # equal NaNs included


def test_views_of_one_storage(tmp_path: Path) -> None:
    base = torch.arange(12.0)
    views = {"turned": base[:6].reshape(2, 3).T, "tail": base[6:], "sparse": base[1::3]}
    data = dumped(lambda network: network.model._buffers.update(views))
    tensors = read_snapshot(save(tmp_path, data)).tensors
    assert all(torch.equal(tensors[f"model.{name}"], view) for name, view in views.items())
    assert all(tensor.is_contiguous() for tensor in tensors.values())
    tensors["model.turned"].zero_()
    assert torch.equal(tensors["model.sparse"], base[1::3])


class Call:
    """Pickles as a call, the ordinary way to make unpickling execute something."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self.reduced

    def __call__(self) -> None:
        """Nothing; the pickler wants what is called to be callable."""


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def unframed(data: bytes) -> bytes:
    """Without the opcodes that announce lengths, which Python would otherwise hold us to."""
    pieces, last = [], 0
    for opcode, _, position in pickletools.genops(data):
        if opcode.name == "FRAME":
            pieces.append(data[last:position])
            last = position + 9
    return b"".join([*pieces, data[last:]])


def storage(
    magic: bytes | None = None,
    kind: Any = torch.FloatStorage,
    count: Any = 4,
    said: int = 4,
    data: bytes = bytes(16),
    tail: tuple[Any, ...] = (None,),
    keys: Any = ("7",),
) -> bytes:
    """A legacy stream as torch writes it, except for what the arguments change."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", kind, "7", "cpu", count, *tail) if value is Pickler else None

    stream = io.BytesIO(pickle.dumps(0x1950A86A20F9469CFC6C, 2) if magic is None else magic)
    stream.seek(0, os.SEEK_END)
    for value in (1001, {"little_endian": True}, Pickler, list(keys)):
        Pickler(stream, 2).dump(value)
    return stream.getvalue() + struct.pack("<q", said) + data


# fmt: off
TOUCH, OPEN = "touch executed", "open('executed', 'w')"
ARMED = [
    Call(os.system, TOUCH), Call(subprocess.check_call, TOUCH.split()), Call(eval, OPEN),
    Call(exec, OPEN), Call(open, "executed", "w"),
    Call(pickle.loads, pickle.dumps(Call(eval, OPEN))),
]
CALLS = [
    *ARMED, Call(__import__, "antigravity"), Call(getattr, OrderedDict, "__subclasses__"),
    Call(Call(getattr, str, "join"), TOUCH), Call(torch.load, "x"), Call(np.load, "x"),
    Call(np.fromfile, "x"), Call(codecs.decode, b"x", "latin1"),
    Call(copyreg._reconstructor, EasyDict, object, None), subprocess.Popen, os.system,
    Call(STORAGE, pickle.dumps(ARMED[0], 2)), Call(STORAGE, storage(pickle.dumps(ARMED[0], 2))),
]
# fmt: on


@pytest.mark.parametrize("where", ["all", "ema", "network", "tensor", "ignored", "key"])
@pytest.mark.parametrize("number", range(len(CALLS)))
def test_calls(tmp_path: Path, number: int, where: str) -> None:
    evil = CALLS[number]
    data = {
        "all": lambda: pickle.dumps(evil, 4),
        "ema": lambda: dumped(ema=evil),
        "network": lambda: dumped(lambda network: setattr(network.model, "helper", evil)),
        "tensor": lambda: dumped(lambda network: network.model._buffers.update(freqs=evil)),
        "ignored": lambda: dumped(loss_fn=evil),
        "key": lambda: dumped(loss_fn={(evil,): 1}),
    }[where]()
    cause = refusal(tmp_path, data)
    assert "which is not allowed" in cause or number >= len(CALLS) - 2
    if evil is os.system:
        assert f"refers to {os.system.__module__}.system, which is not allowed" in cause


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_calls_are_armed() -> None:
    """Python's own unpickler falls for them, so that the tests above show something."""
    for call in ARMED:
        pickle.loads(pickle.dumps(call, 4))
        Path("executed").unlink()


# fmt: off
RUN, SYSTEM = text(TOUCH), b"cos\nsystem\n"
DICT, DTYPE = b"ccollections\nOrderedDict\n", b"cnumpy\ndtype\n"
RAW = [
    SYSTEM + RUN + b"\x85R.", b"cposix\nsystem\n" + RUN + b"\x85R.",
    text("os") + text("system") + b"\x93" + RUN + b"\x85R.",
    # names: dotted, with spaces, not texts, unprintable, endless
    text("torch.storage") + text("_load_from_bytes.__globals__") + b"\x93.",
    text("collections") + text("OrderedDict.__class__") + b"\x93.",
    text("torch_utils.persistence.os") + text("system") + b"\x93.",
    b"ctorch_utils.persistence \n_reconstruct_persistent_obj\n.",
    b"C\x05numpyC\x05dtype\x93.", b"]" + text("system") + b"\x93.",
    text("o\x1b[2Js\n\u202e") + text("system") + b"\x93.",
    text("a" * 100_000) + text("b") + b"\x93.", b"c" + b"a" * 100_000 + b"\nb\n.",
    b"X\x03\0\0\0\xed\xa0\x80" + text("b") + b"\x93.",
    # INST, OBJ, NEWOBJ, NEWOBJ_EX; NEWOBJ of a function and with arguments
    b"(" + RUN + b"ios\nsystem\n.", b"(" + SYSTEM + RUN + b"o.",
    b"csubprocess\nPopen\n" + RUN + b"\x85\x81.", b"csubprocess\nPopen\n" + RUN + b"\x85}\x92.",
    b"ctorch.storage\n_load_from_bytes\n)\x81.", DICT + RUN + b"\x85\x81.",
    # EXT1, EXT2, EXT4, PERSID, BINPERSID, text opcodes, huge integers, buffers
    *(op + bytes([EXTENSION]) + bytes(n) + RUN + b"\x85R."
      for op, n in ((b"\x82", 0), (b"\x83", 1), (b"\x84", 3))),
    b"Pos.system\n.", RUN + b"Q.", b"S'x'\n.", b"I" + b"9" * 10_000 + b"\n.",
    b"\x8a\xff" + b"\x7f" * 255 + b".", b"\x80\x05\x97.",
    # calls, states and items of what takes none
    b"})R.", RUN + b")R.", DICT + b"]R.", DTYPE + b"}" + text("a") + b"K\x01sb.",
    b"]}" + text("__class__") + b"K\x01sb.", b"}}" + text("__class__") + b"K\x01sb.",
    DTYPE + text("a") + b"K\x01s.", DTYPE + b"K\x01a.", b"](K\x01\x90.",
    b"ctorch.nn.modules.container\nModuleDict\n)\x81}b}b.",
    # a mark, value or memo entry that is missing; values left over; other files
    b"t.", b"s.", b"h\x07.", b"K\x01K\x02.", b"(K\x01.", b"}", b"}.}.", b"].", b"}.", b"",
    b"<!DOCTYPE html><html>not found</html>", b"PK\x03\x04" + bytes(60),
]
# fmt: on


@pytest.mark.parametrize("prefix", [b"", b"\x80\x04"])
@pytest.mark.parametrize("number", range(len(RAW)))
def test_raw_opcodes(tmp_path: Path, number: int, prefix: bytes) -> None:
    copyreg.add_extension("os", "system", EXTENSION)  # another way to name a function
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(copyreg._extension_cache, EXTENSION, os.system)
            cause = refusal(tmp_path, prefix + RAW[number])
    finally:
        copyreg.remove_extension("os", "system", EXTENSION)
    assert cause.startswith("found ")
    assert len(cause) < 600


NAMES = """
    torch_utils.persistence _reconstruct_persistent_obj torch.storage _load_from_bytes
    torch._utils _rebuild_tensor_v2 torch._utils _rebuild_parameter dnnlib.util EasyDict
    torch.nn.modules.container ModuleDict collections OrderedDict numpy dtype numpy ndarray
    numpy.core.multiarray scalar numpy.core.multiarray _reconstruct
""".split()  # noqa: SIM905


def contents() -> list[dict[str, Any]]:
    values = list(vars(pickles).values())
    return [dict(vars(value)) for value in values if isinstance(value, type)]


@pytest.mark.parametrize("call", [b"", b")R", b")\x81", b"(NNNNNNt\x81", b"NN\x86R"])
@pytest.mark.parametrize("name", [*zip(NAMES[::2], NAMES[1::2], strict=True)])
def test_stand_ins_cannot_be_changed(tmp_path: Path, name: tuple[str, str], call: bytes) -> None:
    """Neither by state, with or without slots, nor by items."""
    before = contents()
    attributes = b"}(" + b"".join(text(a) + b"N" for a in ("names", "__setstate__", "x")) + b"u"
    for change in (attributes + b"b", b"N" + attributes + b"\x86b", text("x") + b"Ns", b"Na"):
        made = b"c" + "\n".join(name).encode() + b"\n" + call
        refusal(tmp_path, b"\x80\x04}" + text("ema") + made + change + b"s.")
    assert contents() == before


SECTIONS = {"_modules": {}, "_parameters": {}, "_buffers": {}}
DESCRIPTIONS = [
    *({"type": "function"}, {"class_name": b"x"}, {"state": [1, 2]}, {"state": None}),
    *({"state": {}}, {"state": SECTIONS}, {"state": SECTIONS | {"_modules": {"model": 3}}}),
]


@pytest.mark.parametrize("change", DESCRIPTIONS)
def test_malformed_descriptions(tmp_path: Path, change: dict[str, Any]) -> None:
    meta = edm_network().__reduce__()[1][0] | change
    refusal(tmp_path, dumped(ema=Call(_reconstruct_persistent_obj, meta)))


# fmt: off
def nested() -> list[Any]:
    """A list whose text would be longer than any memory."""
    made: list[Any] = []
    for _ in range(100):
        made = [made, made]
    return made


MALFORMED: list[Callable[[Persistent], Any]] = [
    lambda n: n.model._modules.update(loop=n), lambda n: n._modules.update(again=n.model.enc),
    lambda n: n._modules.update(unet=edm_network()), lambda n: n.model._parameters.update(w=1.0),
    lambda n: n.model._parameters.update(w=np.ones(3)),
    lambda n: n.model._parameters.update({"a.b": torch.ones(1)}),
    lambda n: n.model._parameters.update({b"a": torch.ones(1)}),
    lambda n: n.model._buffers.update({"a\n": torch.ones(1)}),
    lambda n: n.model.__dict__.update(_parameters=[]),
    lambda n: n.model.__dict__.update(_non_persistent_buffers_set=[]),
    lambda n: n.model._init_kwargs.update(decoder_type=n._init_kwargs),
    lambda n: n.model._init_kwargs.update(label_balance=nested()),
    lambda n: n.model._init_kwargs.update(emb_norm=True), lambda n: setattr(n, "class_name", "VPPrecond"),
    lambda n: n.__dict__.update(sigma_data=nested()), lambda n: n.__dict__.update(sigma_data=float("nan")),
    lambda n: n.model._buffers.update(extra=torch.ones(3)),
    lambda n: n.model._parameters.update({"\n": torch.ones(3)}),
    lambda n: n.model.map_layer0._parameters.pop("bias"),
    lambda n: n.model.map_layer0.weight.data.fill_(float("nan")),
    lambda n: n.model.map_layer0.bias.data.fill_(float("inf")),
    lambda n: n.model.map_layer0._parameters.update(weight=torch.ones(16, 4, dtype=torch.int64)),
    lambda n: n.model.map_layer0._parameters.update(weight=torch.ones(4, 16)),
    lambda n: n.model.enc._modules.pop("8x8_block0"), lambda n: n.model._modules.pop("enc"),
]
# fmt: on


@pytest.mark.parametrize("number", range(len(MALFORMED)))
def test_malformed_networks(tmp_path: Path, number: int) -> None:
    refusal(tmp_path, dumped(MALFORMED[number]))


def with_tensor(
    blob: Any,
    offset: Any = 0,
    size: Any = (4,),
    stride: Any = (1,),
    hooks: Any = (),
) -> bytes:
    """A snapshot with one tensor made by hand."""
    made = Call(STORAGE, blob)
    tensor = Call(torch._utils._rebuild_tensor_v2, made, offset, size, stride, False, hooks)
    return dumped(lambda network: network.model._buffers.update(probe=tensor))


def test_a_storage_made_by_hand(tmp_path: Path) -> None:
    data = struct.pack("<4f", 1.0, 2.0, 3.0, 4.0)
    snapshot = read_snapshot(save(tmp_path, with_tensor(storage(data=data), 1, (3,), (1,))))
    assert snapshot.tensors["model.probe"].tolist() == [2.0, 3.0, 4.0]


LIES: list[dict[str, Any]] = [
    *({"said": 5}, {"said": -1, "count": -1}, {"count": 3}, {"count": 2**62, "said": 2**62}),
    *({"count": 4.0}, {"count": "4"}, {"data": bytes(15)}, {"data": bytes(17)}, {"data": b""}),
    *({"kind": torch.DoubleStorage}, {"kind": torch.UntypedStorage}, {"kind": "FloatStorage"}),
    *({"kind": OrderedDict}, {"tail": (("view", 0, 4),)}, {"tail": ()}, {"keys": ("8",)}),
    *({"keys": ()}, {"magic": pickle.dumps(1, 2)}, {"magic": b""}, {"magic": b"\x80\x02"}),
    {"magic": b"\x80\x02(((((."},
]


@pytest.mark.parametrize("change", LIES)
def test_storages_that_lie(tmp_path: Path, change: dict[str, Any]) -> None:
    refusal(tmp_path, with_tensor(storage(**change)))


@pytest.mark.parametrize("blob", ["text", b"", b"PK\x03\x04", None, 3, [1]])
def test_storages_that_are_none(tmp_path: Path, blob: Any) -> None:
    refusal(tmp_path, with_tensor(blob))


SHAPES: list[tuple[Any, ...]] = [
    *((0, (5,), (1,)), (1, (4,), (1,)), (-1, (2,), (1,)), (2**63, (1,), (1,))),
    *((0, (2, 2), (3, 1)), (0, (10**9,), (0,)), (0, (2**40, 2**40), (0, 0))),
    *((0, (-1,), (1,)), (0, (2,), (-1,)), (0, (2, 2), (1,)), (0, (4.0,), (1,))),
    *((0, (True,), (1,)), (0, (1,) * 100, (1,) * 100), (0, (0, 2**62, 2**62), (1, 1, 1))),
    *(("0", (4,), (1,)), (None, (4,), (1,)), (0, "4", "1"), (0, 4, 1), (0, (4,), (1,), {0: 1})),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_tensors_beyond_their_storage(tmp_path: Path, shape: tuple[Any, ...]) -> None:
    refusal(tmp_path, with_tensor(storage(), *shape))


def test_what_numpy_holds_is_ignored(tmp_path: Path) -> None:
    values = [np.zeros(3, "O"), np.zeros(2, "f8,i4"), np.str_("x")]
    wanted = len(edm_network().state_dict())
    assert len(read_snapshot(save(tmp_path, dumped(encoder=values))).tensors) == wanted
    refusal(tmp_path, dumped(encoder=np.zeros(3).view(np.matrix)))


def test_bombs(tmp_path: Path) -> None:
    nested = b"\x80\x04}" + text("ema") + b")" + b"\x85" * 1_000_000 + b"s."
    lists = b"\x80\x04}" + text("ema") + b"]" + b"]" * 400_000 + b"a" * 400_000 + b"s."
    marks = b"\x80\x04" + b"(" * 100_000 + b"."
    opcodes = b"\x80\x04" + b"N0" * 1_100_000 + b"N."
    # each tuple holds the one before twice: hashing the last would take 2^200 steps
    doubling = b"".join(b"\x94h" + bytes([i]) + b"\x86" for i in range(200))
    keys = b"\x80\x04})" + doubling + b"K\x01s."
    size = b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"abc."
    memo = b"\x80\x04}r\xff\xff\xff\xff."
    for data in (nested, lists, marks, opcodes, keys, size, memo):
        refusal(tmp_path, data)


@pytest.mark.parametrize("stride", [1, 24_000])
def test_one_tensor_many_times(tmp_path: Path, stride: int) -> None:
    """Neither by its elements nor by the gaps between them."""
    made = Call(STORAGE, storage(count=25_000, said=25_000, data=bytes(100_000)))
    size = (25_000 // stride + (stride > 1),)
    views = [(torch._utils._rebuild_tensor_v2, made, 0, size, (stride,), 0, {}) for _ in range(50)]
    buffers = {f"b{i}": Call(*view) for i, view in enumerate(views)}
    data = dumped(lambda network: network.model._buffers.update(buffers))
    assert "they overlap" in refusal(tmp_path, data)


def test_truncated_anywhere(tmp_path: Path) -> None:
    data = dumped()
    for length in [*range(64), *range(64, len(data) - 1, 997), len(data) - 1]:
        refusal(tmp_path, data[:length])


def test_sizes_with_flipped_bits(tmp_path: Path) -> None:
    """Lengths of byte strings and texts, and element counts of storages."""
    data = dumped()
    places = []
    for opcode, argument, position in pickletools.genops(data):
        if opcode.name in ("BINBYTES", "SHORT_BINBYTES", "BINUNICODE", "SHORT_BINUNICODE"):
            places.append(position + 1)
        if opcode.name == "BINBYTES":
            stored = io.BytesIO(argument)
            for _ in range(5):
                list(pickletools.genops(stored))
            places.append(position + 5 + stored.tell())
    assert len(places) > 50
    for place in places[::5]:
        refusal(tmp_path, data[:place] + bytes([data[place] ^ 0x40]) + data[place + 1 :])


def test_flipped_bits_anywhere(tmp_path: Path) -> None:
    """Damage to weights cannot be seen; all other damage is refused, never a traceback."""
    data = dumped()
    generator = np.random.default_rng(11)
    messages = []
    for place in generator.integers(0, len(data), 60):
        flipped = bytes([data[place] ^ 1 << int(generator.integers(8))])
        try:
            import_model(
                str(save(tmp_path, data[:place] + flipped + data[place + 1 :])),
                tmp_path / "model.safetensors",
            )
        except UserError as error:
            messages.append(str(error))
    assert all(message.isprintable() for message in messages)
    assert 5 < len(messages) < 60


def test_import(tmp_path: Path) -> None:
    """Weights in the file's own type, without what belongs to training; `init_from` reads them."""
    path, out = save(tmp_path, dumped(lambda network: network.half())), tmp_path / "model.safetensors"
    expected = edm_network().half().model.state_dict()
    del expected["map_augment.weight"]
    out.write_text("old")
    report = import_model(str(path), out)
    weights = read_weights(out)
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    network, described = model.load(out, torch.device("cpu"))
    assert described.training is None
    assert not initialise(network.network, weights).missing
    with pytest.raises(UserError, match="a diffusion model"):
        print(described.sampler)
    assert "EDM" in report and "a diffusion model" in report
    first = out.read_bytes()
    import_model(str(path), out)
    assert out.read_bytes() == first
    assert {path.name for path in tmp_path.iterdir()} == {"snapshot.pkl", "model.safetensors"}


def test_a_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = save(tmp_path, dumped()), tmp_path / "model.safetensors"
    out.write_text("old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UserError, match="No space left"):
        import_model(str(path), out)
    assert out.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        import_model(str(save(tmp_path, dumped())), tmp_path)
