"""Extractors: what turns images into the features that distances are computed in."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from couplet.config.base import Ints, Variant


class ExtractorConfig(Variant):
    """What turns images into the features that distances are computed in."""

    noun = "feature extractor"


class Classifier(ExtractorConfig):
    """A small convolutional classifier trained on the training split; features are its last hidden layer."""

    kind: Literal["classifier"] = "classifier"
    channels: Ints = Field((32, 64), min_length=1)
    """Channels of each convolution stage; every stage after the first halves the resolution."""
    features: int = Field(64, ge=2)
    """Length of the feature vector."""
    steps: int = Field(600, ge=1)
    """Optimisation steps."""
    batch: int = Field(128, ge=1)
    """Images per step."""
    learning_rate: float = Field(2e-3, gt=0)
    """Peak learning rate of Adam under a one-cycle schedule."""
    seed: int = Field(0, ge=0)
    """Seed of initial weights and batches; independent of every training seed."""
