"""Data sets: where images come from and how they are split."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from couplet.config.base import Variant


class DatasetConfig(Variant):
    """Where images come from and how they are split."""

    noun = "dataset"


class Digits(DatasetConfig):
    """scikit-learn's digits: 1,797 grey 8×8 images of ten classes, shipped inside scikit-learn."""

    kind: Literal["digits"] = "digits"
    test_images: int = Field(300, ge=10, le=1000)
    """Images held out of training, drawn evenly from the classes; `select` scores against them."""
