"""What the stages do with a trained model, and what `train` writes: one class per section."""

from __future__ import annotations

from typing import Annotated, Any, Literal

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
    """Real images to compare with. The papers choose on `train`, which they report on as well; seeds of
    the noise differ from those of `sample` either way."""


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

    metrics: Annotated[dict[str, Any], named(MetricConfig)] = {"fd": {}, "kid": {}, "is": {}}
    """Metrics by name. Metrics that need class scores are left out with an extractor that has none."""


class TrainConfig(Closed):
    """What `train` writes, apart from what the recipe computes."""

    snapshots: int = Field(6, ge=1)
    """EMA snapshots saved at equal distances, the last at the last step."""
    log_every: int = Field(25, ge=1)
    """Steps between lines of curve.csv."""
    save_every: int = Field(500, ge=1)
    """Steps between saves of the complete state, from which a stopped run goes on."""
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    """Of the networks alone: all in float32; float32 whose products are rounded to TF32, on a GPU; or
    bfloat16 where torch's autocast has it. Everything around them is float32 (the transport cost float64)."""
    compile: bool = False
    """Evaluate the networks through torch.compile: minutes of compilation, other rounding, and with dropout
    other masks."""
    microbatch: int | None = Field(None, ge=1)
    """Images that go through the networks at once, where a batch is too large for the memory: the step is
    that of the whole batch up to rounding, with dropout under other masks. Null: all of them."""
