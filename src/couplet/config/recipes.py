"""A recipe: every choice of a paper's method except the coupling and the kernel."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from couplet.config.base import Closed, Invalid, Listed, Place, Variant, located
from couplet.config.networks import NetworkConfig

Level = Annotated[float, Field(ge=1e-6, le=1e6)]
"""A noise level: its square and the inverse of its square are numbers of float32."""
Decay = Annotated[float, Field(ge=0, lt=1)]
Betas = Annotated[tuple[Decay, ...], Field(strict=False, min_length=2, max_length=2)]

LEAST_GAP = 2.0**-22
"""Smallest (t - r)/t for which the two levels of a pair differ in float32."""
LEAST_MASS = 1e-9
"""Smallest probability between sigma_min and sigma_max that intervals can divide in float64."""


class KernelConfig(Variant):
    """How an image becomes noisy, and the preconditioning that belongs to it."""


class VarianceExplodingConfig(KernelConfig):
    """x_t = x + t z (EDM, iCT, ECT, GC)."""

    implementation: ClassVar[str] = "couplet.kernels:VarianceExploding"
    title: ClassVar[str] = "VE"
    kind: Literal["ve"] = "ve"


class LinearInterpolationConfig(KernelConfig):
    """x_t = (1 - t/sigma_max) x + t z, the flow-matching kernel (VCT)."""

    implementation: ClassVar[str] = "couplet.kernels:LinearInterpolation"
    title: ClassVar[str] = "LI"
    kind: Literal["li"] = "li"


class ScheduleConfig(Variant):
    """How a step draws its two noise levels t > r."""

    makes_denoiser: ClassVar[bool] = False
    """Whether the target is always the data endpoint, so that the model learns its mean given x_t."""
    p_mean: float = Field(-1.1, ge=-10, le=10)
    """Mean of ln t (iCT, ECT: -1.1; ImageNet-64 in ECT and VCT: -0.8)."""
    p_std: float = Field(2.0, ge=0.01, le=5)
    """Standard deviation of ln t (2.0; ImageNet-64: 1.6)."""

    def check(self, sigma_min: float, sigma_max: float) -> None:
        """Raise Invalid unless pairs t > r can be drawn and told apart between these levels."""


class DiscretisedConfig(ScheduleConfig):
    """iCT: neighbours on a grid of noise levels that becomes finer during training."""

    implementation: ClassVar[str] = "couplet.schedules:Discretised"
    kind: Literal["discretised"] = "discretised"
    curriculum: Literal["exponential", "square_root", "constant"] = "exponential"
    """How the number of grid points grows: iCT's doubling, the CM paper's square root, not at all."""
    s0: int = Field(10, ge=1, le=1_000_000)
    """Intervals at the start."""
    s1: int = Field(1280, ge=1, le=1_000_000)
    """Intervals at the end."""
    rho: float = Field(7.0, ge=0.1, le=100)
    """Exponent of the grid's spacing (EDM)."""
    levels: Literal["lognormal", "uniform"] = "lognormal"
    """Probability of an interval: lognormal mass between its ends (iCT), or the same for all (CM)."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.s1 < self.s0:
            raise Invalid(("s1",), self.s1, f"must be at least s0 = {self.s0}")
        return self

    def check(self, sigma_min: float, sigma_max: float) -> None:
        # The relative gap of neighbours on the grid is smallest at its end.
        low, high = sigma_min ** (1 / self.rho), sigma_max ** (1 / self.rho)
        if 1 - ((high - (high - low) / self.s1) / high) ** self.rho < LEAST_GAP:
            raise Invalid(("s1",), self.s1, "must be smaller: the last two levels are one number of float32")
        width = self.p_std * math.sqrt(2)
        below, up_to = (math.erf((math.log(end) - self.p_mean) / width) for end in (sigma_min, sigma_max))
        if self.levels == "lognormal" and (up_to - below) / 2 < LEAST_MASS:
            between = f"[{sigma_min:g}, {sigma_max:g}], from sigma_min to sigma_max"
            raise Invalid(("p_mean",), self.p_mean, f"exp(p_mean) must lie in or near {between}")


class ContinuousConfig(ScheduleConfig):
    """ECT/ECM: t lognormal, r from t by a mapping whose gap shrinks by q with every stage."""

    implementation: ClassVar[str] = "couplet.schedules:Continuous"
    kind: Literal["continuous"] = "continuous"
    mapping: Literal["sigmoid", "const"] = "sigmoid"
    """a(t) = 1 + k sigmoid(-b t), or a(t) = 1."""
    q: float = Field(2.0, gt=1, le=1e6)
    """r/t = 1 - a(t)/q^(stage + 1)."""
    k: float = Field(8.0, ge=0, le=1e6)
    """Height of the sigmoid."""
    b: float = Field(1.0, ge=1e-6, le=1e6)
    """Slope of the sigmoid."""
    stages: int = Field(8, ge=1, le=1_000_000)
    """Number of stages, which divide training equally."""

    def check(self, sigma_min: float, sigma_max: float) -> None:
        if self.stages * math.log(self.q) > -math.log(LEAST_GAP):
            most = f"q^stages must be at most {1 / LEAST_GAP:g}, or the last pairs are the same in float32"
            raise Invalid(("stages",), self.stages, f"with q = {self.q:g}, {most}")


class DenoisingConfig(ScheduleConfig):
    """t lognormal, r = 0: the target is the data endpoint of the pair, and the model a denoiser E[x | x_t].

    With distance squared_l2, weighting karras, p_mean -1.2 and p_std 1.2 this is EDM's training. The endpoint
    of a generator-induced pair is made at t, not at r (GC's figure 2).
    """

    implementation: ClassVar[str] = "couplet.schedules:Denoising"
    kind: Literal["denoising"] = "denoising"
    makes_denoiser: ClassVar[bool] = True


class DistanceConfig(Variant):
    """Distance between the outputs of student and teacher, per image; ``dimensions`` are D = c h w."""


def _squared(c: float) -> float:
    if 0 < c < 1e-12:
        raise ValueError("must be 0, or at least 1e-12 to have a square in float32")
    return c


Edge = Annotated[float, Field(ge=0, le=1000), AfterValidator(_squared)]
"""The c of a pseudo-Huber distance."""


class PseudoHuberConfig(DistanceConfig):
    """sqrt(||a - b||² + c²) - c on the image's norm (iCT's paper, GC, ECT/ECM)."""

    implementation: ClassVar[str] = "couplet.losses:pseudo_huber_of"
    kind: Literal["pseudo_huber"] = "pseudo_huber"
    c: Edge | None = None
    """null is iCT's 0.00054 sqrt(D); 0 is the plain norm."""


