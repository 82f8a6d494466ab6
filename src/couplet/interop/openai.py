"""OpenAI's U-Net, as openai/consistency_models and diffusers store it, in the naming of EDM's ADM.

EDM's ADM is the same network with other names: a level's last block of the decoder and the resampling that
follows it are one entry in OpenAI's list, and queries, keys and values are three blocks of channels, not
neighbours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

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

    blocks: dict[str, str] = {"input_blocks.0.0": f"enc.{at(sizes[0])}_conv"}
    place = 1
    for level, size in enumerate(sizes):
        if level:
            blocks[f"input_blocks.{place}.0"] = f"enc.{at(size)}_down"
            place += 1
        for i in range(per_level[level] - 1):
            blocks[f"input_blocks.{place}.0"] = blocks[f"input_blocks.{place}.1"] = f"enc.{at(size)}_block{i}"
            place += 1
    for part, name in (("0", "in0"), ("1", "in0"), ("2", "in1")):
        blocks[f"middle_block.{part}"] = f"dec.{at(sizes[-1])}_{name}"
    place = 0
    for level, size in reversed(list(enumerate(sizes))):
        for i in range(per_level[level]):
            blocks[f"output_blocks.{place}.0"] = f"dec.{at(size)}_block{i}"
            for part in ("1", "2"):
                up = f"output_blocks.{place}.{part}.in_layers.0.weight" in tensors
                name = f"{at(sizes[level - 1])}_up" if up else f"{at(size)}_block{i}"
                blocks[f"output_blocks.{place}.{part}"] = f"dec.{name}"
            place += 1
    return _renamed(tensors, blocks, layers={**RESIDUAL, **ATTENTION}, outer=OUTER)


def from_diffusers(tensors: Mapping[str, Tensor], resolution: int) -> dict[str, Tensor]:
    """Tensors of ADM from the state dict of a ``UNet2DModel`` that resamples by residual blocks.

    Raises:
        Refused: the network differs from ADM.
    """
    levels = 1 + max(_numbers(tensors, "down_blocks"), default=-1)
    sizes = _sizes(resolution, levels)
    blocks = {
        "conv_in": f"enc.{at(sizes[0])}_conv",
        "mid_block.resnets.0": f"dec.{at(sizes[-1])}_in0",
        "mid_block.attentions.0": f"dec.{at(sizes[-1])}_in0",
        "mid_block.resnets.1": f"dec.{at(sizes[-1])}_in1",
    }
    for level, size in enumerate(sizes):
        down, up = f"down_blocks.{level}", f"up_blocks.{levels - 1 - level}"
        for block, half in ((down, "enc"), (up, "dec")):
            for kind in ("resnets", "attentions"):
                for i in _numbers(tensors, f"{block}.{kind}"):
                    blocks[f"{block}.{kind}.{i}"] = f"{half}.{at(size)}_block{i}"
        if level + 1 < levels:
            blocks[f"{down}.downsamplers.0"] = f"enc.{at(sizes[level + 1])}_down"
        if level:
            blocks[f"{up}.upsamplers.0"] = f"dec.{at(sizes[level - 1])}_up"
    joined = dict(tensors)
    for name in [name for name in tensors if ".to_q." in name]:
        parts = [joined.pop(name.replace(".to_q.", f".to_{part}."), None) for part in "qkv"]
        if any(part is None for part in parts):
            raise Refused(f"a network without keys or values beside {name}")
        joined[name.replace(".to_q.", ".qkv.")] = torch.cat(parts)  # type: ignore[arg-type]
    return _renamed(
        joined, blocks, layers={**DIFFUSERS_RESIDUAL, **DIFFUSERS_ATTENTION}, outer=DIFFUSERS_OUTER
    )


def _numbers(tensors: Mapping[str, Tensor], prefix: str) -> set[int]:
    """Numbers that follow ``prefix`` in names."""
    pattern = re.compile(re.escape(prefix) + r"\.(\d{1,3})\.")
    return {int(found[1]) for name in tensors if (found := pattern.match(name))}


def _sizes(resolution: int, levels: int) -> list[int]:
    """Heights of the levels; Refused if there are none or the resolution cannot be halved so often."""
    if levels < 1 or resolution % 2 ** (levels - 1):
        raise Refused(f"a U-Net of {levels} levels, which images of {resolution} pixels do not have")
    return [resolution >> level for level in range(levels)]


def _renamed(
    tensors: Mapping[str, Tensor],
    blocks: Mapping[str, str],
    *,
    layers: Mapping[str, str],
    outer: Mapping[str, str],
) -> dict[str, Tensor]:
    """Tensors under EDM's names; a name that is in no table stays, and so has no place in the network."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        stem, _, kind = name.rpartition(".")
        target = outer.get(stem) or next(
            (
                f"{blocks[block]}.{layer}" if layer else blocks[block]
                for block, layer in _splits(stem, layers)
                if block in blocks
            ),
            stem,
        )
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


def _splits(stem: str, layers: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Ways to divide a name into a block and a layer, in the naming of EDM."""
    yield stem, ""
    for layer, target in layers.items():
        if stem.endswith(f".{layer}"):
            yield stem.removesuffix(f".{layer}"), target
