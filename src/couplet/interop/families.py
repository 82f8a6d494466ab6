"""The families of published checkpoints, told apart by what their files hold."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from couplet.interop.architecture import PER_HEAD
from couplet.interop.files import Content, Refused, read, read_json
from couplet.interop.hub import is_own
from couplet.interop.openai import from_diffusers, from_openai
from couplet.interop.pickles import Module, Object, StoredTensor, section, state_of
from couplet.schedules import karras_level

Stored = Mapping[str, StoredTensor | Tensor]
Convert = Callable[[dict[str, Tensor], int], dict[str, Tensor]]

OURS = "a model of couplet already, which needs no import"
NOISE_SCALE = 1000.0
"""Factor on the noise label in OpenAI's networks."""
SHIFTED = "c_skip and c_out with t - sigma_min, so that f(x, sigma_min) = x"
PLAIN = "EDM's, without a shift at sigma_min"


@dataclass
class Checkpoint:
    """A checkpoint as its family stores it."""

    family: str
    weights: dict[str, Stored]
    """Sets of weights by name, the one that the authors evaluate first. Names begin with `network.`, or
    `encoder.` of a variational coupling."""
    boundary: bool = True
    mid_sigmas: tuple[float, ...] = (0.821,)
    clip: bool = False
    reduced: bool = False
    quantise: str = "round"
    consistency: bool = True
    """False for a diffusion model, from which training may start."""
    levels: Mapping[str, float] = field(default_factory=dict)
    """`sigma_min`, `sigma_max` and `sigma_data`, where they are not 0.002, 80 and 0.5."""
    kernel: str = "ve"
    coupling: dict[str, Any] = field(default_factory=lambda: {"kind": "independent"})
    network: dict[str, Any] = field(default_factory=dict)
    """Settings of the network that its tensors do not tell."""
    head_channels: int | None = None
    resolution: int | None = None
    convert: Convert | None = None
    """To EDM's names, given the resolution, where they are others."""
    assumed: dict[str, str] = field(default_factory=dict)
    """What the file does not tell, and is taken from the family's published models, by the option that tells
    it (`family` is none)."""


def recognise(path: Path) -> Checkpoint:
    """Read a checkpoint of any family.

    Raises:
        Refused: it is of none, or has an option that couplet lacks.
        Exception: nearly any, where the file is damaged.
    """
    if path.is_dir():
        if is_own(path):
            raise Refused(OURS)
        return _diffusers(path)
    content = read(path)
    for family in (_couplet, _nvidia, _lightning, _gc, _state_dict):
        if (found := family(content)) is not None:
            return found
    raise Refused(described(content.value))


def described(value: Any) -> str:
    """What an unknown file holds."""
    if not isinstance(value, dict):
        return f"a saved {type(value).__name__.lstrip('_')}"
    names = [_shown(name) for name in list(value)[:5]]
    return f"a dict of {len(value)} entries: {', '.join(names)}{', …' if len(value) > 5 else ''}"


def _couplet(content: Content) -> None:
    if "couplet" in content.texts:
        raise Refused(OURS)


# --- NVIDIA's code and what was made from it: EDM, EDM2, ECT, TCM, CMT -----------------------------

FIXED = {
    "decoder_type": "standard",
    "emb_norm": False,
    "label_balance": 0.5,
    "concat_balance": 0.5,
    "res_balance": 0.3,
    "attn_balance": 0.3,
    "clip_act": 256,
    "second_time_embedding": False,
    "return_embeddings": False,
}
"""Arguments and attributes of networks that couplet has with one value alone."""


