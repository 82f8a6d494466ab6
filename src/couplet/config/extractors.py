"""Extractors: networks that turn images into features, in which samples are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from couplet.config.base import Place, Variant, choices
from couplet.config.networks import Channels, Levels
from couplet.errors import UserError

if TYPE_CHECKING:
    from couplet.config.fit import Facts


class ExtractorConfig(Variant):
    """An extractor of features; its implementation is a :class:`couplet.metrics.extractor.base.Extractor`."""

    has_logits: ClassVar[bool] = False
    """Whether it classifies images."""
    flops: ClassVar[float] = 2e10
    """Operations of one image at the most, for the time that a job asks for."""
    weights_bytes: ClassVar[float] = 5e8
    """Size of its weights at the most."""

    def width(self, values: int) -> int:
        """Length of the features of images of so many values, at the most."""
        return 2048

    def misfit(self, data: Facts) -> str | None:
        """Reason why the extractor does not suit a data set, if any; the set's name goes before it."""
        return None

    @property
    def resize(self) -> str:
        """How an image becomes the network's input, for the protocol of a number."""
        return "none"

    @property
    def label(self) -> str:
        """Kind, and other settings that decide features, where a file may use several: `dinov2_1a2b3c4d`."""
        return self.kind

    def number(self, number: str) -> str:
        """Name of a number in these features: `fid` for the `fd` of Inception."""
        return number

    def metric(self, number: str) -> str:
        """Column of a number, never that of another extractor: `fd_classifier`; `fid` of clean-fid."""
        return f"{self.number(number)}_{self.label}"


class ClassifierConfig(ExtractorConfig):
    """A small convolutional classifier trained on the training split; features are its last hidden layer."""

    implementation: ClassVar[str] = "couplet.metrics.extractor.classifier:ClassifierExtractor"
    kind: Literal["classifier"] = "classifier"
    flops = 1e8
    weights_bytes = 1e8
    channels: Levels[Channels] = (32, 64)
    """Channels of each convolution stage; every stage after the first halves the resolution."""
    features: int = Field(64, ge=2, le=8192)
    """Length of the feature vector."""
    steps: int = Field(600, ge=1)
    """Optimisation steps."""
    batch: int = Field(128, ge=1, le=1_000_000)
    """Images per step."""
    learning_rate: float = Field(2e-3, gt=0, le=100)
    """Peak learning rate of Adam under a one-cycle schedule."""
    seed: int = Field(0, ge=0)
    """Seed of initial weights and batches; independent of every training seed."""

    def width(self, values: int) -> int:
        return self.features

    def misfit(self, data: Facts) -> str | None:
        if data.classes is None:
            return None
        if data.classes == 0:
            return "has no classes that a classifier could learn"
        if (full := data.classes - len(data.empty_classes)) < 2:
            return f"has images of {full} class, a classifier needs 2 or more"
        # Without a test split, every tenth image tests the classifier.
        least = 2 if "test" in (data.splits or {}) else 3
        if (count := data.count("train")) is not None and count < least:
            return f"has {count} training images, a classifier needs {least} or more"
        return None


class ValuesConfig(ExtractorConfig):
    """The values of an image in [-1, 1] as its features, for points of the plane and small images."""

    implementation: ClassVar[str] = "couplet.metrics.extractor.values:ValuesExtractor"
    kind: Literal["values"] = "values"
    flops = 0.0
    weights_bytes = 0.0
    most: ClassVar[int] = 4096
    """Largest number of values of an image: Fréchet distances decompose a matrix of as many rows."""

    def width(self, values: int) -> int:
        return values

    def misfit(self, data: Facts) -> str | None:
        if data.resolution is None or (values := data.resolution**2 * (data.channels or 1)) <= self.most:
            return None
        more = "" if data.channels else " or more"
        return f"has images of {values} values{more}, values as features are for {self.most} at most"


class PublishedConfig(ExtractorConfig):
    """An extractor whose weights are a published file."""

    weights: Place | None = Field(None, exclude=True)
    """The file; null is the published one, in torch's cache. In cache keys, ``sha256`` stands for it."""
    batch: int = Field(64, ge=1, le=1_000_000)
    """Images per network call; changes speed and memory, and features by float rounding."""

    def misfit(self, data: Facts) -> str | None:
        if data.channels in (None, 1, 3):
            return None
        return f"has images of {data.channels} channels, published extractors take 1 or 3"


