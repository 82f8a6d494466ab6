"""Architectures inferred from names and shapes: of couplet's networks, and of OpenAI's by its own rules."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from couplet import model
from couplet.config.networks import NetworkConfig
from couplet.config.variants import build
from couplet.errors import UserError
from couplet.interop.architecture import architecture, head_width
from couplet.interop.convert import Options, import_model
from couplet.interop.files import Needed
from couplet.tensors import CPU

SMALL = {"model_channels": 8, "channel_mult": (1, 2), "num_blocks": 1, "attn_resolutions": ()}
NETWORKS: list[dict[str, Any]] = [
    {"kind": "ddpmpp", **SMALL},
    {"kind": "ddpmpp", **SMALL, "num_blocks": (2, 1), "attn_resolutions": (4,)},
    {"kind": "ddpmpp", **SMALL, "channel_mult": (2, 1, 3), "attn_resolutions": (8, 2), "channel_mult_emb": 2},
    {"kind": "ddpmpp", **SMALL, "channel_mult_noise": 2, "resample_filter": (1.0, 3.0, 3.0, 1.0)},
    {"kind": "ddpmpp", **SMALL, "embedding_type": "fourier"},
    {"kind": "ddpmpp", **SMALL, "encoder_type": "residual", "channel_mult": (1,)},
    {"kind": "ncsnpp", **SMALL, "num_blocks": 2, "channel_mult": (1, 1, 2)},
    {"kind": "ncsnpp", **SMALL, "resample_filter": (1.0, 1.0), "channel_mult_noise": 1},
    {"kind": "adm", **SMALL, "attn_resolutions": (8, 4), "channels_per_head": 8},
    {"kind": "adm", **SMALL, "channel_mult": (2, 3), "num_blocks": (1, 3), "channels_per_head": 8},
    {"kind": "adm", **SMALL, "adaptive_scale": False, "channel_mult_emb": 2, "channels_per_head": 4},
    {"kind": "edm2", **SMALL, "attn_resolutions": (4,), "channels_per_head": 8},
    {"kind": "edm2", **SMALL, "channel_mult": (1, 3, 2), "num_blocks": 2, "channels_per_head": 4},
    {"kind": "edm2", **SMALL, "channel_mult": (2, 4), "attn_resolutions": (8,), "channels_per_head": 16},
]
SHAPES = [{"in_channels": 3, "num_classes": 0}, {"in_channels": 1, "num_classes": 5}]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("settings", NETWORKS)
def test_the_network_is_rebuilt_from_its_tensors(settings: dict[str, Any], shape: dict[str, int]) -> None:
    sizes = {**shape, "out_channels": shape["in_channels"], "resolution": 8}
    network = build(NetworkConfig.parse(settings), **sizes).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.2)
    found = architecture(network.state_dict())
    width = head_width(found, settings.get("channels_per_head"))
    more = {} if width is None else {"channels_per_head": width, "attention_below_head_width": "absent"}
    assert (found.channels, found.resolution, found.num_classes) == (
        shape["in_channels"],
        8,
        shape["num_classes"],
    )
    again = build(NetworkConfig.parse(found.settings | more), **sizes).eval()
    again.load_state_dict(network.state_dict())
    x, level = torch.randn(2, shape["in_channels"], 8, 8), torch.tensor([0.3, -1.0])
    labels = torch.eye(5)[:2] if shape["num_classes"] else None
    assert torch.equal(network(x, level, labels), again(x, level, labels))


def test_heads_of_blocks_that_are_wide_enough_have_the_published_width() -> None:
    wide = {
        "kind": "edm2",
        "model_channels": 64,
        "channel_mult": (1,),
        "num_blocks": 1,
        "attn_resolutions": (),
    }
    sizes = {"in_channels": 3, "out_channels": 3, "resolution": 8}
    found = architecture(build(NetworkConfig.parse(wide), **sizes).state_dict())
    assert head_width(found, None) == 64
    narrow = build(NetworkConfig.parse({"kind": "edm2", **SMALL, "channels_per_head": 8}), **sizes)
    with pytest.raises(Needed, match="--head-channels"):
        head_width(architecture(narrow.state_dict()), None)


def openai(
    *,
    image_size: int,
    num_channels: int,
    num_res_blocks: int,
    channel_mult: tuple[int, ...],
    attention_ds: tuple[int, ...],
    classes: int = 0,
    scale_shift: bool = True,
) -> dict[str, Tensor]:
    """Tensors of the names and shapes that OpenAI's UNetModel has, by the rules of its constructor."""
    embedding = 4 * num_channels
    state: dict[str, tuple[int, ...]] = {}

    def add(name: str, *shape: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = shape, shape[:1]

    def residual(name: str, inputs: int, outputs: int) -> None:
        add(f"{name}.in_layers.0", inputs)
        add(f"{name}.in_layers.2", outputs, inputs, 3, 3)
        add(f"{name}.emb_layers.1", outputs * (2 if scale_shift else 1), embedding)
        add(f"{name}.out_layers.0", outputs)
        add(f"{name}.out_layers.3", outputs, outputs, 3, 3)
        if inputs != outputs:
            add(f"{name}.skip_connection", outputs, inputs, 1, 1)

    def attention(name: str, channels: int) -> None:
        add(f"{name}.norm", channels)
        add(f"{name}.qkv", 3 * channels, channels, 1)
        add(f"{name}.proj_out", channels, channels, 1)

    add("time_embed.0", embedding, num_channels)
    add("time_embed.2", embedding, embedding)
    if classes:
        state["label_emb.weight"] = (classes, embedding)
    channels = channel_mult[0] * num_channels
    add("input_blocks.0.0", channels, 3, 3, 3)
    skips, ds, place = [channels], 1, 1
    for level, factor in enumerate(channel_mult):
        for _ in range(num_res_blocks):
            residual(f"input_blocks.{place}.0", channels, factor * num_channels)
            channels = factor * num_channels
            if ds in attention_ds:
                attention(f"input_blocks.{place}.1", channels)
            skips.append(channels)
            place += 1
        if level < len(channel_mult) - 1:
            residual(f"input_blocks.{place}.0", channels, channels)
            skips.append(channels)
            ds, place = 2 * ds, place + 1
    residual("middle_block.0", channels, channels)
    attention("middle_block.1", channels)
    residual("middle_block.2", channels, channels)
    place = 0
    for level, factor in reversed(list(enumerate(channel_mult))):
        for i in range(num_res_blocks + 1):
            residual(f"output_blocks.{place}.0", channels + skips.pop(), factor * num_channels)
            channels, part = factor * num_channels, 1
            if ds in attention_ds:
                attention(f"output_blocks.{place}.{part}", channels)
                part += 1
            if level and i == num_res_blocks:
                residual(f"output_blocks.{place}.{part}", channels, channels)
                ds //= 2
            place += 1
    add("out.0", channels)
    add("out.2", 3, channels, 3, 3)
    draws = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=draws) * 0.1 for name, shape in state.items()}


