"""How data and noise are paired; one class per coupling, in step with ``couplet.couplings``."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from couplet.config.base import Closed, Invalid, Variant


class FrozenRun(Closed):
    """Another run of the same file, data set, kernel and seed, whose model predicts."""

    coupling: str
    """A name from `couplings`."""
    recipe: str | None = None
    """A name from `recipes`; null is the recipe of the training that wants it."""
    progress: float = Field(1.0, gt=0, le=1)
    """The fraction of its steps after which the model is taken: the nearest snapshot (GC, Fig. 4: 1, 0.2)."""


class CouplingConfig(Variant):
    """How data and noise are paired.

    Implementations are called with the settings and a :class:`couplet.couplings.base.Setting`.
    """

    noun = "coupling"

    @property
    def wants_frozen(self) -> bool:
        """Whether the recipe must name a pre-trained model in `frozen_from`."""
        return False

    @property
    def frozen_run(self) -> FrozenRun | None:
        """The run whose model is the frozen predictor, where it is one of the same file."""
        return None

    @property
    def batch_parts(self) -> int:
        """Equal parts that the coupling divides a batch into."""
        return 1


class IndependentConfig(CouplingConfig):
    """Noise as drawn (iCT)."""

    implementation: ClassVar[str] = "couplet.couplings.independent:Independent"
    kind: Literal["independent"] = "independent"


class MinibatchCouplingConfig(CouplingConfig):
    """What couplings share that deal the noise of a batch out to its images."""

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


class MinibatchOTConfig(MinibatchCouplingConfig):
    """Noise re-assigned within the batch by exact optimal transport."""

    implementation: ClassVar[str] = "couplet.couplings.minibatch_ot:MinibatchOT"
    kind: Literal["ot"] = "ot"


class SinkhornConfig(MinibatchCouplingConfig):
    """Noise re-assigned within the batch by entropic optimal transport, without a solver on the CPU."""

    implementation: ClassVar[str] = "couplet.couplings.sinkhorn:Sinkhorn"
    kind: Literal["sinkhorn"] = "sinkhorn"
    epsilon: float = Field(0.1, ge=1e-6)
    """Weight of the plan's entropy, in units of the centred cost's root mean square. Towards 0 the plan is
    that of exact transport, and takes more iterations."""
    iterations: int = Field(20, ge=1)
    """Of Sinkhorn's algorithm. At these two defaults about 2 % of what exact transport gains is lost
    (`benchmarks/ot.py`)."""


class ProjectedConfig(MinibatchCouplingConfig):
    """Noise re-assigned within the batch by sorting along random directions, the best of which is taken."""

    implementation: ClassVar[str] = "couplet.couplings.projected:Projected"
    kind: Literal["projected"] = "projected"
    directions: int = Field(16, ge=1)
    """Random directions that are tried, the same ones in every batch."""
    seed: int = Field(0, ge=0)
    """Of the directions; whatever the seed of the training."""


class SwapsConfig(MinibatchCouplingConfig):
    """Noise exchanged between pairs of images where that lowers the transport cost."""

    implementation: ClassVar[str] = "couplet.couplings.swaps:Swaps"
    kind: Literal["swaps"] = "swaps"
    rounds: int = Field(128, ge=1)
    """In each of which every image meets one other: the more, the nearer to optimal transport."""
    seed: int = Field(0, ge=0)
    """Of who meets whom; whatever the seed of the training."""


class Encoder(Closed):
    """The variational coupling's encoder: the main network at another size, with 2C outputs."""

    model_channels: int = Field(32, ge=1)
    """VCT: 32 for both "small" and "big"."""
    num_blocks: int = Field(1, ge=1)
    """VCT: 1 is "small", 2 is "big"."""


class VariationalConfig(CouplingConfig):
    """An encoder emits mean and standard deviation of the noise (VCT)."""

    implementation: ClassVar[str] = "couplet.couplings.variational:Variational"
    kind: Literal["vae"] = "vae"
    kl_weight: float = Field(30.0, ge=0)
    """Weight of the KL term before the recipe's own scale (VCT's kl_loss_scale)."""
    encoder: Encoder = Encoder()


class GeneratorInducedConfig(CouplingConfig):
    """The model's own output as data end of the pair (GC)."""

    implementation: ClassVar[str] = "couplet.couplings.generator_induced:GeneratorInduced"
    kind: Literal["generator"] = "generator"
    mu: float = Field(0.5, ge=0, le=1)
    """Probability that a pair is generator-induced, as in the paper: 0 is never, 1 is always. The
    released code's `mix_gen_induced_traj` is 1 - mu."""
    mu_end: float | None = Field(None, ge=0, le=1)
    """mu at the end of training, reached linearly; null keeps it constant."""
    predictor: Literal["ema", "online", "frozen"] = "ema"
    """Which model makes the data end: the running average (GC's choice), the model in training, or the
    frozen one that `pretrained` or the recipe's `frozen_from` names (GC, Fig. 4)."""
    pretrained: FrozenRun | None = None
    """With `predictor: frozen`: the training to predict with; the grid runs it first."""

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


class VariationalGeneratorConfig(VariationalConfig, GeneratorInducedConfig):
    """Noise from an encoder and the model's own output as data end (VCT and GC in one; in neither paper)."""

    implementation: ClassVar[str] = "couplet.couplings.variational_generator:VariationalGenerator"
    kind: Literal["vae_generator"] = "vae_generator"  # type: ignore[assignment]