def _nvidia(content: Content) -> Checkpoint | None:
    """A pickled module: a snapshot, or a training state."""
    value = content.value
    if not isinstance(value, dict):
        return None
    whole = next((value[key] for key in ("ema", "net") if isinstance(value.get(key), Module)), None)
    if whole is None:
        return None
    modules = section(whole, "_modules")
    inside = [name for name in ("model", "unet") if isinstance(modules.get(name), Module)]
    if len(inside) != 1:
        raise Refused("a module that does not wrap one network, under 'model' or 'unet'")
    network = modules[inside[0]]
    arguments = _arguments(network, _arguments(whole, {}))
    _fixed(arguments | network.state)
    taps = arguments.get("resample_filter", [1, 1])
    if "out_gain" in section(network, "_parameters") and taps != [1, 1]:  # elsewhere a tensor tells it
        raise Refused("a network of EDM2 with another resample_filter than [1, 1]")

    states: dict[str, Stored] = {}
    averages = value.get("ema_state")
    if isinstance(averages, dict) and isinstance(averages.get("emas"), list):
        widths = zip(averages.get("stds", ()), averages["emas"], strict=True)
        states = {f"{std:.3f}": _tensors(ema) for std, ema in widths}
        middle = list(states)[len(states) // 2]  # of 0.01, 0.05 and 0.1
        states = {middle: states[middle], **states}
    if isinstance(value.get("online_ema_state"), dict) and value["online_ema_state"]:
        online = value["online_ema_state"]
        states["online"] = _tensors(online.get("ema", online))
    label = "ema" if "ema" in value else "raw"
    states[label] = state_of(whole)
    found = Checkpoint(
        "EDM",
        {name: _inside(state, inside[0]) for name, state in states.items()},
        levels={"sigma_data": _number(whole.state, "sigma_data", 0.5)},
        head_channels=arguments.get("channels_per_head", PER_HEAD),
    )
    tcm = "emb_norm" in network.state or _is_module(value.get("loss_fn"))
    match whole.class_name, inside[0]:
        case "EDMPrecond", "model":
            found.boundary, found.consistency = False, False
        case "Precond", "unet" if any(name.startswith("logvar") for name in modules):
            found.family, found.boundary, found.consistency = "EDM2", False, False
        case "Precond", "unet":
            found.family, found.boundary, found.mid_sigmas = "ECT (ImageNet branch)", False, (1.526,)
        case "ECMPrecond", "model" if tcm:
            found.family, found.boundary = "TCM", False
        case "ECMPrecond", "model":
            cmt = "net_ref" in value if label == "raw" else "loss_fn" not in value
            found.family = "CMT" if cmt else "ECT"
            found.levels = {**found.levels, "sigma_min": _number(whole.state, "sigma_min", 0.002)}
        case name, _:
            raise Refused(f"preconditioning {name[:80]}, not EDMPrecond, ECMPrecond or EDM2's Precond")
    if found.consistency:
        found.assumed["mid_sigmas"] = f"second evaluation at {found.mid_sigmas[0]}"
    return found


def _arguments(module: Module, defaults: dict[str, Any]) -> dict[str, Any]:
    arguments = module.state.get("_init_kwargs", {})
    return defaults | arguments if isinstance(arguments, dict) else defaults


def _fixed(settings: Mapping[Any, Any]) -> None:
    for name, expected in FIXED.items():
        if name in settings and settings[name] != expected:
            raise Refused(f"a network with {name} = {_shown(settings[name])}, where couplet has {expected}")


def _is_module(value: Any) -> bool:
    return isinstance(value, Module) and "_parameters" in value.state


def _number(state: Mapping[Any, Any], name: str, default: float) -> float:
    value = state.get(name, default)
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise Refused(f"a model with {name} = {_shown(value)}")
    return float(value)


def _tensors(state: Any, prefix: str = "") -> dict[str, StoredTensor | Tensor]:
    """Entries of a state dict under ``prefix``, without it; Refused if one is no tensor."""
    if not isinstance(state, dict):
        raise Refused("weights that are no dict")
    chosen = {str(name): tensor for name, tensor in state.items() if str(name).startswith(prefix)}
    for name, tensor in chosen.items():
        if not isinstance(tensor, StoredTensor | Tensor) or not name.isprintable():
            raise Refused(f"{name[:80]!r} is no tensor")
    return {name.removeprefix(prefix): tensor for name, tensor in chosen.items()}


def _inside(state: Stored, attribute: str) -> Stored:
    """The network's tensors, without those of data augmentation, which is off when sampling."""
    inside = {name.removeprefix(f"{attribute}."): tensor for name, tensor in state.items()
              if name.startswith(f"{attribute}.")}  # fmt: skip
    if not inside:
        raise Refused(f"weights without tensors of {attribute}")
    return {f"network.{name}": t for name, t in inside.items() if not name.startswith("map_augment.")}


# --- VCT: checkpoints of Lightning -----------------------------------------------------------------


def _lightning(content: Content) -> Checkpoint | None:
    value = content.value
    if not isinstance(value, dict) or "pytorch-lightning_version" not in value:
        return None
    parameters = value.get("hyper_parameters")
    cfg = parameters.get("cfg") if isinstance(parameters, dict) else None

    def setting(*keys: str, default: Any = None) -> Any:
        found = cfg
        for key in keys:
            entries = _plain(found)
            if not isinstance(entries, dict) or key not in entries:
                return default
            found = entries[key]
        return _plain(found)

    name, kernel, coupling = (setting("model", key) for key in ("name", "kernel", "coupling"))
    kernels = {"ve": "ve", "cot": "li"}
    couplings = {"vae": "vae", "independent": "independent", "ot": "ot"}
    if name not in ("ict", "ecm") or kernel not in kernels or coupling not in couplings:
        raise Refused(
            f"a Lightning checkpoint of model {_shown(name)}, kernel {_shown(kernel)} and coupling "
            f"{_shown(coupling)}, not VCT's of ict or ecm, ve or cot, independent, ot or vae"
        )
    network = setting("network", default={})
    _fixed({key: _plain(entry) for key, entry in network.items()})
    state = value.get("state_dict")
    weights = {label: _vct_weights(state, prefix) for label, prefix in (("ema", "ema."), ("raw", "model."))
               if _tensors(state, prefix)}  # fmt: skip
    if setting("model", "use_ema", default=True) is False:
        weights.pop("ema", None)
    mid = setting("model", "mid_t", default=[])
    model: dict[str, Any] = {key: setting("model", key) for key in ("sigma_min", "sigma_max", "sigma_data")}
    numbers = {key: _number(model, key, 0.5) for key in model if model[key] is not None}
    settings: dict[str, Any] = {"kind": couplings[coupling]}
    if coupling == "vae":
        settings["kl_weight"] = float(setting("model", "kl_loss_scale", default=30.0))
    return Checkpoint(
        f"VCT ({'iCT' if name == 'ict' else 'ECM'})",
        weights,
        mid_sigmas=tuple(float(_plain(level)) for level in mid),
        quantise="truncate",
        kernel=kernels[kernel],
        coupling=settings,
        head_channels=setting("network", "channels_per_head", default=PER_HEAD),
        levels=numbers,
    )


def _plain(value: Any) -> Any:
    """The value of a node of omegaconf; of a container, its nodes."""
    if isinstance(value, Object):
        return value.state.get("_content", value.state.get("_val"))
    return value


def _shown(value: Any) -> str:
    """A short text for a value; of a container, which may hold itself, its type alone."""
    if isinstance(value, str | int | float | None):
        return repr(value)[:60]
    return type(value).__name__.lstrip("_")


def _vct_weights(state: Any, prefix: str) -> Stored:
    weights: dict[str, StoredTensor | Tensor] = {}
    for part, name in (("net.", "network."), ("encoder.", "encoder.")):
        tensors = _tensors(state, prefix + part)
        inside = "unet." if "unet.out_gain" in tensors else ""  # of EDM2's preconditioning
        for key, tensor in tensors.items():
            if key.startswith(inside) and not key.startswith(f"{inside}map_augment."):
                weights[name + key.removeprefix(inside)] = tensor
    return weights


# --- state dicts -----------------------------------------------------------------------------------


def _gc(content: Content) -> Checkpoint | None:
    value = content.value
    if not isinstance(value, dict) or "model_ema_state_dict" not in value:
        return None
    places = {
        "ema": (value["model_ema_state_dict"], ("ema_model.module.model.", "ema_model.model.")),
        "raw": (value.get("model_state_dict", {}), ("module.model.", "model.")),
    }
    weights: dict[str, Stored] = {}
    for label, (state, prefixes) in places.items():
        for prefix in prefixes:
            if tensors := _tensors(state, prefix):
                weights[label] = {f"network.{name}": tensor for name, tensor in tensors.items()
                                  if not name.startswith("map_augment.")}  # fmt: skip
                break
    if "ema" not in weights:
        raise Refused("a dict with model_ema_state_dict, but without GC's network in it")
    assumed = {"family": "sigma_min 0.002, sigma_max 80, sigma_data 0.5"}
    return Checkpoint("GC", weights, mid_sigmas=(), assumed=assumed)


def _state_dict(content: Content) -> Checkpoint | None:
    """A state dict alone: of OpenAI's U-Net, or of TCM's whole model."""
    value = content.value
    if not isinstance(value, dict):
        return None
    if {"time_embed.0.weight", "input_blocks.0.0.weight"} <= value.keys():
        return _openai(value)
    if any(f"model.{name}" in value for name in ("map_layer0.weight", "out_gain")):
        assumed = {
            "family": "TCM's preconditioning, because only its code writes such a file",
            "mid_sigmas": "second evaluation at 0.821",
        }
        weights = {"weights": _inside(_tensors(value), "model")}
        return Checkpoint("TCM (state dict)", weights, boundary=False, assumed=assumed)
    return None


def _openai(value: dict[Any, Any]) -> Checkpoint:
    upsampling = re.compile(r"output_blocks\.\d+\.[12]\.in_layers\.0\.weight")
    levels = 1 + sum(bool(upsampling.fullmatch(str(name))) for name in value)
    resolution = {4: 64, 6: 256}.get(levels)  # ImageNet and LSUN
    index = 17 if resolution == 256 else 22
    mid = karras_level(index, 40)
    return Checkpoint(
        "OpenAI consistency model",
        {"weights": {f"network.{name}": tensor for name, tensor in _tensors(value).items()}},
        mid_sigmas=(mid,),
        clip=True,
        reduced=True,
        quantise="truncate",
        network={"noise_scale": NOISE_SCALE, "channels_per_group": 1},
        resolution=resolution,
        convert=from_openai,
        assumed={
            "family": "a consistency model, not a teacher, whose file looks the same",
            **({"resolution": f"images of {resolution} pixels"} if resolution else {}),
            "mid_sigmas": f"second evaluation at {mid:.4f} (index {index} of 40)",
        },
    )


# --- diffusers -------------------------------------------------------------------------------------

UNET = {
    "_class_name": "UNet2DModel",
    "act_fn": "silu",
    "add_attention": True,
    "center_input_sample": False,
    "class_embed_type": None,
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2D",
    "norm_eps": 1e-5,
    "norm_num_groups": 32,
    "attn_norm_num_groups": 32,
    "num_train_timesteps": None,
    "time_embedding_type": "positional",
}
"""Settings of a UNet2DModel with which it is ADM."""
INDEX = {"_class_name": "ConsistencyModelPipeline"}
SCHEDULER = {"_class_name": "CMStochasticIterativeScheduler", "rho": 7.0}
TWO_STEPS = {(40, 64): 22, (40, 256): 17, (201, 64): 106, (151, 256): 67}
"""Index of the second level by number of levels and resolution, in OpenAI's launch.sh."""


def _diffusers(folder: Path) -> Checkpoint:
    index = read_json(_within(folder, "model_index.json"))
    if index.get("_class_name") != INDEX["_class_name"]:
        raise Refused(
            f"a diffusers pipeline {_shown(index.get('_class_name'))}, not ConsistencyModelPipeline"
        )
    unet = read_json(_within(folder, "unet/config.json"))
    for name, expected in UNET.items():
        if unet.get(name, expected) != expected:
            raise Refused(f"unet/config.json: {name} = {_shown(unet[name])}, where ADM has {expected}")
    scheduler = read_json(_within(folder, "scheduler/scheduler_config.json"))
    if any(scheduler.get(name, 7.0) != expected for name, expected in SCHEDULER.items()):
        raise Refused(f"scheduler_config.json: scheduler {_shown(scheduler.get('_class_name'))}")
    numbers = {name: _number(scheduler, name, default) for name, default in
               (("sigma_min", 0.002), ("sigma_max", 80.0), ("sigma_data", 0.5))}  # fmt: skip
    resolution, head = unet.get("sample_size"), unet.get("attention_head_dim", 8)
    if type(resolution) is not int or not 1 <= resolution <= 4096:
        raise Refused(f"unet/config.json: sample_size = {_shown(resolution)}")
    if type(head) is not int or head < 1:
        raise Refused(f"unet/config.json: attention_head_dim = {_shown(head)}")
    names = [f"unet/diffusion_pytorch_model.{ending}" for ending in ("safetensors", "bin")]
    file = next((name for name in names if (folder / name).exists()), None)
    if file is None:
        raise Refused("a folder without unet/diffusion_pytorch_model.safetensors or .bin")
    tensors = _tensors(read(_within(folder, file)).value)
    steps = scheduler.get("num_train_timesteps", 40)
    second = TWO_STEPS.get((steps, resolution), 22 if steps == 40 else None)
    mid: tuple[float, ...] = ()
    assumed: dict[str, str] = {}
    if second is not None:
        mid = (karras_level(second, steps, numbers["sigma_min"], numbers["sigma_max"]),)
        assumed["mid_sigmas"] = f"second evaluation at {mid[0]:.4f} (index {second} of {steps})"
    return Checkpoint(
        "diffusers ConsistencyModelPipeline",
        {"weights": {f"network.{name}": tensor for name, tensor in tensors.items()}},
        mid_sigmas=mid,
        network={"noise_scale": NOISE_SCALE, "channels_per_group": 1},
        head_channels=head,
        resolution=resolution,
        convert=from_diffusers,
        clip=scheduler.get("clip_denoised", True) is not False,
        reduced=True,
        assumed=assumed,
        levels=numbers,
    )


def _within(folder: Path, name: str) -> Path:
    """A file of a folder; Refused if it is missing, or a link out of the folder or of the hub's cache."""
    path, root = folder / name, folder.resolve()
    if root.parent.name == "snapshots":  # huggingface_hub keeps the files beside the snapshot
        root = root.parent.parent
    if not path.is_file():
        raise Refused(f"a folder without {name}")
    if not path.resolve().is_relative_to(root):
        raise Refused(f"{name} is a link out of the folder")
    return path
