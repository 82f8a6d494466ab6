"""Settings of couplings: how data and noise are paired."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from couplet.config.base import Closed, Invalid, Variant
from couplet.config.networks import Blocks, Channels


class FrozenRun(Closed):
    """Another run of the same file, data set, kernel and seed, whose model is the frozen predictor."""

    coupling: str
    """A name from `couplings`."""
    recipe: str | None = None
    """A name from `recipes`; null is the recipe of the run that needs it."""
    progress: float = Field(1.0, gt=0, le=1)
    """Fraction of its steps; the nearest snapshot predicts (GC, Fig. 4: 1, 0.2)."""


class CouplingConfig(Variant):
    """How data and noise are paired."""

    @property
    def wants_frozen(self) -> bool:
        """Whether the coupling needs a frozen predictor."""
        return False

    @property
    def wants_average(self) -> bool:
        """Whether the coupling predicts with the running average, which `train.shard` then leaves whole."""
        return False

    @property
    def frozen_run(self) -> FrozenRun | None:
        """The run of the same file whose model is the frozen predictor, if there is one."""
        return None

    @property
    def batch_parts(self) -> int:
        """Equal parts that the coupling divides a batch into."""
        return 1

    @property
    def own_network(self) -> Encoder | None:
        """Size of the network that the coupling trains beside the main one, if it has one."""
        return None


class IndependentConfig(CouplingConfig):
    """Noise as drawn (iCT)."""

    implementation: ClassVar[str] = "couplet.couplings.independent:Independent"
    kind: Literal["independent"] = "independent"


class MinibatchCouplingConfig(CouplingConfig):
    """Settings shared by couplings that permute noise within a minibatch."""

    parts: int = Field(1, ge=1)
    """Equal parts of a batch, each with its own assignment, as in codes where a process permutes its own."""
    recouple_when_sampling: bool = True
    """Solve the assignment again at each later sampling step, as VCT's code does. The trained model expects
    permuted noise: without it, NFE 2 is worse than NFE 1."""
    sampling_group: int = Field(500, ge=1)
    """Consecutive samples that share such an assignment (VCT: 500); replaces `sample.batch`."""

    @property
    def batch_parts(self) -> int:
        return self.parts


class MinibatchOTConfig(MinibatchCouplingConfig):
    """Noise permuted within the batch by exact optimal transport."""

    implementation: ClassVar[str] = "couplet.couplings.minibatch:MinibatchOT"
    title: ClassVar[str] = "minibatch OT"
    kind: Literal["ot"] = "ot"


class SinkhornConfig(MinibatchCouplingConfig):
    """Noise permuted within the batch by entropic optimal transport, without a solver on the CPU."""

    implementation: ClassVar[str] = "couplet.couplings.minibatch:Sinkhorn"
    title: ClassVar[str] = "Sinkhorn OT"
    kind: Literal["sinkhorn"] = "sinkhorn"
    epsilon: float = Field(0.1, ge=1e-6, le=1e6)
    """Weight of the plan's entropy, in units of the centred cost's root mean square; a smaller one comes
    closer to exact transport and needs more iterations."""
    iterations: int = Field(20, ge=1, le=100_000)
    """Both defaults together lose about 2 % of the gain of exact transport (`benchmarks/transport.py`)."""


class ProjectedConfig(MinibatchCouplingConfig):
    """Noise permuted within the batch by sorting along the best of several random directions."""

    implementation: ClassVar[str] = "couplet.couplings.minibatch:Projected"
    title: ClassVar[str] = "projected OT"
    kind: Literal["projected"] = "projected"
    directions: int = Field(16, ge=1, le=100_000)
    """Number of random directions, the same in every batch."""
    seed: int = Field(0, ge=0)
    """Seed of the random directions; independent of the training seed."""


class SwapsConfig(MinibatchCouplingConfig):
    """Noise exchanged between pairs of images where that lowers the transport cost."""

    implementation: ClassVar[str] = "couplet.couplings.minibatch:Swaps"
    title: ClassVar[str] = "pairwise swaps"
    kind: Literal["swaps"] = "swaps"
    rounds: int = Field(128, ge=1, le=100_000)
    """Rounds in which every image is compared with one other; more come closer to optimal transport."""
    seed: int = Field(0, ge=0)
    """Seed of the random pairings; independent of the training seed."""


class Encoder(Closed):
    """The variational coupling's encoder: the main network at another size, with 2C outputs."""

    model_channels: Channels = 32
    """VCT: 32 for both "small" and "big"."""
    num_blocks: Blocks = 1
    """VCT: 1 is "small", 2 is "big"."""


class VariationalConfig(CouplingConfig):
    """An encoder emits mean and standard deviation of the noise (VCT)."""

    implementation: ClassVar[str] = "couplet.couplings.variational:Variational"
    title: ClassVar[str] = "variational"
    kind: Literal["vae"] = "vae"
    kl_weight: float = Field(30.0, ge=0, le=1e6)
    """Weight of the KL term before the recipe's own scale (VCT's kl_loss_scale)."""
    encoder: Encoder = Encoder()
    """Size of the encoder's network."""

    @property
    def own_network(self) -> Encoder:
        return self.encoder


class GeneratorInducedConfig(CouplingConfig):
    """The model's own output as data endpoint of the pair (GC)."""

    implementation: ClassVar[str] = "couplet.couplings.generator_induced:GeneratorInduced"
    title: ClassVar[str] = "generator-induced"
    kind: Literal["generator"] = "generator"
    mu: float = Field(0.5, ge=0, le=1)
    """Probability that a pair is generator-induced; the released code's `mix_gen_induced_traj` is 1 - mu."""
    mu_end: float | None = Field(None, ge=0, le=1)
    """mu at the end of training, reached linearly; null keeps it constant."""
    predictor: Literal["ema", "online", "frozen"] = "ema"
    """Model that makes the data endpoint: the running average (GC's choice), the model in training, or the
    frozen one that `pretrained` or the recipe's `frozen_from` names (GC, Fig. 4)."""
    pretrained: FrozenRun | None = None
    """With `predictor: frozen`: the run that predicts; the grid trains it first."""

    @property
    def frozen_run(self) -> FrozenRun | None:
        return self.pretrained

    @model_validator(mode="after")
    def _frozen_where_pretrained(self) -> Self:
        if self.pretrained is not None and self.predictor != "frozen":
            raise Invalid(("predictor",), self.predictor, "must be frozen where `pretrained` is given")
        return self

    @property
    def wants_frozen(self) -> bool:
        return self.predictor == "frozen"

    @property
    def wants_average(self) -> bool:
        return self.predictor == "ema"


class VariationalGeneratorConfig(VariationalConfig, GeneratorInducedConfig):
    """Noise from an encoder, the model's output as data endpoint (VCT and GC combined; in neither paper)."""

    implementation: ClassVar[str] = "couplet.couplings.variational:VariationalGenerator"
    title: ClassVar[str] = "variational + generator-induced"
    kind: Literal["vae_generator"] = "vae_generator"  # type: ignore[assignment]