class ElementwisePseudoHuberConfig(DistanceConfig):
    """Sum over dimensions of sqrt((a - b)² + c²) - c, with the whole image's c (VCT's iCT code)."""

    implementation: ClassVar[str] = "couplet.losses:elementwise_pseudo_huber_of"
    kind: Literal["elementwise_pseudo_huber"] = "elementwise_pseudo_huber"
    c: Edge | None = None
    """null is 0.00054 sqrt(D), as in the code."""


class SquaredL2Config(DistanceConfig):
    """||a - b||²."""

    implementation: ClassVar[str] = "couplet.losses:squared_l2_of"
    kind: Literal["squared_l2"] = "squared_l2"


class WeightingConfig(Variant):
    """Weight of a pair of noise levels in the loss."""


class InverseGapConfig(WeightingConfig):
    """1/(t - r) (iCT, ECT)."""

    implementation: ClassVar[str] = "couplet.losses:InverseGap"
    kind: Literal["inverse_gap"] = "inverse_gap"


class KarrasConfig(WeightingConfig):
    """1/t² + 1/sigma_data² (EDM; ECT and VCT on ImageNet)."""

    implementation: ClassVar[str] = "couplet.losses:Karras"
    kind: Literal["karras"] = "karras"


class UniformConfig(WeightingConfig):
    """1 (CM; iCT's ablation)."""

    implementation: ClassVar[str] = "couplet.losses:Uniform"
    kind: Literal["uniform"] = "uniform"


