"""What is particular to DDPM++/NCSN++, ADM, EDM2 and the perceptron of the plane."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from couplet.config.networks import (
    ADMConfig,
    ConcatMLPConfig,
    DDPMPlusPlusConfig,
    EDM2Config,
    NCSNPlusPlusConfig,
    NetworkConfig,
)
from couplet.config.variants import build
from couplet.networks.base import Network
from couplet.networks.blocks import Conv2d, FourierEmbedding, Init, Linear, MPFourier, PositionalEmbedding
from couplet.networks.edm2 import mp_cat, mp_silu, mp_sum, normalize

SMALL: dict[str, Any] = {"model_channels": 16, "channel_mult": (1, 2), "num_blocks": 1}
INIT = Init("kaiming_uniform", bias=1.0)


def make(config: NetworkConfig, num_classes: int = 0) -> Network:
    """A network for 3-channel 8x8 images."""
    torch.manual_seed(0)
    return build(config, in_channels=3, out_channels=3, resolution=8, num_classes=num_classes)


def modules_with(made: Network, key: str) -> set[str]:
    """Blocks of the network that hold a parameter ``key``."""
    suffix = f".{key}.weight"
    return {name.removesuffix(suffix) for name in made.state_dict() if name.endswith(suffix)}


def test_song_keys() -> None:
    made = make(DDPMPlusPlusConfig(**SMALL, attn_resolutions=(8,)), num_classes=2)
    keys = set(made.state_dict())
    for name in ("map_layer0", "map_layer1", "map_label", "enc.8x8_conv", "dec.8x8_aux_norm"):
        assert {f"{name}.weight", f"{name}.bias"} <= keys
    block = {key.removeprefix("dec.8x8_up.") for key in keys if key.startswith("dec.8x8_up.")}
    layers = ("norm0", "conv0", "affine", "norm1", "conv1", "skip")
    expected = {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    assert block == expected | {"conv0.resample_filter", "skip.resample_filter"}
    assert not any("map_noise" in key or "aux_residual" in key for key in keys)
    assert modules_with(made, "qkv") == {"enc.8x8_block0", "dec.4x4_in0", "dec.8x8_block1"}


def test_ncsnpp_keys() -> None:
    keys = set(make(NCSNPlusPlusConfig(**SMALL)).state_dict())
    names = {f"enc.4x4_aux_residual.{part}" for part in ("weight", "bias", "resample_filter")}
    assert names | {"map_noise.freqs"} <= keys


def test_adm_attention_and_skips() -> None:
    made = make(ADMConfig(**SMALL, attn_resolutions=(8,), channels_per_head=16), num_classes=2)
    blocks = {"enc.8x8_block0", "dec.4x4_in0", "dec.8x8_block0", "dec.8x8_block1"}
    assert modules_with(made, "qkv") == blocks
    keys = made.state_dict().keys()
    assert {key for key in keys if key.startswith("dec.8x8_up.skip")} == {"dec.8x8_up.skip.resample_filter"}
    assert "map_label.bias" not in keys


PLAIN: dict[str, Any] = {**SMALL, "attn_resolutions": (), "channels_per_head": 16}


def test_adm_without_adaptive_scale_has_the_same_keys_and_half_the_affine_outputs() -> None:
    adaptive, plain = (
        make(ADMConfig(**PLAIN, adaptive_scale=choice)).state_dict() for choice in (True, False)
    )
    assert adaptive.keys() == plain.keys()
    changed = {key for key in plain if plain[key].shape != adaptive[key].shape}
    assert changed == {key for key in plain if ".affine." in key}
    assert all(2 * plain[key].shape[0] == adaptive[key].shape[0] for key in changed)


@pytest.mark.parametrize("adaptive", [True, False])
def test_adm_parameters_counted_by_hand(adaptive: bool) -> None:
    emb = 4 * 16

    def block(inputs: int, outputs: int) -> int:
        skip = 0 if inputs == outputs else inputs * outputs + outputs
        affine = (emb + 1) * outputs * (2 if adaptive else 1)
        convolutions = (9 * inputs + 1) * outputs + (9 * outputs + 1) * outputs
        return 2 * inputs + 2 * outputs + convolutions + affine + skip

    embedding = (16 + 1) * emb + (emb + 1) * emb
    encoder = (9 * 3 + 1) * 16 + block(16, 16) + block(16, 16) + block(16, 32)
    attention = 2 * 32 + (32 + 1) * 96 + (32 + 1) * 32
    # Skip connections: 32 of the lower block, 16 of its down block; 16 of the upper block, 16 of the input.
    lower = block(32, 32) + attention + block(32, 32) + block(32 + 32, 32) + block(32 + 16, 32)
    upper = block(32, 32) + block(32 + 16, 16) + block(16 + 16, 16)
    last = 2 * 16 + (9 * 16 + 1) * 3
    made = make(ADMConfig(**PLAIN, adaptive_scale=adaptive))
    count = sum(parameter.numel() for parameter in made.parameters())
    assert count == embedding + encoder + lower + upper + last


def test_adm_without_adaptive_scale_adds_the_embedding_before_the_normalisation() -> None:
    made = make(ADMConfig(**PLAIN, adaptive_scale=False)).eval()
    block = made.get_submodule("enc.8x8_block0")
    with torch.no_grad():
        for parameter in block.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    own = dict(block.named_parameters())
    x, emb = torch.randn(2, 16, 8, 8), torch.randn(2, 64)

    def normalised(h: torch.Tensor, name: str) -> torch.Tensor:
        return F.silu(F.group_norm(h, 4, own[f"{name}.weight"], own[f"{name}.bias"], eps=1e-5))

    h = F.conv2d(normalised(x, "norm0"), own["conv0.weight"], own["conv0.bias"], padding=1)
    h = h + (emb @ own["affine.weight"].T + own["affine.bias"])[:, :, None, None]
    expected = x + F.conv2d(normalised(h, "norm1"), own["conv1.weight"], own["conv1.bias"], padding=1)
    torch.testing.assert_close(block(x, emb), expected)


def test_adm_noise_scale_multiplies_the_noise_label() -> None:
    once, thousand = (make(ADMConfig(**PLAIN, noise_scale=scale)).eval() for scale in (1.0, 1000.0))
    for made in (once, thousand):
        torch.manual_seed(1)
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    x, level = torch.randn(2, 3, 8, 8), torch.tensor([0.3, -1.2])
    torch.testing.assert_close(thousand(x, level), once(x, 1000 * level), rtol=0, atol=0)
    assert not torch.allclose(thousand(x, level), once(x, level), rtol=0, atol=1e-2)


def test_edm2_keys() -> None:
    made = make(EDM2Config(**SMALL, attn_resolutions=(8,), channels_per_head=16), num_classes=2)
    keys = set(made.state_dict())
    top = {"out_gain", "emb_fourier.freqs", "emb_fourier.phases", "emb_noise.weight"}
    assert top | {"emb_label.weight", "out_conv.weight"} <= keys
    assert not any(key.endswith(".bias") for key in keys)
    blocks = {"enc.8x8_block0", "dec.4x4_in0", "dec.8x8_block0", "dec.8x8_block1"}
    assert modules_with(made, "attn_qkv") == blocks


@pytest.mark.parametrize("config", [ADMConfig, EDM2Config])
def test_narrow_attention(config: type[ADMConfig | EDM2Config]) -> None:
    with pytest.raises(ValueError, match=r"block 4x4_in0 .* 32 channels .*channels_per_head 64"):
        make(config(**SMALL, attn_resolutions=()))
    made = make(config(**SMALL, attn_resolutions=(8,), attention_below_head_width="absent"))
    assert not modules_with(made, "qkv") | modules_with(made, "attn_qkv")
    with pytest.raises(ValueError, match=r"block 4x4_in0: 32 channels cannot be split into 3"):
        make(config(**SMALL, attn_resolutions=(), channels_per_head=10))


def test_song_initialisation() -> None:
    state = make(DDPMPlusPlusConfig(**SMALL), num_classes=2).state_dict()
    for key, value in state.items():
        if key.endswith("bias"):
            assert not value.any(), key
    inputs, outputs = 16 * 9, 32 * 9
    weight = state["enc.4x4_block0.conv0.weight"]
    bound = math.sqrt(6 / (inputs + outputs))
    assert 0.99 * bound < weight.abs().max() <= bound
    last = state["enc.4x4_block0.conv1.weight"]
    assert last.abs().max() <= 1e-5 * math.sqrt(6 / (2 * outputs))
    qkv = state["dec.4x4_in0.qkv.weight"]
    bound = math.sqrt(0.2 * 6 / (32 + 96))
    assert 0.98 * bound < qkv.abs().max() <= bound


def test_adm_initialisation() -> None:
    made = make(ADMConfig(**SMALL, attn_resolutions=(), channels_per_head=16), num_classes=200)
    state = made.state_dict()
    bound = math.sqrt(1 / (16 * 9))
    for part in ("weight", "bias"):
        value = state[f"enc.4x4_block0.conv0.{part}"]
        assert 0.9 * bound < value.abs().max() <= bound
    assert not state["dec.4x4_in0.proj.weight"].any()
    assert not state["out_conv.weight"].any()
    assert state["map_label.weight"].std().item() == pytest.approx(1.0, rel=0.03)


@pytest.mark.parametrize("scale", [0.02, 16.0])
def test_fourier_scale_is_that_of_the_configuration(scale: float) -> None:
    made = make(NCSNPlusPlusConfig(**SMALL, channel_mult_noise=64, fourier_scale=scale))
    freqs = made.state_dict()["map_noise.freqs"]
    assert freqs.shape == (512,)
    assert freqs.std().item() == pytest.approx(scale, rel=0.1)


def test_positional_embedding() -> None:
    t = torch.tensor([0.3, -1.2])
    song = PositionalEmbedding(6, adm=False)(t)
    adm = PositionalEmbedding(6, adm=True)(t)
    for i, value in enumerate(t.tolist()):
        freqs = [1.0, 1e-2, 1e-4]
        expected = [f(value * w) for f in (math.sin, math.cos) for w in freqs]
        torch.testing.assert_close(song[i], torch.tensor(expected))
        freqs = [10000 ** (-j / 3) for j in range(3)]
        expected = [f(value * w) for f in (math.cos, math.sin) for w in freqs]
        torch.testing.assert_close(adm[i], torch.tensor(expected))


def test_fourier_embedding() -> None:
    torch.manual_seed(0)
    embedding = FourierEmbedding(4, scale=16.0)
    expected = [f(2 * math.pi * 0.3 * w) for f in (math.sin, math.cos) for w in embedding.freqs]
    torch.testing.assert_close(embedding(torch.tensor([0.3]))[0], torch.tensor(expected))


@pytest.mark.parametrize("channels", [0, 3])
def test_embedding_sizes(channels: int) -> None:
    with pytest.raises(ValueError, match=f"even number of features, not {channels}"):
        PositionalEmbedding(channels, adm=True)
    with pytest.raises(ValueError, match="even number"):
        FourierEmbedding(channels, scale=1.0)
    with pytest.raises(ValueError, match="too short"):
        PositionalEmbedding(2, adm=False)


def test_box_filter_is_mean_and_repetition() -> None:
    x = torch.randn(2, 3, 8, 8)
    down = Conv2d(3, 3, 0, init=INIT, resampling="down")
    up = Conv2d(3, 3, 0, init=INIT, resampling="up")
    torch.testing.assert_close(down(x), F.avg_pool2d(x, 2))
    torch.testing.assert_close(up(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))


@pytest.mark.parametrize("taps", [(1.0, 1.0), (1.0, 3.0, 3.0, 1.0)])
def test_filters_keep_a_constant(taps: tuple[float, ...]) -> None:
    x = torch.full((1, 2, 16, 16), 0.7)
    for resampling, size in (("down", 8), ("up", 32)):
        filtered = Conv2d(2, 2, 0, init=INIT, resampling=resampling, taps=taps)(x)
        assert filtered.shape == (1, 2, size, size)
        inner = filtered[:, :, 2:-2, 2:-2]
        torch.testing.assert_close(inner, torch.full_like(inner, 0.7))


def test_fused_order_agrees_inside() -> None:
    torch.manual_seed(0)
    taps = (1.0, 3.0, 3.0, 1.0)
    fused = Conv2d(3, 4, 3, init=INIT, resampling="down", taps=taps, fused=True)
    x = torch.randn(2, 3, 16, 16)
    assert fused.weight is not None
    assert fused.resample_filter is not None
    convolved = F.conv2d(x, fused.weight, fused.bias, padding=1)
    kernel = fused.resample_filter.repeat(4, 1, 1, 1)
    expected = F.conv2d(convolved, kernel, groups=4, stride=2, padding=1)
    out = fused(x)
    assert out.shape == expected.shape
    torch.testing.assert_close(out[:, :, 1:-1, 1:-1], expected[:, :, 1:-1, 1:-1])


def test_filter_cannot_change_channels() -> None:
    with pytest.raises(ValueError, match="2 channels into 3"):
        Conv2d(2, 3, 0, init=INIT, resampling="down")


def test_magnitudes_are_kept() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(64, 48, 8, 8), torch.randn(64, 16, 8, 8)
    rows = normalize(5 * a, dim=(1, 2, 3))
    torch.testing.assert_close(rows.square().mean((1, 2, 3)), torch.ones(64), atol=1e-4, rtol=0)
    c = torch.randn_like(a)
    for out in (mp_silu(a), mp_sum(a, c, 0.3), mp_cat(a, b, 0.5), mp_cat(a, b, 0.2)):
        assert out.square().mean().item() == pytest.approx(1.0, abs=0.02)
    joined = mp_cat(a, b, 0.5)
    # Equal shares: both parts contribute the same sum of squares.
    halves = joined[:, :48].square().sum(), joined[:, 48:].square().sum()
    assert halves[0].item() == pytest.approx(halves[1].item(), rel=0.02)
    features = MPFourier(512)(torch.randn(256))
    assert features.square().mean().item() == pytest.approx(1.0, abs=0.02)


def test_concat_mlp_is_the_network_of_the_experiments_in_the_plane() -> None:
    """Shapes of VCT's released model, encoder included; its function is that of GC's notebook."""
    config = ConcatMLPConfig()
    for outputs in (2, 4):
        made = build(config, in_channels=2, out_channels=outputs, resolution=1, num_classes=0)
        shapes = [list(parameter.shape) for name, parameter in made.named_parameters() if "weight" in name]
        assert shapes == [[256, 2], [256, 512], [256, 256], [outputs, 256]]
        assert sum(parameter.numel() for parameter in made.parameters()) == 198_402 + (outputs - 2) * 257
    x, levels = torch.randn(3, 2), torch.tensor([-1.0, 0.0, 0.7])
    angles = levels[:, None] * 10_000.0 ** (-torch.arange(128) / 128)
    first, *middle, last = [part for part in made.modules() if isinstance(part, Linear)]
    hidden = torch.cat([F.gelu(first(x)), angles.cos(), angles.sin()], dim=1)
    for layer in middle:
        hidden = F.gelu(layer(hidden))
    torch.testing.assert_close(made(x[..., None, None], levels).flatten(1), last(hidden))
