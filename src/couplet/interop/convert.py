"""`couplet import`: from a published checkpoint to a model file of couplet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from couplet.config.base import refused
from couplet.config.designs import Design, Imported, SamplerConfig
from couplet.config.networks import MultiHeadConfig
from couplet.errors import UserError
from couplet.files import reported, sha256
from couplet.interop.architecture import PER_HEAD, Architecture, architecture, head_width
from couplet.interop.families import PLAIN, SHIFTED, Checkpoint, recognise
from couplet.interop.files import Needed, Refused
from couplet.interop.hub import download
from couplet.interop.pickles import StoredTensor, UnpicklingError
from couplet.model import ImageShape, Saved, build, write

EXPECTED = (
    "expected a checkpoint of EDM, EDM2, ECT, TCM, CMT, VCT, GC or OpenAI's consistency models, or a folder "
    "of diffusers' ConsistencyModelPipeline"
)
LONGEST_CAUSE = 300
ASSUMED = "not in the file, assumed"
"""How the lines begin that a person should read, even where the model is imported in passing."""


class Options(NamedTuple):
    """What a file may not tell."""

    weights: str | None = None
    """Set of weights; None is the one that the authors evaluate."""
    head_channels: int | None = None
    """Channels of an attention head."""
    resolution: int | None = None
    """Height of the images in pixels."""
    mid_sigmas: tuple[float, ...] | None = None
    """Noise levels of the evaluations after the first."""


NO_OPTIONS = Options()


def import_model(source: str, out: Path, options: Options = NO_OPTIONS) -> str:
    """Write the model of a published checkpoint as a file of couplet; return what was found, for people.

    ``source`` is a file, a folder, or the `owner/name` of a model on the Hugging Face hub. The same
    checkpoint gives the same bytes. An existing file is unchanged on any error.

    Raises:
        UserError: the checkpoint is unusable, or ``out`` cannot be written.
    """
    path = Path(source)
    if not path.exists():
        path = download(source)
    with reported(path, "read"):
        if not path.is_dir() and not path.is_file():
            raise UserError(f"{path}: neither a file nor a folder; {EXPECTED}")
    try:
        checkpoint = recognise(path)
        label, tensors = _weights(checkpoint, options)
        found, saved = _described(source, path, checkpoint, label=label, tensors=tensors, options=options)
        tensors = _checked(tensors, saved, source)
    except UserError:
        raise
    except Exception as error:  # damage can make Python, numpy and torch raise nearly anything
        cause = str(error)
        if not isinstance(error, Refused | UnpicklingError):
            cause = f"damaged ({type(error).__name__}: {cause})"
        printable = "".join(c if c.isprintable() else "?" for c in cause[:LONGEST_CAUSE])
        if isinstance(error, Needed):
            raise UserError(f"{source}: {printable}") from None
        raise UserError(f"{source}: found {printable}; {EXPECTED}") from error
    write(out, tensors, saved)
    return "\n".join(
        _summary(source, out, checkpoint, label=label, found=found, saved=saved, options=options)
    )


def _weights(checkpoint: Checkpoint, options: Options) -> tuple[str, dict[str, Tensor]]:
    """The chosen set of weights, read."""
    if not checkpoint.weights:
        raise Refused("a checkpoint without weights")
    label = options.weights or next(iter(checkpoint.weights))
    if label not in checkpoint.weights:
        raise Needed(f"--weights {label}: this file has: {', '.join(checkpoint.weights)}")
    stored = checkpoint.weights[label]
    claimed: dict[int, int] = {}  # by storage
    for tensor in stored.values():
        if isinstance(tensor, StoredTensor):
            claimed[id(tensor.storage)] = claimed.get(id(tensor.storage), 0) + tensor.nbytes
            if claimed[id(tensor.storage)] > tensor.storage.length:
                raise Refused("tensors add up to more than their storage: they overlap")
    return label, {n: t.read() if isinstance(t, StoredTensor) else t for n, t in stored.items()}


def _described(
    source: str,
    path: Path,
    checkpoint: Checkpoint,
    *,
    label: str,
    tensors: dict[str, Tensor],
    options: Options,
) -> tuple[Architecture, Saved]:
    """What rebuilds the model; ``tensors`` get the names that they have in it."""
    network, encoder = _part(tensors, "network."), _part(tensors, "encoder.")
    if checkpoint.convert is not None:
        resolution = options.resolution or checkpoint.resolution
        if resolution is None:
            raise Needed("the file does not tell the size of its images: give --resolution")
        network = checkpoint.convert(network, resolution)
    found = architecture(network)
    if options.resolution not in (None, found.resolution):
        raise Needed(f"--resolution {options.resolution}: the images of this file have {found.resolution}")
    origin = {"file": path.name, "family": checkpoint.family, "weights": label}
    if path.is_file():
        origin["sha256"] = sha256(path)
    with refused(source):
        design = _design(checkpoint, found, encoder, options)
        sampler = _sampler(checkpoint, design, options) if checkpoint.consistency else None
    tensors.clear()
    tensors |= {f"network.{name}": tensor for name, tensor in network.items()}
    tensors |= {f"coupling.encoder.{name}": tensor for name, tensor in encoder.items()}
    shape = ImageShape(found.channels, found.resolution, found.num_classes)
    return found, Saved(Imported(design=design, sampler=sampler, source=origin), shape)


def _design(
    checkpoint: Checkpoint, found: Architecture, encoder: dict[str, Tensor], options: Options
) -> Design:
    settings = found.settings | checkpoint.network
    width = head_width(found, options.head_channels or checkpoint.head_channels)
    if width is not None:
        settings |= {"channels_per_head": width, "attention_below_head_width": "absent"}
    coupling = dict(checkpoint.coupling)
    if coupling["kind"] == "vae":
        inner = architecture(encoder).settings
        coupling["encoder"] = {key: inner[key] for key in ("model_channels", "num_blocks")}
        # Blocks of few channels have no attention, so that one of the two may lack it where the other has it.
        attended = {*settings["attn_resolutions"], *inner["attn_resolutions"]}
        settings["attn_resolutions"] = tuple(sorted(attended, reverse=True))
    elif encoder:
        raise Refused(f"an encoder in a model of coupling {coupling['kind']}")
    return Design.model_validate(
        {
            "network": settings,
            "kernel": {"kind": checkpoint.kernel},
            "coupling": coupling,
            "conditional": found.num_classes > 0,
            **checkpoint.levels,
        }
    )


def _sampler(checkpoint: Checkpoint, design: Design, options: Options) -> SamplerConfig:
    mid = checkpoint.mid_sigmas if options.mid_sigmas is None else options.mid_sigmas
    levels = (design.sigma_max, *mid)
    for above, level in pairwise(levels):
        if not design.sigma_min < level < above:
            raise Needed(f"--mid-sigma {level:g}: must lie between {design.sigma_min:g} and {above:g}")
    return SamplerConfig.model_validate(
        {
            "levels": levels,
            "boundary": checkpoint.boundary,
            "clip": checkpoint.clip,
            "renoise": "reduced" if checkpoint.reduced else "full",
            "quantise": checkpoint.quantise,
        }
    )


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _checked(tensors: dict[str, Tensor], saved: Saved, source: str) -> dict[str, Tensor]:
    """The tensors in the model's order, if they are exactly those of the model that is described."""
    with torch.device("meta"):
        wanted = build(saved.of.design, saved.shape, at=f"{source}: network").state_dict()
    for name in wanted.keys() - tensors.keys():
        raise Refused(f"a model without {name}")
    for name, tensor in tensors.items():
        if name not in wanted:
            raise Refused(f"a tensor {name[:80]}, which has no place in the network")
        if tensor.shape != wanted[name].shape:
            raise Refused(f"{name} of shape {list(tensor.shape)}, not {list(wanted[name].shape)}")
        if not tensor.dtype.is_floating_point:
            raise Refused(f"{name} of type {tensor.dtype}, not floating point")
        if not tensor.isfinite().all():
            raise Refused(f"{name} with NaN or infinity")
    return {name: tensors[name] for name in wanted}


