"""The architecture of a network, from the names and shapes of its tensors in the naming of EDM and EDM2."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from couplet.interop.files import Needed, Refused

PER_HEAD = 64
"""Channels of an attention head in every published network with several heads."""


class Architecture(NamedTuple):
    """What the tensors tell of a U-Net."""

    settings: dict[str, Any]
    """Settings of the network's configuration."""
    channels: int
    resolution: int
    num_classes: int
    """0 for a network without classes."""
    attended: frozenset[int]
    """Channels of the blocks with attention."""


def architecture(tensors: Mapping[str, Tensor]) -> Architecture:
    """Infer the architecture of DDPM++, NCSN++, ADM or EDM2.

    The head width of ADM and EDM2 and settings that concern training alone have no trace in the tensors.

    Raises:
        Refused: the tensors are not those of such a network.
    """

    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors:
            raise Refused(f"a network without {name}")
        return tuple(tensors[name].shape)

    sizes = sorted({int(found[1]) for name in tensors if (found := _BLOCK.match(name))}, reverse=True)
    if not sizes:
        raise Refused("no U-Net in the naming of EDM")
    edm2 = "out_gain" in tensors
    last, qkv = ("conv_res1", "attn_qkv") if edm2 else ("conv1", "qkv")
    blocks = [len({name.split(".")[1] for name in tensors if name.startswith(f"enc.{at(size)}_block")})
              for size in sizes]  # fmt: skip
    widths = [shape(f"enc.{at(size)}_block0.{last}.weight")[0] for size in sizes]
    first = shape(f"enc.{at(sizes[0])}_conv.weight")
    settings: dict[str, Any] = {}
    if edm2:
        channels, unit, label = first[1] - 1, math.gcd(*widths), "emb_label.weight"
        settings["kind"] = "edm2"
    elif "out_conv.weight" in tensors:
        channels, label = first[1], "map_label.weight"
        embedding, unit = shape("map_layer0.weight")
        block = f"enc.{at(sizes[0])}_block0"
        adaptive = shape(f"{block}.affine.weight")[0] == 2 * widths[0]
        settings |= {"kind": "adm", "channel_mult_emb": embedding // unit, "adaptive_scale": adaptive}
    else:
        channels, unit, label = first[1], first[0], "map_label.weight"
        embedding, features = shape("map_layer0.weight")
        residual = any("_aux_residual." in name for name in tensors)
        fourier = "map_noise.freqs" in tensors
        filters = [tensor for name, tensor in tensors.items() if name.endswith("resample_filter")]
        settings |= {
            "kind": "ncsnpp" if residual and fourier else "ddpmpp",
            "embedding_type": "fourier" if fourier else "positional",
            "encoder_type": "residual" if residual else "standard",
            "channel_mult_noise": features // unit,
            "channel_mult_emb": embedding // unit,
            "resample_filter": _taps(filters[0]) if filters else (1.0, 1.0),
        }
    if any(width % unit for width in widths):
        raise Refused(f"levels of {', '.join(map(str, widths))} channels, not multiples of {unit}")
    attention = {name.rsplit(".", 2)[0] for name in tensors if name.endswith(f".{qkv}.weight")}
    settings |= {
        "model_channels": unit,
        "channel_mult": tuple(width // unit for width in widths),
        "num_blocks": blocks[0] if len(set(blocks)) == 1 else tuple(blocks),
        "attn_resolutions": tuple(size for size in sizes if f"enc.{at(size)}_block0" in attention),
    }
    return Architecture(
        settings,
        channels=channels,
        resolution=sizes[0],
        num_classes=shape(label)[1] if label in tensors else 0,
        attended=frozenset(shape(f"{block}.{qkv}.weight")[1] for block in attention),
    )


_BLOCK = re.compile(r"enc\.(\d{1,5})x\1_block\d{1,3}\.")


def at(size: int) -> str:
    """Beginning of the names of the blocks of a height, ``32x32``."""
    return f"{size}x{size}"


def _taps(plane: Tensor) -> tuple[float, ...]:
    """The separable filter [1, 1, n, n] as coefficients, the first of which is 1."""
    line = plane.float().reshape(plane.shape[-2:]).sum(0)
    return tuple((line / line[0]).tolist())


def head_width(found: Architecture, given: int | None) -> int | None:
    """Channels of an attention head, ``given`` or the published width; None where there is one head alone.

    Raises:
        Refused: the width is not ``given``, and the blocks are narrower than the published one.
    """
    if found.settings["kind"] not in ("adm", "edm2"):
        return None
    narrowest = min(found.attended, default=PER_HEAD)
    if given is None and narrowest < PER_HEAD:
        raise Needed(
            f"the file does not tell the channels of an attention head; published networks have {PER_HEAD}, "
            f"and a block of this one {narrowest}: give --head-channels"
        )
    return given or PER_HEAD
