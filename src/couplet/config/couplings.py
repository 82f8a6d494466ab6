"""How data and noise are paired; one class per coupling, in step with ``couplet.couplings``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from couplet.config.base import Closed, Variant


class CouplingConfig(Variant):
    """Settings of a coupling."""

    noun = "coupling"

    @property
    def wants_frozen(self) -> bool:
        """Whether the recipe must name a pre-trained model in `frozen_from`."""
        return False

    @property
    def batch_parts(self) -> int:
        """Equal parts that the coupling divides a batch into."""
        return 1


class Independent(CouplingConfig):
    """Noise as drawn (iCT)."""

    kind: Literal["independent"] = "independent"


class MinibatchOT(CouplingConfig):
    """Noise re-assigned within the batch by exact optimal transport."""

    kind: Literal["ot"] = "ot"
    parts: int = Field(1, ge=1)
    """Equal parts of a batch, each with an assignment of its own: 1 is the whole batch, whatever number of
    devices shares it; as many as the devices is what a code does where every process deals out its own."""
    recouple_when_sampling: bool = True
    """Solve the assignment again at each later sampling step, as VCT's code does; the trained model
    expects noise that was dealt out (without: NFE 2 is worse than NFE 1)."""
    sampling_group: int = Field(500, ge=1)
    """Consecutive samples that share such an assignment (VCT evaluates in batches of 500). Part of what
    a sample is, unlike `sample.batch`, which it then replaces."""

    @property
    def batch_parts(self) -> int:
        return self.parts


class Encoder(Closed):
    """The variational coupling's encoder: the main network at another size, with 2C outputs."""

    model_channels: int = Field(32, ge=1)
    """VCT: 32 for both "small" and "big"."""
    num_blocks: int = Field(1, ge=1)
    """VCT: 1 is "small", 2 is "big"."""


class Variational(CouplingConfig):
    """An encoder emits mean and standard deviation of the noise (VCT)."""

    kind: Literal["vae"] = "vae"
    kl_weight: float = Field(30.0, ge=0)
    """Weight of the KL term before the recipe's own scale (VCT's kl_loss_scale)."""
    encoder: Encoder = Encoder()


class GeneratorInduced(CouplingConfig):
    """The model's own output as data end of the pair (GC)."""

    kind: Literal["generator"] = "generator"
    mu: float = Field(0.5, ge=0, le=1)
    """Probability that a pair is generator-induced, as in the paper: 0 is never, 1 is always. The
    released code's `mix_gen_induced_traj` is 1 - mu."""
    mu_end: float | None = Field(None, ge=0, le=1)
    """mu at the end of training, reached linearly; null keeps it constant."""
    predictor: Literal["ema", "online", "frozen"] = "ema"
    """Which model makes the data end: the running average (GC's choice), the model in training, or the
    frozen one that the recipe's `frozen_from` names (GC, Fig. 4)."""

    @property
    def wants_frozen(self) -> bool:
        return self.predictor == "frozen"
