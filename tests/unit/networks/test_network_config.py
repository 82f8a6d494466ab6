"""Configurations of networks: defaults, lists per level, errors."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from pydantic import ValidationError

from couplet.config.networks import (
    ADMConfig,
    ConcatMLPConfig,
    DDPMPlusPlusConfig,
    EDM2Config,
    MLPConfig,
    NCSNPlusPlusConfig,
    NetworkConfig,
    UNetConfig,
)
from couplet.networks.base import BlockPlan, plan

CLASSES = (ADMConfig, ConcatMLPConfig, DDPMPlusPlusConfig, EDM2Config, MLPConfig, NCSNPlusPlusConfig)


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
    cells = encoder(config)
    blocks = Counter(cell.name.split("_")[0] for cell in cells if cell.role == "block")
    assert blocks == {"64x64": 3, "32x32": 3, "16x16": 4, "8x8": 5}
    assert dropout_by_level(config) == [0, 0, 0.2, 0.2]


def test_dropout_resolution() -> None:
    assert dropout_by_level(ADMConfig(dropout=0.2)) == [0, 0, 0.2, 0.2]
    assert dropout_by_level(ADMConfig(dropout=0.2, dropout_resolution=None)) == [0.2] * 4
    assert dropout_by_level(DDPMPlusPlusConfig(dropout=0.3)) == [0.3] * 3


def encoder(config: UNetConfig) -> list[BlockPlan]:
    return plan(config, in_channels=3, resolution=64)[0]


def dropout_by_level(config: UNetConfig) -> list[float]:
    """Dropout of the residual blocks at each resolution, from 64 pixels down."""
    cells = encoder(config)
    return list({cell.name.split("_")[0]: cell.dropout for cell in cells if cell.role == "block"}.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_blocks": [1, 2]}, r"num_blocks.*one number or 3"),
        ({"dropout": [0.1] * 4}, r"dropout.*one number or 3"),
        ({"dropout": 1.0}, "less than 1"),
        ({"dropout": -0.1}, "greater than or equal to 0"),
        ({"dropout": [0.0, 1.5, 0.0]}, "less than 1"),
        ({"model_channels": 0}, "greater than or equal to "),
        ({"model_channels": "128"}, "valid integer"),
        ({"channel_mult": []}, "at least 1 item"),
        ({"channel_mult": [2, 0, 2]}, "greater than or equal to "),
        ({"num_blocks": 0}, "greater than or equal to "),
        ({"attn_resolutions": [0]}, "greater than 0"),
        ({"dropout_resolution": 0}, "greater than 0"),
        ({"fourier_scale": 0.0}, "greater than or equal to "),
        ({"resample_filter": []}, "at least 1 item"),
        ({"resample_filter": [1, -1]}, "greater than or equal to "),
        ({"embedding_type": "learned"}, "'positional' or 'fourier'"),
        ({"channels_per_head": 64}, "channels_per_head"),
    ],
)
def test_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DDPMPlusPlusConfig.model_validate(settings)
