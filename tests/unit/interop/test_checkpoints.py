"""Files of every family, damaged and hostile: one line, nothing executed, nothing written."""

from __future__ import annotations

import copy
import io
import json
import lzma
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from couplet import cli, model
from couplet.errors import UserError
from couplet.interop import files
from couplet.interop.convert import Options, import_model

PUBLISHED = Path(__file__).parents[2] / "golden" / "published"
INDEX = json.loads((PUBLISHED / "index.json").read_text())
CASES = {case: facts for group in INDEX["groups"] for case, facts in group["cases"].items()}
FILES = sorted(case for case, facts in CASES.items() if "file" in facts)
ZIPS = [case for case in FILES if CASES[case]["container"] == "torch zip"]
OPENAI, VCT, GC = "openai_imagenet64", "vct_ecm_vae_ve", "gc_mix50"
SIZES = Options(head_channels=16, resolution=8)


@cache
def stored(case: str) -> bytes:
    return lzma.decompress((PUBLISHED / CASES[case]["stored_as"]).read_bytes())


@pytest.fixture(autouse=True)
def nothing_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    assert not Path("executed").exists(), "the file's code was executed"


def refusal(path: Path, options: Options = SIZES) -> str:
    """Import it; check that it is refused in one line and that nothing is written."""
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(UserError) as caught:
        import_model(str(path), Path("out") / "model.safetensors", options)
    assert sorted(path.parent.rglob("*")) == before
    message = str(caught.value)
    assert message.startswith(f"{path}")
    assert message.isprintable()
    assert len(message) < 700
    return message.removeprefix(str(path))


def refused(data: bytes, name: str = "checkpoint") -> str:
    path = Path(name)
    path.write_bytes(data)
    return refusal(path.absolute())


def options_of(case: str) -> Options:
    return Options(head_channels=8) if case.endswith(".pth") else SIZES._replace(head_channels=None)


@pytest.mark.parametrize("case", FILES)
def test_truncated_at_many_places(case: str) -> None:
    data = stored(case)
    for share in (0.0001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999):
        cause = refused(data[: int(share * len(data))])
        assert "expected a checkpoint of EDM" in cause


@pytest.mark.parametrize("case", ZIPS)
def test_a_flipped_bit_of_a_zip(case: str) -> None:
    """Of the weights too, which have a checksum; what no weight of the chosen set needs is not read."""
    data, generator = stored(case), np.random.default_rng(5)
    seen = 0
    for place in generator.integers(0, len(data), 6):
        path = Path("checkpoint")
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        try:
            import_model(str(path), Path("model"), options_of(case)._replace(head_channels=16))
        except UserError:
            seen += 1
        Path("model").unlink(missing_ok=True)
    if case == OPENAI:
        assert seen == 6