class Boundary(Closed):
    """Where c_skip and c_out are shifted so that f(x, sigma_min) = x exactly: in iCT and GC both, in ECT and
    VCT's ECM sampling only, in ECT on ImageNet neither."""

    training: bool = True
    """In training."""
    sampling: bool = True
    """In sampling."""


class OptimizerConfig(Variant):
    """The optimiser of network and coupling together, a :class:`torch.optim.Optimizer` of one parameter."""

    moments: ClassVar[int] = 2
    """Averages that it keeps of every weight's gradient, at the most."""

    lr: float = Field(1e-4, ge=1e-12, le=1e30)
    """Learning rate before its schedule."""
    weight_decay: float = Field(0.0, ge=0, le=1000)
    """Weight decay, as the optimiser defines it."""


class RAdamConfig(OptimizerConfig):
    """Rectified Adam (iCT, ECT, VCT)."""

    implementation: ClassVar[str] = "couplet.training.optim:radam"
    kind: Literal["radam"] = "radam"
    betas: Betas = (0.9, 0.999)
    """Decay per step of the averages of the gradient and of its square."""


class AdamConfig(OptimizerConfig):
    """Adam (EDM2, ECT and VCT on ImageNet: betas 0.9, 0.99)."""

    implementation: ClassVar[str] = "couplet.training.optim:adam"
    kind: Literal["adam"] = "adam"
    betas: Betas = (0.9, 0.99)
    """Decay per step of the averages of the gradient and of its square."""


class LionConfig(OptimizerConfig):
    """Lion (GC), from lion-pytorch."""

    implementation: ClassVar[str] = "couplet.training.optim:lion"
    moments = 1
    kind: Literal["lion"] = "lion"
    betas: Betas = (0.9, 0.99)
    """Share of the average in an update, and its decay per step."""


class LearningRateConfig(Variant):
    """Factor on the learning rate as a function of the 0-based step, apart from the warm-up."""

    warmup: int = Field(0, ge=0)
    """Steps of linear warm-up, which multiplies the factor."""


class ConstantRateConfig(LearningRateConfig):
    """No decay (iCT, GC, ECT on CIFAR-10)."""

    implementation: ClassVar[str] = "couplet.training.optim:constant"
    kind: Literal["constant"] = "constant"


class InverseSqrtConfig(LearningRateConfig):
    """1/sqrt(max(step/reference, 1)) (EDM2; VCT and ECT on ImageNet with 2000)."""

    implementation: ClassVar[str] = "couplet.training.optim:inverse_sqrt"
    kind: Literal["inverse_sqrt"] = "inverse_sqrt"
    reference: int = Field(2000, ge=1)
    """Steps before the decay starts."""


class CosineConfig(LearningRateConfig):
    """Constant up to a fraction of training, then half a cosine."""

    implementation: ClassVar[str] = "couplet.training.optim:cosine"
    kind: Literal["cosine"] = "cosine"
    flat: float = Field(0.5, ge=0, lt=1)
    """Fraction of training before the decay."""
    floor: float = Field(0.01, ge=0, le=1)
    """Factor at the end."""


class EMAConfig(Variant):
    """Running average of the weights: its decay as a function of the 0-based update."""


class ConstantEMAConfig(EMAConfig):
    """ema = beta ema + (1 - beta) net after every step (VCT, ECT, iCT)."""

    implementation: ClassVar[str] = "couplet.training.ema:constant"
    kind: Literal["constant"] = "constant"
    beta: Decay = 0.9999
    """Decay per step."""


class WarmupEMAConfig(EMAConfig):
    """beta_n = min(beta, (1 + n)/(10 + n)) at update n, for short runs."""

    implementation: ClassVar[str] = "couplet.training.ema:warmup"
    kind: Literal["warmup"] = "warmup"
    beta: Decay = 0.99
    """Largest decay per step."""


class PowerEMAConfig(EMAConfig):
    """EDM2's power-function average with relative width `std`."""

    implementation: ClassVar[str] = "couplet.training.ema:power"
    kind: Literal["power"] = "power"
    std: float = Field(0.1, ge=1e-4, lt=0.2886)
    """Width of the average, relative to the steps so far."""
    inverted: bool = False
    """Swap the two weights, as VCT's released code does: the average then follows the raw network."""


