"""OpenAI's U-Net, as openai/consistency_models and diffusers store it, and as EDM's ADM.

EDM's ADM is the same network with other names: a level's last block of the decoder and the resampling that
follows it are one entry in OpenAI's list, and queries, keys and values are three blocks of channels, not
neighbours. A table from their names of layers to EDM's serves both directions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from couplet.interop.architecture import at
from couplet.interop.files import Refused

RESIDUAL = {
    "in_layers.0": "norm0",
    "in_layers.2": "conv0",
    "emb_layers.1": "affine",
    "out_layers.0": "norm1",
    "out_layers.3": "conv1",
    "skip_connection": "skip",
}
ATTENTION = {"norm": "norm2", "qkv": "qkv", "proj_out": "proj"}
OUTER = {
    "time_embed.0": "map_layer0",
    "time_embed.2": "map_layer1",
    "label_emb": "map_label",
    "out.0": "out_norm",
    "out.2": "out_conv",
}
DIFFUSERS_RESIDUAL = {
    "norm1": "norm0",
    "conv1": "conv0",
    "time_emb_proj": "affine",
    "norm2": "norm1",
    "conv2": "conv1",
    "conv_shortcut": "skip",
}
DIFFUSERS_ATTENTION = {"group_norm": "norm2", "qkv": "qkv", "to_out.0": "proj"}
DIFFUSERS_OUTER = {
    "time_embedding.linear_1": "map_layer0",
    "time_embedding.linear_2": "map_layer1",
    "class_embedding": "map_label",
    "conv_norm_out": "out_norm",
    "conv_out": "out_conv",
}


def from_openai(tensors: Mapping[str, Tensor], resolution: int) -> dict[str, Tensor]:
    """Tensors of ADM from a state dict of OpenAI's ``UNetModel`` with ``resblock_updown``.

    Raises:
        Refused: the network differs from ADM.
    """
    if any(re.search(r"\.(op|conv)\.weight$", name) for name in tensors):
        raise Refused("a U-Net that resamples without residual blocks (resblock_updown False)")
    count = 1 + max(_numbers(tensors, "output_blocks"), default=-1)
    # A second residual block of an entry doubles the resolution, so the level ends with it.
    ends = [
        n for n in range(count) if any(f"output_blocks.{n}.{i}.in_layers.0.weight" in tensors for i in (1, 2))
    ]
    per_level = [end - begin for begin, end in zip([-1, *ends], [*ends, count - 1], strict=True)][::-1]
    sizes = _sizes(resolution, len(per_level))

    residual: list[tuple[str, str]] = []
    attention: list[tuple[str, str]] = []
    place = 1
    for level, size in enumerate(sizes):
        if level:
            residual.append((f"input_blocks.{place}.0", f"enc.{at(size)}_down"))
            place += 1
        for i in range(per_level[level] - 1):
            residual.append((f"input_blocks.{place}.0", f"enc.{at(size)}_block{i}"))
            attention.append((f"input_blocks.{place}.1", f"enc.{at(size)}_block{i}"))
            place += 1
    middle = f"dec.{at(sizes[-1])}"
    residual += [("middle_block.0", f"{middle}_in0"), ("middle_block.2", f"{middle}_in1")]
    attention.append(("middle_block.1", f"{middle}_in0"))
    place = 0
    for level, size in reversed(list(enumerate(sizes))):
        for i in range(per_level[level]):
            residual.append((f"output_blocks.{place}.0", f"dec.{at(size)}_block{i}"))
            attention.append((f"output_blocks.{place}.1", f"dec.{at(size)}_block{i}"))
            if level:  # after the block's attention, where it has one
                up = f"dec.{at(sizes[level - 1])}_up"
                residual += [(f"output_blocks.{place}.{part}", up) for part in ("1", "2")]
            place += 1
    first = {"input_blocks.0.0": f"enc.{at(sizes[0])}_conv"}
    names = {**OUTER, **first, **_layers(residual, RESIDUAL), **_layers(attention, ATTENTION)}
    return _to_edm(tensors, names)


def from_diffusers(tensors: Mapping[str, Tensor], resolution: int) -> dict[str, Tensor]:
    """Tensors of ADM from the state dict of a ``UNet2DModel`` that resamples by residual blocks.

    Raises:
        Refused: the network differs from ADM.
    """
    joined = dict(tensors)
    for name in [name for name in tensors if ".to_q." in name]:
        parts = [joined.pop(name.replace(".to_q.", f".to_{part}."), None) for part in "qkv"]
        if any(part is None for part in parts):
            raise Refused(f"a network without keys or values beside {name}")
        joined[name.replace(".to_q.", ".qkv.")] = torch.cat(parts)  # type: ignore[arg-type]
    levels = 1 + max(_numbers(tensors, "down_blocks"), default=-1)
    blocks = max((n for k in range(levels) for n in _numbers(tensors, f"up_blocks.{k}.resnets")), default=0)
    return _to_edm(joined, _diffusers_names(_sizes(resolution, levels), blocks))


def to_diffusers(
    tensors: Mapping[str, Tensor], *, resolution: int, levels: int, blocks: int
) -> dict[str, Tensor]:
    """The state dict of a ``UNet2DModel`` from tensors of ADM: the inverse of :func:`from_diffusers`.

    Args:
        tensors: by EDM's names, `enc.8x8_block0.conv0.weight`.
        resolution: height of the images.
        levels: number of resolutions.
        blocks: residual blocks per level of the encoder.
    """
    theirs = {ours: name for name, ours in _diffusers_names(_sizes(resolution, levels), blocks).items()}
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        if kind == "resample_filter":  # an operation of theirs
            continue
        target = theirs[layer]
        if layer.endswith((".qkv", ".proj")) and kind == "weight":
            tensor = tensor.flatten(1)
        if layer == "map_label":
            tensor = tensor.T
        parts = {f"{target}.{kind}": tensor}
        if layer.endswith(".qkv"):
            split = tensor.unflatten(0, (-1, 3)).unbind(1)
            stem = target.removesuffix("qkv")
            parts = {f"{stem}to_{part}.{kind}": values for part, values in zip("qkv", split, strict=True)}
        renamed |= {key: values.contiguous() for key, values in parts.items()}
    return renamed


def _diffusers_names(sizes: list[int], blocks: int) -> dict[str, str]:
    """EDM's name of each layer by diffusers', for ``blocks`` residual blocks per level of the encoder."""
    middle = at(sizes[-1])
    residual = [("mid_block.resnets.0", f"dec.{middle}_in0"), ("mid_block.resnets.1", f"dec.{middle}_in1")]
    attention = [("mid_block.attentions.0", f"dec.{middle}_in0")]
    for level, size in enumerate(sizes):
        down, up = f"down_blocks.{level}", f"up_blocks.{len(sizes) - 1 - level}"
        for block, half in ((down, "enc"), (up, "dec")):
            for i in range(blocks + (half == "dec")):
                residual.append((f"{block}.resnets.{i}", f"{half}.{at(size)}_block{i}"))
                attention.append((f"{block}.attentions.{i}", f"{half}.{at(size)}_block{i}"))
        if level + 1 < len(sizes):
            residual.append((f"{down}.downsamplers.0", f"enc.{at(sizes[level + 1])}_down"))
        if level:
            residual.append((f"{up}.upsamplers.0", f"dec.{at(sizes[level - 1])}_up"))
    return {
        **DIFFUSERS_OUTER,
        "conv_in": f"enc.{at(sizes[0])}_conv",
        **_layers(residual, DIFFUSERS_RESIDUAL),
        **_layers(attention, DIFFUSERS_ATTENTION),
    }


def _layers(blocks: Iterable[tuple[str, str]], layers: Mapping[str, str]) -> dict[str, str]:
    """EDM's names of all layers of blocks by their other names, from pairs of names of blocks."""
    return {f"{block}.{layer}": f"{ours}.{layers[layer]}" for block, ours in blocks for layer in layers}


