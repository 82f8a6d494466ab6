"""Data sets and the extractors whose features measure them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from couplet.config.base import Closed, Ints, Variant


class DatasetConfig(Variant):
    """Where images come from and how they are split."""

    noun = "dataset"


class Digits(DatasetConfig):
    """scikit-learn's digits: 1,797 grey 8×8 images of ten classes, shipped inside scikit-learn."""

    kind: Literal["digits"] = "digits"
    test_images: int = Field(300, ge=10, le=1000)
    """Images held out of training, drawn evenly from the classes; `select` scores against them."""


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


class SelectConfig(Closed):
    """How `select` scores the saved snapshots."""

    samples: int = Field(2000, ge=2)
    """Images generated for each snapshot and NFE."""
    nfe: int = Field(1, ge=1)
    """The NFE whose Fréchet distance decides."""


class SampleConfig(Closed):
    """What `sample` generates from the selected snapshot."""

    samples: int = Field(5000, ge=2)
    """Images per NFE."""
    nfe: Ints = Field((1, 2), min_length=1)
    """Numbers of network evaluations."""
    batch: int = Field(250, ge=1)
    """Images per network call; changes speed and memory, never an image."""
    quantise: Literal["round", "truncate"] = "round"
    """To the nearest of 256 values (EDM, ECT), or down to the next (VCT, torchmetrics)."""


class EvaluateConfig(Closed):
    """How `evaluate` turns samples into numbers."""

    kid_subsets: int = Field(100, ge=1)
    """Random subsets that the kernel distance averages over (Bińkowski et al.)."""
    kid_subset_size: int = Field(1000, ge=2)
    """Largest number of images in a subset."""


class TrainConfig(Closed):
    """What `train` writes, apart from what the recipe computes."""

    snapshots: int = Field(6, ge=1)
    """EMA snapshots saved at equal distances, the last at the last step."""
    log_every: int = Field(25, ge=1)
    """Steps between lines of curve.csv."""
    save_every: int = Field(500, ge=1)
    """Steps between saves of the complete state, from which a stopped run goes on."""