def rezipped(data: bytes, edit: Callable[[dict[str, bytes]], Any], **options: Any) -> bytes:
    """The same entries after ``edit``, stored unless the options say otherwise."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    edit(entries)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", **options) as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name), content, options.get("compression", zipfile.ZIP_STORED))
    return out.getvalue()


def test_the_same_entries_are_accepted() -> None:
    Path("x.pt").write_bytes(rezipped(stored(GC), lambda entries: None))
    assert "GC" in import_model("x.pt", Path("model"))


def renamed(old: str, new: str) -> Callable[[dict[str, bytes]], Any]:
    return lambda entries: entries.update({new: entries.pop(old)})


ENTRIES: dict[str, Callable[[dict[str, bytes]], Any]] = {
    "no pickle": lambda e: e.pop("best_model/data.pkl"),
    "no storage": lambda e: e.pop("best_model/data/7"),
    "a short storage": lambda e: e.update({"best_model/data/7": b"\0"}),
    "an empty pickle": lambda e: e.update({"best_model/data.pkl": b""}),
    "a big-endian file": lambda e: e.update({"best_model/byteorder": b"big"}),
    "a path upwards": renamed("best_model/data/7", "best_model/../data/7"),
    "an absolute path": renamed("best_model/data.pkl", "/etc/data.pkl.x"),
    "no folder": renamed("best_model/data.pkl", "data.pkl"),
    "two pickles": lambda e: e.update({"other/data.pkl": e["best_model/data.pkl"]}),
    "code": lambda e: e.update({"best_model/data.pkl": pickle.dumps(Call(os.system, "touch executed"), 2)}),
    "eval": lambda e: e.update({"best_model/data.pkl": pickle.dumps(Call(eval, "open('executed', 'w')"), 2)}),
}


class Call:
    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced

    def __call__(self) -> None:
        """Nothing; the pickler wants what is called to be callable."""


@pytest.mark.parametrize("what", ENTRIES)
def test_other_entries(what: str) -> None:
    refused(rezipped(stored(GC), ENTRIES[what]))


def test_compressed_zips_and_bombs() -> None:
    bomb = rezipped(stored(GC), lambda e: e.update({"best_model/data/7": bytes(10**8)}), compression=8)
    assert len(bomb) < 10**6
    assert "is compressed" in refused(bomb)
    assert "is compressed" in refused(rezipped(stored(OPENAI), lambda e: None, compression=8))


def edited_directory(data: bytes, place: int, value: bytes) -> bytes:
    """With other bytes in the central directory's entry of the first storage."""
    start = data.rfind(b"PK\x01\x02", 0, data.rfind(b"best_model/data/0"))
    return data[: start + place] + value + data[start + place + len(value) :]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (42, struct.pack("<I", 0)),  # the offset of another entry
        (42, struct.pack("<I", 2**31)),
        (24, struct.pack("<I", 2**31)),  # the size
        (20, struct.pack("<II", 2**31, 2**31)),
        (16, b"abcd"),  # the checksum
        (10, b"\x08\x00"),  # the method
        (8, b"\x01\x00"),  # encrypted
    ],
)
def test_directories_that_lie(place: int, value: bytes) -> None:
    data = rezipped(stored(GC), lambda entries: None)
    path = Path("checkpoint")
    path.write_bytes(edited_directory(data, place, value))
    refusal(path.absolute(), Options(weights="raw"))


def states(case: str) -> dict[str, Any]:
    """The content of a file that has no code, to be edited."""
    content: dict[str, Any] = torch.load(io.BytesIO(stored(case)), weights_only=True)
    return copy.deepcopy(content)


def resaved(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


FIRST = "input_blocks.0.0.weight"
WEIGHTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "missing": lambda s: s.pop(FIRST),
    "missing inside": lambda s: s.pop("middle_block.1.qkv.weight"),
    "missing label": lambda s: s.pop("time_embed.0.weight"),
    "extra": lambda s: s.update(extra=torch.zeros(1)),
    "extra block": lambda s: s.update({"input_blocks.9.0.in_layers.0.weight": torch.zeros(32)}),
    "turned": lambda s: s.update({FIRST: s[FIRST].transpose(0, 1)}),
    "scalar": lambda s: s.update({FIRST: torch.tensor(1.0)}),
    "empty": lambda s: s.update({FIRST: torch.zeros(0, 3, 3, 3)}),
    "integers": lambda s: s.update({FIRST: s[FIRST].long()}),
    "truths": lambda s: s.update({FIRST: s[FIRST] > 0}),
    "NaN": lambda s: s[FIRST].data.fill_(float("nan")),
    "infinity": lambda s: s[FIRST].data.fill_(float("inf")),
    "no tensor": lambda s: s.update({FIRST: 1.0}),
    "a list": lambda s: s.update({FIRST: [s[FIRST]]}),
    "a name with a line break": lambda s: s.update({"a\nb": torch.zeros(1)}),
    "a number as a name": lambda s: s.update({3: torch.zeros(1)}),
    "convolutional resampling": lambda s: s.update({"input_blocks.2.0.op.weight": torch.zeros(1)}),
    "six outputs": lambda s: s.update(
        {"out.2.weight": torch.zeros(6, 32, 3, 3), "out.2.bias": torch.zeros(6)}
    ),
    "a thousand levels": lambda s: s.update(
        {f"output_blocks.{n}.1.in_layers.0.weight": torch.zeros(32) for n in range(999)}
    ),
    "overlapping": lambda s: s.update(
        {"out.2.bias": torch.zeros(1000)[:3], FIRST: torch.zeros(30).expand(32, 3, 3, 30)[..., :3]}
    ),
    "one storage many times": lambda s: s.update(
        zip(
            ("middle_block.0.in_layers.0.bias", "middle_block.0.out_layers.0.bias"),
            [torch.ones(32)] * 2,
            strict=True,
        )
    ),
}