UNETS: list[dict[str, Any]] = [
    {"num_res_blocks": 1, "channel_mult": (1, 1), "attention_ds": (2,)},
    {"num_res_blocks": 2, "channel_mult": (1, 2), "attention_ds": (1, 2), "classes": 7},
    {"num_res_blocks": 3, "channel_mult": (1, 1, 1), "attention_ds": (), "scale_shift": False},
    {"num_res_blocks": 1, "channel_mult": (1,), "attention_ds": (1,), "classes": 2},
    {"num_res_blocks": 2, "channel_mult": (2, 1, 3), "attention_ds": (4,), "scale_shift": False},
]


@pytest.mark.parametrize("settings", UNETS)
def test_openai_s_unet_of_any_size(settings: dict[str, Any], tmp_path: Path) -> None:
    """Every tensor has its place, and the levels of attention are those of the constructor."""
    state = openai(image_size=16, num_channels=32, **settings)
    torch.save(state, tmp_path / "x.pt")
    import_model(str(tmp_path / "x.pt"), tmp_path / "model", Options(head_channels=16, resolution=16))
    network, saved = model.load(tmp_path / "model", CPU)
    config = saved.of.design.network
    assert config.channel_mult == settings["channel_mult"]
    assert config.num_blocks == settings["num_res_blocks"]
    assert config.attn_resolutions == tuple(16 // ds for ds in settings["attention_ds"])
    assert config.adaptive_scale == settings.get("scale_shift", True)
    assert saved.shape.num_classes == settings.get("classes", 0)
    assert saved.sampler.clip
    count = sum(tensor.numel() for tensor in state.values())
    assert sum(parameter.numel() for parameter in network.parameters()) == count
    for level in range(
        1, len(settings["channel_mult"])
    ):  # the place of a resampling block, though its shapes are those of others
        index = level * (settings["num_res_blocks"] + 1)
        mine = network.network.enc[f"{16 >> level}x{16 >> level}_down"].conv0.weight
        assert torch.equal(mine, state[f"input_blocks.{index}.0.in_layers.2.weight"])


def saved_bytes(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def levels_of(state: dict[str, Tensor], path: Path, **options: Any) -> Iterator[float]:
    path.write_bytes(saved_bytes(state))
    import_model(str(path), path.with_suffix(".model"), Options(**options))
    yield from model.load(path.with_suffix(".model"), CPU)[1].sampler.levels


@pytest.mark.parametrize(("levels", "resolution", "second"), [(4, 64, 1.3823679), (6, 256, 4.3655604)])
def test_levels_tell_the_data_set(levels: int, resolution: int, second: float, tmp_path: Path) -> None:
    state = openai(
        image_size=resolution, num_channels=32, num_res_blocks=1, channel_mult=(1,) * levels, attention_ds=()
    )
    found = list(levels_of(state, tmp_path / "x.pt", head_channels=32))
    assert found == pytest.approx([80.0, second])


def test_other_levels_need_the_resolution(tmp_path: Path) -> None:
    short = openai(image_size=8, num_channels=32, num_res_blocks=1, channel_mult=(1, 1), attention_ds=())
    made = levels_of(short, tmp_path / "y.pt", head_channels=32)
    with pytest.raises(UserError, match="give --resolution"):
        next(made)
