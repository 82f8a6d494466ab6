"""Configurations of networks: defaults, lists per level, errors."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from couplet.config.networks import (
    ADMConfig,
    DDPMPlusPlusConfig,
    EDM2Config,
    MLPConfig,
    NCSNPlusPlusConfig,
    NetworkConfig,
    shrink,
)

CLASSES = (ADMConfig, DDPMPlusPlusConfig, EDM2Config, MLPConfig, NCSNPlusPlusConfig)


@pytest.mark.parametrize("member", CLASSES)
def test_round_trip(member: type[NetworkConfig]) -> None:
    config = member()
    assert NetworkConfig.parse(config.model_dump(mode="json")) == config


@pytest.mark.parametrize("member", CLASSES)
def test_every_field_is_described(member: type[NetworkConfig]) -> None:
    bare = [name for name, field in member.model_fields.items() if not field.description]
    assert bare == ["kind"]


def test_lists_of_yaml() -> None:
    config = NetworkConfig.parse(
        {
            "kind": "ddpmpp",
            "channel_mult": [1, 2, 2, 2],
            "num_blocks": [3, 3, 4, 5],
            "dropout": [0, 0, 0.2, 0.2],
            "attn_resolutions": [],
        }
    )
    assert [config.blocks_at(level) for level in range(4)] == [3, 3, 4, 5]
    assert [config.dropout_at(level, 64 >> level) for level in range(4)] == [0, 0, 0.2, 0.2]


def test_dropout_resolution() -> None:
    config = ADMConfig(dropout=0.2)
    assert [config.dropout_at(level, 64 >> level) for level in range(4)] == [0, 0, 0.2, 0.2]
    config = ADMConfig(dropout=0.2, dropout_resolution=None)
    assert [config.dropout_at(level, 64 >> level) for level in range(4)] == [0.2] * 4
    assert DDPMPlusPlusConfig(dropout=0.3).dropout_at(0, 32) == 0.3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_blocks": [1, 2]}, r"num_blocks.*one number or 3"),
        ({"dropout": [0.1] * 4}, r"dropout.*one number or 3"),
        ({"dropout": 1.0}, "less than 1"),
        ({"dropout": -0.1}, "greater than or equal to 0"),
        ({"dropout": [0.0, 1.5, 0.0]}, "less than 1"),
        ({"model_channels": 0}, "greater than 0"),
        ({"model_channels": "128"}, "valid integer"),
        ({"channel_mult": []}, "at least 1 item"),
        ({"channel_mult": [2, 0, 2]}, "greater than 0"),
        ({"num_blocks": 0}, "greater than 0"),
        ({"attn_resolutions": [0]}, "greater than 0"),
        ({"dropout_resolution": 0}, "greater than 0"),
        ({"fourier_scale": 0.0}, "greater than 0"),
        ({"resample_filter": []}, "at least 1 item"),
        ({"resample_filter": [1, -1]}, "greater than 0"),
        ({"embedding_type": "learned"}, "'positional' or 'fourier'"),
        ({"channels_per_head": 64}, "channels_per_head"),
    ],
)
def test_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DDPMPlusPlusConfig.model_validate(settings)


def test_shrink_changes_size_only() -> None:
    config = DDPMPlusPlusConfig(num_blocks=(3, 5, 7), dropout=(0.0, 0.2, 0.2), attn_resolutions=())
    small = shrink(config)
    assert isinstance(small, DDPMPlusPlusConfig)
    assert (small.model_channels, small.num_blocks) == (32, 1)
    sizes = {"model_channels", "num_blocks"}
    assert small.model_dump(exclude=sizes) == config.model_dump(exclude=sizes)
    assert shrink(EDM2Config(), num_blocks=2).num_blocks == 2
    with pytest.raises(ValidationError):
        shrink(config, num_blocks=0)