@pytest.mark.parametrize("what", WEIGHTS)
def test_other_weights(what: str) -> None:
    content = states(OPENAI)
    WEIGHTS[what](content)
    refused(resaved(content))


SIZES_WRONG = [
    Options(head_channels=16, resolution=7),
    Options(head_channels=16),
    Options(resolution=8),
    Options(head_channels=5, resolution=8),
    Options(head_channels=64, resolution=8),
    SIZES._replace(weights="ema"),
    SIZES._replace(mid_sigmas=(90.0,)),
    SIZES._replace(mid_sigmas=(0.5, 0.8)),
    SIZES._replace(mid_sigmas=(0.001,)),
]


@pytest.mark.parametrize("options", SIZES_WRONG)
def test_options_that_do_not_fit(options: Options) -> None:
    path = Path("x.pt").absolute()
    path.write_bytes(stored(OPENAI))
    refusal(path, options)


def test_what_no_file_tells_is_said() -> None:
    Path("x.pt").write_bytes(stored(OPENAI))
    report = import_model("x.pt", Path("model"), SIZES)
    assert "not in the file, assumed: second evaluation at 1.3824" in report
    assert "355,235 parameters" in report
    report = import_model("x.pt", Path("model"), SIZES._replace(mid_sigmas=(1.0,)))
    assert "second evaluation" not in report
    assert "sampling: 80, 1" in report
    assert refusal(Path("x.pt").absolute(), Options(head_channels=16)).endswith("give --resolution")
    assert refusal(Path("x.pt").absolute(), Options(resolution=8)).endswith("give --head-channels")


GC_EDITS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no average": lambda c: c["model_ema_state_dict"].clear(),
    "a list": lambda c: c.update(model_ema_state_dict=[1]),
    "none": lambda c: c.update(model_ema_state_dict=None),
    "raw weights alone": lambda c: c.pop("model_ema_state_dict"),
    "other names": lambda c: c.update(
        model_ema_state_dict={f"x.{n}": t for n, t in c["model_ema_state_dict"].items()}
    ),
    "no level": lambda c: [
        c["model_ema_state_dict"].pop(n) for n in [*c["model_ema_state_dict"]] if "enc." in n
    ],
    "another number of channels": lambda c: c["model_ema_state_dict"].update(
        {"ema_model.module.model.enc.8x8_conv.weight": torch.zeros(12, 3, 3, 3)}
    ),
    "itself": lambda c: c.update(model_ema_state_dict=c),
}


@pytest.mark.parametrize("what", GC_EDITS)
def test_other_states_of_gc(what: str) -> None:
    content = states(GC)
    GC_EDITS[what](content)
    refused(resaved(content))


def replaced(case: str, old: bytes, new: bytes) -> bytes:
    """A text in the pickle of a zip, of the same length, replaced everywhere."""
    assert len(old) == len(new)

    def edit(entries: dict[str, bytes]) -> None:
        name = next(name for name in entries if name.endswith("/data.pkl"))
        assert old in entries[name]
        entries[name] = entries[name].replace(old, new)

    return rezipped(stored(case), edit)


