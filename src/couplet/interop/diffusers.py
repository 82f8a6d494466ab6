"""An ADM as diffusers' `ConsistencyModelPipeline`: the inverse of its import."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn

from couplet.config.networks import ADMConfig
from couplet.couplings.base import Coupling
from couplet.interop.families import INDEX, NOISE_SCALE, SCHEDULER, UNET
from couplet.interop.files import Refused
from couplet.interop.openai import to_diffusers
from couplet.model import ConsistencyModel, Saved
from couplet.networks.blocks import UNetBlock
from couplet.schedules import karras_level

MOST_LEVELS = 100_000
LEVEL_ERROR, NOISE_ERROR = 1e-5, 1e-4
"""Relative errors of a noise level, whose label OpenAI's networks see enlarged 1000 times, and of the noise
that is added there: both change an image by less than a step of 8-bit pixels."""


class Pipeline(NamedTuple):
    """Content of a pipeline's folder."""

    model_index: dict[str, Any]
    """model_index.json."""
    unet: dict[str, Any]
    """unet/config.json."""
    scheduler: dict[str, Any]
    """scheduler/scheduler_config.json."""
    tensors: dict[str, Tensor]
    """unet/diffusion_pytorch_model.safetensors."""
    timesteps: tuple[int, ...]
    """Argument `timesteps` that evaluates at all of the model's noise levels."""


def pipeline(model: ConsistencyModel, saved: Saved) -> Pipeline:
    """The same model for diffusers.

    Raises:
        Refused: the pipeline cannot express the model; the text says what of it.
    """
    design, sampler, config = saved.of.design, saved.sampler, saved.of.design.network
    if not isinstance(config, ADMConfig):
        raise Refused(f"network {config.kind}, only adm")
    if design.kernel.kind != "ve":
        raise Refused(f"kernel {design.kernel.kind}, only ve")
    if not sampler.boundary:
        raise Refused("sampling without a shift of the preconditioning at sigma_min")
    if len(sampler.levels) > 1 and type(model.coupling).renoise is not Coupling.renoise:
        raise Refused(f"coupling {design.coupling.kind}, which decides the noise of a second evaluation")
    needed = {"noise_scale": NOISE_SCALE, "channel_mult_emb": 4}
    for name, value in needed.items():
        if getattr(config, name) != value:
            raise Refused(f"network.{name} = {getattr(config, name)}, only {value}")
    if config.channel_mult[0] != 1:
        raise Refused(f"network.channel_mult = {list(config.channel_mult)}, only one that begins with 1")
    blocks = {config.num_blocks} if isinstance(config.num_blocks, int) else {*config.num_blocks}
    if len(blocks) > 1:
        raise Refused(f"network.num_blocks = {config.num_blocks}, only one number for all levels")
    per_level, size = blocks.pop(), saved.shape.resolution
    attends = _attention(model.network, [size >> level for level in range(len(config.channel_mult))])
    down = ["AttnDownBlock2D" if each else "ResnetDownsampleBlock2D" for each in attends]
    up = ["AttnUpBlock2D" if each else "ResnetUpsampleBlock2D" for each in reversed(attends)]
    count, timesteps = _timesteps(design.sigma_min, sampler.levels, full=sampler.renoise == "full")
    unet = {
        **UNET,
        "sample_size": size,
        "in_channels": saved.shape.channels,
        "out_channels": saved.shape.channels,
        "block_out_channels": [config.model_channels * factor for factor in config.channel_mult],
        "layers_per_block": per_level,
        "down_block_types": down,
        "up_block_types": up,
        "attention_head_dim": _head_width(model.network),
        "resnet_time_scale_shift": "scale_shift" if config.adaptive_scale else "default",
        "num_class_embeds": saved.shape.num_classes if saved.conditional else None,
        "dropout": 0.0,
        "downsample_padding": 1,
    }
    scheduler = {
        **SCHEDULER,
        "num_train_timesteps": count,
        "sigma_min": design.sigma_min,
        "sigma_max": design.sigma_max,
        "sigma_data": design.sigma_data,
        "s_noise": 1.0,
        "clip_denoised": sampler.clip,
    }
    classes = {"unet": UNET["_class_name"], "scheduler": SCHEDULER["_class_name"]}
    index = {**INDEX, **{part: ["diffusers", name] for part, name in classes.items()}}
    sizes = {"resolution": size, "levels": len(config.channel_mult), "blocks": per_level}
    tensors = to_diffusers(model.network.state_dict(), **sizes)
    return Pipeline(index, unet=unet, scheduler=scheduler, tensors=tensors, timesteps=timesteps)


def _attention(network: nn.Module, sizes: list[int]) -> list[bool]:
    """Whether each level has attention; Refused if the groups of a normalisation are not diffusers'."""
    for name, module in network.named_modules():
        if isinstance(module, nn.GroupNorm) and module.num_groups != UNET["norm_num_groups"]:
            groups, channels = module.num_groups, module.num_channels
            raise Refused(f"{name} of {groups} groups of {channels} channels, only {UNET['norm_num_groups']}")
    blocks = dict(_blocks(network))
    return [blocks[f"enc.{size}x{size}_block0"].heads > 0 for size in sizes]


def _head_width(network: nn.Module) -> int:
    """Channels of an attention head; Refused if it differs between blocks, or the middle has no attention."""
    blocks = dict(_blocks(network))
    widths = {block.norm2.num_channels // block.heads for block in blocks.values() if block.heads}
    if len(widths) > 1:
        listed = ", ".join(map(str, sorted(widths)))
        raise Refused(f"attention heads of {listed} channels, only of one width")
    if not all(block.heads for name, block in blocks.items() if name.endswith("_in0")):
        raise Refused("a decoder that begins without attention")
    return widths.pop()


def _blocks(network: nn.Module) -> Iterator[tuple[str, UNetBlock]]:
    return ((name, module) for name, module in network.named_modules() if isinstance(module, UNetBlock))


def _timesteps(sigma_min: float, levels: tuple[float, ...], *, full: bool) -> tuple[int, tuple[int, ...]]:
    """Length of a list of noise levels that has all of ``levels``, and their indices, for diffusers rising.

    The list is EDM's with rho = 7, which OpenAI's models have with 40 levels. Before a further evaluation at
    t the pipeline adds noise of standard deviation sqrt(t² - sigma_min²), not t.
    """
    if full and any(1 - (1 - min(1.0, sigma_min / t) ** 2) ** 0.5 > NOISE_ERROR for t in levels[1:]):
        raise Refused(f"a further evaluation at {levels[-1]:g} with noise of that standard deviation")
    for count in (40, *range(2, MOST_LEVELS)):
        places = [_place(level, count, sigma_min, levels[0]) for level in levels]
        made = [karras_level(place, count, sigma_min, levels[0]) for place in places]
        if all(abs(each / level - 1) < LEVEL_ERROR for each, level in zip(made, levels, strict=True)):
            return count, tuple(reversed(places))
    listed = ", ".join(f"{level:g}" for level in levels)
    raise Refused(f"evaluations at {listed}, which no list of its levels has")


def _place(level: float, count: int, sigma_min: float, sigma_max: float) -> int:
    """Index of the noise level nearest to ``level`` in a list of so many."""
    high, low, wanted = (each ** (1 / 7) for each in (sigma_max, sigma_min, level))
    return round((high - wanted) / (high - low) * (count - 1))