def _summary(
    source: str,
    out: Path,
    checkpoint: Checkpoint,
    *,
    label: str,
    found: Architecture,
    saved: Saved,
    options: Options,
) -> Iterator[str]:
    design, settings = saved.of.design, found.settings
    yield f"{source}: {checkpoint.family}"
    network = ", ".join(
        f"{name} {json.dumps(settings[name])}"
        for name in ("model_channels", "channel_mult", "num_blocks", "attn_resolutions")
    )
    yield f"network: {design.network.kind}, {network}"
    size = f"{found.resolution}x{found.resolution}, {found.channels} channels"
    classes = f"{found.num_classes} classes" if found.num_classes else "without classes"
    yield f"images: {size}, {classes}"
    if checkpoint.consistency:
        yield f"preconditioning: {SHIFTED if checkpoint.boundary else PLAIN}; kernel {design.kernel.kind}"
        yield f"sampling: {', '.join(f'{level:g}' for level in saved.sampler.levels)}"
    else:
        yield "a diffusion model: weights for init_from, no images in a few steps"
    yield f"coupling: {design.coupling.kind}"
    others = [name for name in checkpoint.weights if name != label]
    yield f"weights: {label}" + (f" (also in the file: {', '.join(others)})" if others else "")
    assumed = dict(checkpoint.assumed)
    if isinstance(design.network, MultiHeadConfig) and found.attended and checkpoint.head_channels is None:
        assumed["head_channels"] = f"attention heads of {PER_HEAD} channels"
    for option, text in assumed.items():
        if getattr(options, option, None) is None:
            yield f"{ASSUMED}: {text}"
    with torch.device("meta"):
        model = build(design, saved.shape)
    counts = {
        part: sum(weight.numel() for weight in module.parameters())
        for part, module in (("network", model.network), ("encoder", model.coupling))
    }
    yield f"{out}: " + ", ".join(f"{n:,} parameters of the {part}" for part, n in counts.items() if n)