def _numbers(tensors: Mapping[str, Tensor], prefix: str) -> set[int]:
    """Numbers that follow ``prefix`` in names."""
    pattern = re.compile(re.escape(prefix) + r"\.(\d{1,3})\.")
    return {int(found[1]) for name in tensors if (found := pattern.match(name))}


def _sizes(resolution: int, levels: int) -> list[int]:
    """Heights of the levels; Refused if there are none or the resolution cannot be halved so often."""
    if levels < 1 or resolution % 2 ** (levels - 1):
        raise Refused(f"a U-Net of {levels} levels, which images of {resolution} pixels do not have")
    return [resolution >> level for level in range(levels)]


def _to_edm(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors under EDM's names; a name that is in no table stays, and so has no place in the network."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        stem, _, kind = name.rpartition(".")
        target = names.get(stem, stem)
        if target.endswith((".qkv", ".proj")) and kind == "weight":
            tensor = tensor.reshape(*tensor.shape[:2], 1, 1)
        if target.endswith(".qkv"):
            tensor = tensor.unflatten(0, (3, -1)).transpose(0, 1).flatten(0, 1)
        if target == "map_label":
            tensor = tensor.T
        renamed[f"{target}.{kind}"] = tensor.contiguous()
    # EDM's ADM keeps its filters, of two equal coefficients, which OpenAI's code has as operations.
    for name in [name for name in renamed if re.search(r"_(up|down)\.norm0\.weight$", name)]:
        for layer in ("conv0", "skip"):
            filter_ = name.replace("norm0.weight", f"{layer}.resample_filter")
            renamed[filter_] = torch.full((1, 1, 2, 2), 0.25)
    return renamed
