"""What every network must do, whatever its kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from couplet.config.networks import NetworkConfig
from couplet.config.variants import build, implementation
from couplet.model import resized
from couplet.networks.base import Network

SMALL: dict[str, Any] = {"model_channels": 16, "num_blocks": 1}
LEVELS: dict[str, Any] = {"channel_mult": [1, 2], "attn_resolutions": [4]}
CONFIGS: dict[str, dict[str, Any]] = {
    "ddpmpp": LEVELS,
    "ncsnpp": LEVELS,
    "adm": {**LEVELS, "channels_per_head": 16},
    "edm2": {**LEVELS, "channels_per_head": 16},
    "mlp": {},
    "concat_mlp": {},
}
KINDS = sorted(CONFIGS)
UNETS = sorted(kind for kind in KINDS if "channel_mult" in CONFIGS[kind])


def small(kind: str, **settings: Any) -> NetworkConfig:
    """A network of ``kind`` that runs in milliseconds."""
    return NetworkConfig.parse({"kind": kind, **SMALL, **CONFIGS[kind], **settings})


def network(kind: str, *, num_classes: int = 0, out_channels: int = 3, **settings: Any) -> Network:
    """A small network for 8x8 images, all its parameters away from their initial zeros."""
    torch.manual_seed(0)
    made = build(
        small(kind, **settings),
        in_channels=3,
        out_channels=out_channels,
        resolution=8,
        num_classes=num_classes,
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return made.eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def noise() -> Tensor:
    return torch.tensor([-1.0, 0.7])


def test_every_kind_has_a_network_and_a_test() -> None:
    assert sorted(NetworkConfig.family) == KINDS
    assert all(issubclass(implementation(small(kind)), Network) for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes(kind: str, x: Tensor, noise: Tensor) -> None:
    made = network(kind, out_channels=5)
    assert made(x, noise).shape == (2, 5, 8, 8)
    torch.testing.assert_close(made(x, noise[:1])[0], made(x, noise)[0])
    assert not torch.allclose(made(x, noise[:1])[1], made(x, noise)[1])


@pytest.mark.parametrize("kind", KINDS)
def test_samples_do_not_mix(kind: str, x: Tensor, noise: Tensor) -> None:
    made = network(kind)
    torch.testing.assert_close(made(x[1:], noise[1:]), made(x, noise)[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_no_labels_are_a_row_of_zeros(kind: str, x: Tensor, noise: Tensor) -> None:
    made = network(kind, num_classes=4)
    zeros = made(x, noise, torch.zeros(2, 4))
    assert torch.equal(made(x, noise, None), zeros)
    assert torch.equal(made(x, noise, torch.zeros(1, 4)), zeros)
    torch.testing.assert_close(made(x, noise[:1], torch.zeros(2, 4)), made(x, noise[:1]))
    labels = torch.eye(4)[:2]
    assert not torch.allclose(made(x, noise, labels), zeros)
    assert torch.equal(made(x, noise, labels.long()), made(x, noise, labels))


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_another_shape(kind: str, x: Tensor, noise: Tensor) -> None:
    made = network(kind, num_classes=4)
    for labels in (torch.zeros(2, 3), torch.zeros(4)):
        with pytest.raises(ValueError, match=r"class_labels has shape .*expected \[batch, 4\]"):
            made(x, noise, labels)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_ignored_without_classes(kind: str, x: Tensor, noise: Tensor) -> None:
    made = network(kind)
    assert torch.equal(made(x, noise, torch.ones(2, 7)), made(x, noise))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_parameter(kind: str, x: Tensor, noise: Tensor) -> None:
    made = network(kind, num_classes=4)
    (made(x, noise, torch.eye(4)[:2]) ** 2).sum().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_weights(kind: str) -> None:
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        made = build(small(kind), in_channels=3, out_channels=3, resolution=8, num_classes=2)
        states.append(made.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert any(not torch.equal(states[0][key], states[2][key]) for key in states[0])


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_acts_in_training_only(kind: str, x: Tensor, noise: Tensor) -> None:
    made = network(kind, dropout=0.5)
    assert torch.equal(made(x, noise), made(x, noise))
    made.train()
    assert not torch.equal(made(x, noise), made(x, noise))
    torch.manual_seed(5)
    once = made(x, noise)
    torch.manual_seed(5)
    assert torch.equal(made(x, noise), once)


def dropouts(made: Network) -> dict[str, float]:
    """Dropout probability of each residual block."""
    blocks = [*made.enc.items(), *made.dec.items()]  # type: ignore[operator]
    return {name: block.dropout for name, block in blocks if hasattr(block, "dropout")}


@pytest.mark.parametrize("kind", UNETS)
def test_dropout_keeps_to_its_resolutions(kind: str, x: Tensor, noise: Tensor) -> None:
    chosen = dropouts(network(kind, dropout=0.5, dropout_resolution=4))
    assert {name: p > 0 for name, p in chosen.items()} == {name: name.startswith("4x4_") for name in chosen}
    never = network(kind, dropout=0.5, dropout_resolution=2).train()
    assert torch.equal(never(x, noise), never(x, noise))
    assert set(dropouts(network(kind, dropout=0.5)).values()) == {0.5}


@pytest.mark.parametrize("kind", UNETS)
def test_lists_give_each_level_its_own(kind: str, x: Tensor, noise: Tensor) -> None:
    made = network(kind, num_blocks=[1, 2], dropout=[0.0, 0.2])
    chosen = dropouts(made)
    assert chosen == {name: 0.2 if name.startswith("4x4") else 0.0 for name in chosen}
    blocks = [name for name in made.enc if "_block" in name]  # type: ignore[attr-defined]
    assert blocks == ["8x8_block0", "4x4_block0", "4x4_block1"]
    blocks = [name for name in made.dec if "_block" in name]  # type: ignore[attr-defined]
    assert blocks == [f"4x4_block{i}" for i in range(3)] + [f"8x8_block{i}" for i in range(2)]
    assert made(x, noise).shape == x.shape


@pytest.mark.parametrize("kind", UNETS)
def test_equal_lists_and_numbers_are_the_same_network(kind: str, x: Tensor, noise: Tensor) -> None:
    one = network(kind, num_blocks=2, dropout=0.1)
    other = network(kind, num_blocks=[2, 2], dropout=[0.1, 0.1])
    assert torch.equal(one(x, noise), other(x, noise))


@pytest.mark.parametrize("kind", KINDS)
def test_fresh_encoder_says_nothing(kind: str, x: Tensor, noise: Tensor) -> None:
    torch.manual_seed(0)
    config = resized(small(kind), model_channels=16, num_blocks=1)
    encoder = build(config, in_channels=3, out_channels=6, resolution=8)
    mean, raw_std = encoder(x, noise).chunk(2, dim=1)
    assert mean.abs().max() < 1e-3
    torch.testing.assert_close(softplus(raw_std), torch.full_like(raw_std, 2.0).log(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_normalize_weights(kind: str, x: Tensor, noise: Tensor) -> None:
    made = network(kind)
    before = {key: value.clone() for key, value in made.state_dict().items()}
    out = made(x, noise)
    made.normalize_weights_()
    once = {key: value.clone() for key, value in made.state_dict().items()}
    changed = {key for key in once if not torch.equal(once[key], before[key])}
    convolutions = {key for key in once if key.endswith(".weight")}
    assert changed == (convolutions if kind == "edm2" else set())
    torch.testing.assert_close(made(x, noise), out, atol=1e-3, rtol=1e-3)
    made.normalize_weights_()
    for key, value in made.state_dict().items():
        torch.testing.assert_close(value, once[key], atol=0, rtol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_builds_without_memory(kind: str) -> None:
    with torch.device("meta"):
        made = build(small(kind), in_channels=3, out_channels=3, resolution=8, num_classes=3)
    assert {tensor.device.type for tensor in made.state_dict().values()} == {"meta"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"resolution": 0}, "resolution is 0"),
        ({"in_channels": 0}, "in_channels is 0"),
        ({"out_channels": -1}, "out_channels is -1"),
        ({"num_classes": -1}, "num_classes is -1"),
    ],
)
def test_impossible_shapes(kind: str, changed: dict[str, int], message: str) -> None:
    shape = {"in_channels": 3, "out_channels": 3, "resolution": 8, "num_classes": 0} | changed
    with pytest.raises(ValueError, match=message):
        build(small(kind), **shape)


@pytest.mark.parametrize("kind", UNETS)
def test_resolution_that_cannot_be_halved(kind: str) -> None:
    with pytest.raises(ValueError, match="resolution 7 is not a multiple of 2"):
        build(small(kind), in_channels=3, out_channels=3, resolution=7)


@pytest.mark.parametrize("kind", ["ddpmpp", "ncsnpp", "adm"])
def test_channels_that_cannot_be_normalised(kind: str) -> None:
    with pytest.raises(ValueError, match="18 channels cannot be normalised"):
        build(small(kind, model_channels=18), in_channels=3, out_channels=3, resolution=8)