class EMAPyTorchConfig(EMAConfig):
    """ema-pytorch 0.2.3 as GC uses it: every `every` steps, decay min(beta, 1 - (1 + n)^(-2/3))."""

    implementation: ClassVar[str] = "couplet.training.ema:ema_pytorch"
    kind: Literal["ema_pytorch"] = "ema_pytorch"
    beta: Decay = 0.9999
    """Largest decay per update."""
    every: int = Field(5, ge=1)
    """Steps between updates."""
    start: int = Field(0, ge=0)
    """Updates that only copy (the class default, which GC's ImageNet runs inherit, is 10000)."""


class Recipe(Closed):
    """A paper's method on one data set, complete but for kernel and coupling."""

    sources: dict[str, str] = {}
    """Sources of values by dotted key: a table of a paper, official code, or an assumption."""
    steps: int = Field(400_000, ge=1, le=1_000_000_000)
    """Optimisation steps K."""
    batch: int = Field(512, ge=2, le=1_000_000)
    """Images per step."""
    flip: bool = False
    """Mirror images at random with probability 1/2."""
    conditional: bool = False
    """Give the class to the network."""
    sigma_min: Level = 0.002
    """Smallest noise level."""
    sigma_max: Level = 80.0
    """Largest noise level, where sampling starts."""
    sigma_data: Level = 0.5
    """Standard deviation of the data that the preconditioning assumes."""
    mid_sigmas: Listed[float] = (0.821,)
    """Noise levels of the sampling steps after the first, in order (0.821 at 32×32; 1.526 at 64×64)."""
    boundary: Boundary = Boundary()
    """Where f(x, sigma_min) = x holds."""
    schedule: ScheduleConfig = DiscretisedConfig()
    """How a step draws its two noise levels."""
    distance: DistanceConfig = PseudoHuberConfig()
    """Distance between the outputs of student and teacher."""
    weighting: WeightingConfig = InverseGapConfig()
    """Weight of a pair of noise levels."""
    teacher: Literal["online", "ema", "target"] = "online"
    """Model whose output at r is the target: the network itself (iCT, VCT, GC, ECT); the average that samples
    come from; or, as in CM, an average of its own, with decay mu(k) = exp(s0 ln mu0 / N(k)) at step k."""
    teacher_mu0: float = Field(0.9, gt=0, lt=1)
    """mu0 of `teacher: target` (CM: CIFAR-10 0.9, ImageNet-64 and LSUN 0.95)."""
    network: NetworkConfig
    """The raw network F."""
    optimizer: OptimizerConfig = RAdamConfig()
    """How gradients change the weights."""
    learning_rate: LearningRateConfig = ConstantRateConfig()
    """How the learning rate changes during training."""
    ema: EMAConfig = ConstantEMAConfig()
    """The running average of the weights, from which samples come."""
    clip_norm: float | None = Field(None, ge=1e-12, le=1e12)
    """Largest global gradient norm (VCT's variational runs: 200); null for no clipping."""
    nonfinite_gradients: Literal["stop", "zero", "large"] = "stop"
    """Stop; or replace by 0 (VCT, ECT on ImageNet); or NaN by 0, infinities by ±1e5 (ECT on CIFAR-10)."""
    init_from: Place | None = None
    """Initial weights of the network: a file of `couplet import`, or any model of couplet."""
    frozen_from: Place | None = None
    """A checkpoint of this project, for couplings with a frozen predictor."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.sigma_min >= self.sigma_max:
            raise Invalid(("sigma_min",), self.sigma_min, f"must be below sigma_max = {self.sigma_max}")
        for sigma in self.mid_sigmas:
            if not self.sigma_min < sigma < self.sigma_max:
                allowed = f"between sigma_min = {self.sigma_min} and sigma_max = {self.sigma_max}"
                raise Invalid(("mid_sigmas",), sigma, f"must lie {allowed}")
        with located("schedule"):
            self.schedule.check(self.sigma_min, self.sigma_max)
        if self.teacher == "target" and not isinstance(self.schedule, DiscretisedConfig):
            needed = f"needs N(k), which schedule {self.schedule.kind} has not; allowed here: ema, online"
            raise Invalid(("teacher",), self.teacher, needed)
        return self