INCEPTION_TORCHSCRIPT = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
INCEPTION_PYTORCH = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
DINOV2 = "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428"
ADDRESSES = {
    INCEPTION_TORCHSCRIPT: "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/"
    "inception-2015-12-05.pt",
    INCEPTION_PYTORCH: "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth",
    DINOV2: "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
}
"""The authors' address of each published file, by its digest."""

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class InceptionConfig(PublishedConfig):
    """The network of FID, KID and IS: TensorFlow's Inception of 2015-12-05, as clean-fid runs it."""

    implementation: ClassVar[str] = "couplet.metrics.extractor.inception:InceptionExtractor"
    has_logits = True
    kind: Literal["inception"] = "inception"
    mode: Literal["clean", "legacy_pytorch", "legacy_tensorflow"] = "clean"
    """Resizing to 299 × 299: `clean`, antialiased bicubic, not rounded; else bilinear, not antialiased, with
    the weights of pytorch-fid or of the code of StyleGAN, EDM and ECT."""
    sha256: Sha256 = Field(default_factory=lambda data: _inception(data.get("mode")))
    """SHA-256 of the file, by default of the mode's published one; a file with another digest is refused.
    Give another only for a file that you trust: TorchScript, which two of the modes read, is a program."""

    @property
    def resize(self) -> str:
        resizing = {
            "clean": "bicubic, antialiased",
            "legacy_pytorch": "bilinear, PyTorch",
            "legacy_tensorflow": "bilinear, TensorFlow 1",
        }
        return f"{resizing[self.mode]}, to 299×299"

    @property
    def label(self) -> str:
        mode = "" if self.mode == "clean" else f"_{self.mode}"
        return self.kind + mode + _other(self.sha256, _inception(self.mode))

    def number(self, number: str) -> str:
        return "fid" if number == "fd" else number

    def metric(self, number: str) -> str:
        return self.number(number) + self.label.removeprefix(self.kind)


def _inception(mode: str | None) -> str:
    return INCEPTION_PYTORCH if mode == "legacy_pytorch" else INCEPTION_TORCHSCRIPT


def _other(sha256: str, published: str) -> str:
    """First digits of the digest of weights that are not the published ones, else nothing."""
    return "" if sha256 == published else f"_{sha256[:8]}"


class DinoV2Config(PublishedConfig):
    """FD-DINOv2 (Stein et al. 2023): the class token of DINOv2's ViT-L/14, 1024 numbers, at 224 × 224.

    Images are resized by PIL's bicubic on 8-bit values: dgm-eval's default, EDM2's ``resize_mode='pil'``.
    """

    implementation: ClassVar[str] = "couplet.metrics.extractor.dinov2:DinoV2Extractor"
    kind: Literal["dinov2"] = "dinov2"
    flops = 2e11
    weights_bytes = 1.3e9
    architecture: str = Field("vit_large_patch14_dinov2", min_length=1)
    """Name of the vision transformer in timm."""
    sha256: Sha256 = DINOV2
    """SHA-256 of the file; timm's .safetensors holds the same weights under another digest."""

    @property
    def resize(self) -> str:
        return "bicubic, PIL on 8 bits, to 224×224"

    @property
    def label(self) -> str:
        return self.kind + _other(self.sha256, DINOV2)


EVERYWHERE: dict[str, dict[str, str]] = {
    "inception-legacy": {"kind": "inception", "mode": "legacy_tensorflow"}
}
"""Names that commands without a parameter file know besides the kinds: those of the papers' files."""


def extractors_named(
    names: Sequence[str], known: Mapping[str, ExtractorConfig] | None = None, *, at: str = "extractor"
) -> list[ExtractorConfig | Path]:
    """Extractors by name, kind or folder of `couplet features`; ``known`` are those of a parameter file.

    Messages begin with ``at``.

    Raises:
        UserError: a name is none of these, or is given twice.
    """
    everywhere = {name: ExtractorConfig.parse(content) for name, content in EVERYWHERE.items()}
    known = everywhere | dict(known or {})
    found: list[ExtractorConfig | Path] = []
    for name in names:
        if name in known:
            found.append(known[name])
        elif name in ExtractorConfig.family:
            found.append(ExtractorConfig.parse(name))
        elif Path(name).is_dir():
            found.append(Path(name))
        else:
            allowed = choices(name, {*known, *ExtractorConfig.family})
            raise UserError(f"{at} {name}: {allowed}; or an output folder of `couplet features`")
        if found[-1] in found[:-1]:
            raise UserError(f"{at} {name}: given twice")
    return found
