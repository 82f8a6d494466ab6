"""Settings of measuring, and of the files that `train` writes: one class per section."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from couplet.config.base import Closed, Ints, named
from couplet.config.metrics import MetricConfig


class SelectConfig(Closed):
    """How `select` scores the saved snapshots."""

    samples: int = Field(2000, ge=2)
    """Images generated for each snapshot and NFE."""
    nfe: int = Field(1, ge=1)
    """The NFE whose Fréchet distance decides."""
    split: Literal["test", "train"] = "test"
    """Real images to compare with. The papers choose on `train`, on which they also report. Seeds differ from
    those of `sample` in both cases."""


class SampleConfig(Closed):
    """Samples of the selected snapshot."""

    samples: int = Field(5000, ge=2)
    """Images per NFE."""
    nfe: Ints = Field((1, 2), min_length=1)
    """Numbers of network evaluations."""
    batch: int = Field(250, ge=1)
    """Images per network call; changes speed and memory, not images."""
    quantise: Literal["round", "truncate"] = "round"
    """Round to the nearest of 256 values (EDM, ECT), or down (VCT, torchmetrics)."""


class EvaluateConfig(Closed):
    """How `evaluate` turns samples into numbers."""

    metrics: Annotated[dict[str, MetricConfig], named(MetricConfig)] = {"fd": {}, "kid": {}, "is": {}}
    """Metrics by name. Metrics that need class scores are skipped for extractors that have none."""


class TrainConfig(Closed):
    """Settings of training that are not part of the method: files and computation."""

    snapshots: int = Field(6, ge=1)
    """Number of EMA snapshots, saved at equal intervals up to the last step."""
    log_every: int = Field(25, ge=1)
    """Steps between lines of curve.csv."""
    save_every: int = Field(500, ge=1)
    """Steps between saves of the complete state, from which a stopped run resumes."""
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    """Precision of the networks: float32; float32 with products in TF32, on a GPU; or bfloat16 where torch's
    autocast uses it. Everything else is float32 (the transport cost float64)."""
    compile: bool = False
    """Evaluate the networks through torch.compile, which takes minutes and changes rounding, and with dropout
    the masks."""
    microbatch: int | None = Field(None, ge=1)
    """Images evaluated at once, for batches that do not fit into memory; null is the whole batch. Changes the
    step only by rounding, and with dropout by the masks."""