VCT_TEXTS = [
    (b"__builtin__\ngetattr", b"__builtin__\nsetattr"),
    (b"models.ecm\nEasyConsistencyModel", b"os.path\nsystem.EasyConsistency "),
    (b"typing\nAny", b"shutil\nmov"),
    (b"kernels.variance_exploding\nV", b"builtins.variance_explod\nev"),
    (b"coupling", b"couplinx"),
    (b"sigma_data", b"sigma_datx"),
    (b"encoder.", b"encodex."),
    (b"ema.net.", b"ema.nxt."),
    (b"state_dict", b"state_dicx"),
    (b"hyper_parameters", b"hyper_parameterx"),
    (b"_content", b"_contenx"),
    (b"collections\nOrderedDict", b"subprocess.x\nPopenedDict"[:23]),
]


@pytest.mark.parametrize("number", range(len(VCT_TEXTS)))
def test_other_lightning_files(number: int) -> None:
    old, new = VCT_TEXTS[number]
    data = replaced(VCT, old, (new + bytes(len(old)))[: len(old)])
    if old == b"sigma_data":  # a setting without a value is the family's own
        Path("x.ckpt").write_bytes(data)
        assert "VCT" in import_model("x.ckpt", Path("model"))
    else:
        refused(data)


CODE = [
    Call(os.system, "touch executed"),
    Call(eval, "open('executed', 'w')"),
    Call(exec, "open('executed', 'w')"),
    Call(getattr, OrderedDict, "__subclasses__"),
    Call(subprocess.check_call, ["touch", "executed"]),
    Call(__import__, "antigravity"),
    Call(Call(getattr, str, "join"), "x"),  # type: ignore[arg-type]
    Call(torch.load, "x"),
    Call(shutil.rmtree, "x"),
]


@pytest.mark.parametrize("number", range(len(CODE)))
@pytest.mark.parametrize("where", ["alone", "lightning", "gc", "openai"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_code_in_files_of_torch(number: int, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    evil = CODE[number]
    monkeypatch.setitem(sys.modules, "antigravity", ModuleType("antigravity"))
    content = {
        "alone": lambda: evil,
        "lightning": lambda: {"pytorch-lightning_version": "2.5.0", "hyper_parameters": {"cfg": evil}},
        "gc": lambda: {**states(GC), "optimizer_state_dict": evil},
        "openai": lambda: {**states(OPENAI), "extra": evil},
    }[where]()
    assert "not allowed" in refused(resaved(content))


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    """A folder of diffusers in a folder of its own, all of it writable."""
    folder = tmp_path / "rooms" / "pipeline"
    for source in (PUBLISHED / "diffusers_cd_imagenet64").rglob("*.*"):
        target = folder / source.relative_to(PUBLISHED / "diffusers_cd_imagenet64")
        target.parent.mkdir(parents=True, exist_ok=True)
        packed = source.suffix == ".xz"
        content = source.read_bytes()
        (target.with_suffix("") if packed else target).write_bytes(
            lzma.decompress(content) if packed else content
        )
    return folder


UNET = "unet/config.json"
WEIGHTS_FILE = "unet/diffusion_pytorch_model.safetensors"


def setting(file: str, **changes: Any) -> Callable[[Path], Any]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / file).read_text()) | changes
        (folder / file).write_text(json.dumps(content))

    return edit


def written(file: str, content: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / file).write_bytes(content)


def linked(file: str, target: str) -> Callable[[Path], Any]:
    def edit(folder: Path) -> None:
        (folder / file).unlink()
        (folder / file).symlink_to(target)

    return edit


def moved_out(file: str) -> Callable[[Path], Any]:
    def edit(folder: Path) -> None:
        outside = folder.parent / "outside"
        (folder / file).rename(outside)
        (folder / file).symlink_to(outside)

    return edit


def header(claim: int) -> Callable[[Path], Any]:
    return lambda folder: (folder / WEIGHTS_FILE).write_bytes(
        struct.pack("<Q", claim) + (folder / WEIGHTS_FILE).read_bytes()[8:]
    )


def tensors(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        content = load_file(folder / WEIGHTS_FILE)
        content = {name: tensor.clone() for name, tensor in content.items()}
        edit(content)
        save_file(content, folder / WEIGHTS_FILE)

    return change


FOLDERS: dict[str, Callable[[Path], Any]] = {
    "another pipeline": setting("model_index.json", _class_name="StableDiffusionPipeline"),
    "no class": setting("model_index.json", _class_name=None),
    "a list": written("model_index.json", b"[1, 2]"),
    "nothing": written("model_index.json", b""),
    "deep JSON": written("model_index.json", b"[" * 100_000),
    "huge JSON": written("model_index.json", b" " * 2_000_000 + b"{}"),
    "no UTF-8": written(UNET, b"\xff\xfe{}"),
    "another unet": setting(UNET, _class_name="UNet2DConditionModel"),
    "another activation": setting(UNET, act_fn="gelu"),
    "another time": setting(UNET, time_embedding_type="fourier"),
    "sines first": setting(UNET, flip_sin_to_cos=False),
    "another shift": setting(UNET, freq_shift=1),
    "other groups": setting(UNET, norm_num_groups=16),
    "another epsilon": setting(UNET, norm_eps=1e-6),
    "a text for a size": setting(UNET, sample_size="8"),
    "no size": setting(UNET, sample_size=None),
    "an odd size": setting(UNET, sample_size=7),
    "a huge size": setting(UNET, sample_size=10**12),
    "a negative size": setting(UNET, sample_size=-8),
    "no heads": setting(UNET, attention_head_dim=0),
    "many heads": setting(UNET, attention_head_dim="x"),
    "wide heads": setting(UNET, attention_head_dim=64),
    "another scheduler": setting("scheduler/scheduler_config.json", _class_name="DDIMScheduler"),
    "a text for a level": setting("scheduler/scheduler_config.json", sigma_max="80"),
    "a negative level": setting("scheduler/scheduler_config.json", sigma_min=-1),
    "an infinite level": setting("scheduler/scheduler_config.json", sigma_max=float("inf")),
    "levels the wrong way": setting("scheduler/scheduler_config.json", sigma_min=90.0),
    "a text for steps": setting("scheduler/scheduler_config.json", num_train_timesteps=[40]),
    "no index": lambda folder: (folder / "model_index.json").unlink(),
    "no config": lambda folder: (folder / UNET).unlink(),
    "no scheduler": lambda folder: shutil.rmtree(folder / "scheduler"),
    "no weights": lambda folder: (folder / WEIGHTS_FILE).unlink(),
    "a folder of weights": lambda folder: ((folder / WEIGHTS_FILE).unlink(), (folder / WEIGHTS_FILE).mkdir()),
    "a link to a device": linked(WEIGHTS_FILE, "/dev/zero"),
    "a link outside": moved_out(WEIGHTS_FILE),
    "a configuration outside": moved_out(UNET),
    "a link to itself": linked(UNET, "config.json"),
    "a pickle for weights": written(WEIGHTS_FILE, pickle.dumps(Call(os.system, "touch executed"), 2)),
    "a short header": header(10),
    "a long header": header(2**40),
    "a truncated file": lambda f: (f / WEIGHTS_FILE).write_bytes((f / WEIGHTS_FILE).read_bytes()[:9000]),
    "overlapping tensors": lambda f: (f / WEIGHTS_FILE).write_bytes(
        (f / WEIGHTS_FILE).read_bytes().replace(b'"data_offsets":[', b'"data_offsets":[0,', 1)
    ),
    "no keys": tensors(lambda t: t.pop("mid_block.attentions.0.to_k.weight")),
    "no values' bias": tensors(lambda t: t.pop("mid_block.attentions.0.to_v.bias")),
    "keys of another shape": tensors(
        lambda t: t.update({"mid_block.attentions.0.to_k.weight": torch.zeros(2, 2)})
    ),
    "an extra tensor": tensors(lambda t: t.update(extra=torch.zeros(1))),
    "no convolution": tensors(lambda t: t.pop("conv_in.weight")),
    "integers": tensors(lambda t: t.update({"conv_in.weight": t["conv_in.weight"].int()})),
    "NaN": tensors(lambda t: t["conv_in.weight"].fill_(float("nan"))),
}


@pytest.mark.parametrize("what", FOLDERS)
def test_other_folders(what: str, pipeline: Path) -> None:
    FOLDERS[what](pipeline)
    refusal(pipeline, Options())


def test_weights_of_a_folder_as_torch_saves_them(pipeline: Path) -> None:
    """`.bin` instead of safetensors: the same model."""
    import_model(str(pipeline), Path("one"))
    content = load_file(pipeline / WEIGHTS_FILE)
    (pipeline / WEIGHTS_FILE).unlink()
    torch.save(content, (pipeline / WEIGHTS_FILE).with_suffix(".bin"))
    import_model(str(pipeline), Path("two"))
    assert Path("one").read_bytes() == Path("two").read_bytes()


def test_a_folder_of_the_hub_s_cache(pipeline: Path) -> None:
    """Its files are links to others beside the snapshot."""
    cached = pipeline.parent / "snapshots" / "0"
    cached.parent.mkdir()
    pipeline.rename(cached)
    blob = pipeline.parent / "blobs" / "1"
    blob.parent.mkdir()
    (cached / WEIGHTS_FILE).rename(blob)
    (cached / WEIGHTS_FILE).symlink_to(blob)
    assert "diffusers" in import_model(str(cached), Path("model"))


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo("pipe")
    for path in (Path("/dev/zero"), Path("pipe").absolute()):
        with pytest.raises(UserError, match="neither a file nor a folder"):
            import_model(str(path), tmp_path / "model")
    for name in ("absent.pkl", "../up/down", "a/b/c", "https://x.y/z"):
        with pytest.raises(UserError, match=f"^{name}: no such file or folder"):
            import_model(name, tmp_path / "model")
    assert "a file of no known kind" in refused(bytes(range(100)))
    (tmp_path / "empty").mkdir()
    assert "a folder without model_index.json" in refusal(tmp_path / "empty")


def test_a_model_of_couplet_needs_no_import() -> None:
    Path("x.pt").write_bytes(stored(GC))
    import_model("x.pt", Path("model"))
    assert "a model of couplet already" in refusal(Path("model").absolute())
    Path("run/checkpoints").mkdir(parents=True)
    assert "a model of couplet already" in refusal(Path("run").absolute())


def test_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("x.pt").write_bytes(stored(GC)[:1000])
    monkeypatch.setattr(sys, "argv", ["couplet", "import", "x.pt", "--out", "model"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not Path("model").exists()


def test_raw_and_averaged_weights_differ() -> None:
    Path("x.pt").write_bytes(stored(GC))
    digests = set()
    for weights in (None, "ema", "raw"):
        import_model("x.pt", Path("model"), Options(weights=weights))
        digests.add(next(iter(model.load_tensors(Path("model"))[1].values())).sum().item())
    assert len(digests) == 2
    assert "this file has: ema, raw" in refusal(Path("x.pt").absolute(), Options(weights="0.05"))


def test_tensors_are_read_from_the_file_when_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are not chosen, and moments of the optimiser, are not."""
    Path("x.pt").write_bytes(stored(GC))
    read: list[str] = []
    before = files._Part.__call__
    monkeypatch.setattr(files._Part, "__call__", lambda part: read.append("") or before(part))
    import_model("x.pt", Path("model"))
    assert len(read) < 200 < len(zipfile.ZipFile("x.pt").namelist())
