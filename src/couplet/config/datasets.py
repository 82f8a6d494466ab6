"""Data sets: the origin of the images, how they are cut to size and how they are split.

A configuration is part of a run's key, so it holds the settings that decide the pixels and nothing else.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from couplet.config.base import Invalid, Place, Variant, path_safe, refused, validated
from couplet.errors import UserError

Crop = Literal[
    "center-crop",
    "center-crop-dhariwal",
    "resize-center-crop-lanczos",
    "resize-center-crop-bicubic",
    "resize-center-crop-bilinear",
]
"""How an image of another size becomes a square: a function in ``couplet.data.sources.images`` each."""


def is_plane(shape: tuple[int, ...] | None) -> bool:
    """Whether images [h, w, c] of this shape are points of the plane: one pixel, two channels."""
    return shape == (1, 1, 2)


def panel_size(shape: tuple[int, ...]) -> int:
    """Number of images [h, w, c] of this shape that a picture shows side by side."""
    return 1000 if is_plane(shape) else 36


class DatasetConfig(Variant):
    """Origin of the images and how they are split.

    The implementation returns a :class:`couplet.data.sources.base.Source`. It finds original files in the
    folder ``raw``, and the ``ExitStack`` closes its files after the last image.
    """

    by_content: ClassVar[tuple[str, ...]] = ()
    """Settings that name files or folders, which count in cache keys by their content."""

    @property
    def originals_named(self) -> dict[str, Path]:
        """The files and folders that count by their content, by setting."""
        named = {name: getattr(self, name) for name in self.by_content}
        return {name: Path(path) for name, path in named.items() if path is not None}

    native: ClassVar[tuple[int, int, int] | None] = None
    """Height, width and channels that the kind prescribes, if it does."""
    num_classes: ClassVar[int | None] = 0
    """Number of classes that the kind prescribes; 0 if it has no labels, None if its files decide."""

    @property
    def size(self) -> tuple[int | None, int | None]:
        """Pixels per side and channels of the archive's images; None if the files decide."""
        return (None, None) if self.native is None else (self.native[0], self.native[2])

    @property
    def splits(self) -> dict[str, int | None] | None:
        """Numbers of images by split, None for a number that files decide; None if they decide the splits."""
        return {"train": None, "test": None}


class HeldOutConfig(DatasetConfig):
    """A data set without a published test split."""

    test_images: int = Field(0, ge=0)
    """Images held out of training, evenly from the classes. With 0, `select` needs `split: train`."""

    @property
    def splits(self) -> dict[str, int | None] | None:
        return {"train": None, **({"test": self.test_images} if self.test_images else {})}


class DigitsConfig(DatasetConfig):
    """scikit-learn's digits: 1,797 grey 8×8 images of ten classes, shipped inside scikit-learn."""

    native = (8, 8, 1)
    num_classes = 10
    implementation: ClassVar[str] = "couplet.data.sources.toy:read_digits"
    kind: Literal["digits"] = "digits"
    test_images: int = Field(300, ge=10, le=1000)
    """Images held out of training, drawn evenly from the classes; `select` scores against them."""

    @property
    def splits(self) -> dict[str, int | None] | None:
        return {"train": 1797 - self.test_images, "test": self.test_images}


class MixtureConfig(DatasetConfig):
    """Points of the plane: an equal mixture of two Gaussians with means (0, 0.5) and (0, -0.5).

    The toy data of VCT's Figure 1 (arXiv 2502.18197), with our standard deviation. A point is an image of 1×1
    pixels whose two channels are the coordinates, of 256 values each.
    """

    native = (1, 1, 2)
    num_classes = 2
    implementation: ClassVar[str] = "couplet.data.sources.toy:read_mixture"
    kind: Literal["mixture"] = "mixture"
    std: float = Field(0.1, ge=0.01, le=0.125)
    """Standard deviation of each coordinate. Points beyond the edge, 1 in 30,000 at most, are clipped."""
    points: int = Field(5000, ge=2, le=10_000_000)
    """Points of the training split."""
    test_points: int = Field(1000, ge=2, le=10_000_000)
    """Points of the test split, drawn independently."""
    seed: int = Field(0, ge=0)
    """Seed of the points; independent of every training seed."""

    @property
    def splits(self) -> dict[str, int | None] | None:
        return {"train": self.points, "test": self.test_points}


class MnistConfig(DatasetConfig):
    """MNIST: 60,000 training and 10,000 test images, grey, 28×28, ten classes."""

    native = (28, 28, 1)
    num_classes = 10
    implementation: ClassVar[str] = "couplet.data.sources.published:read_mnist"
    kind: Literal["mnist"] = "mnist"


class FashionMnistConfig(DatasetConfig):
    """Fashion-MNIST: 60,000 training and 10,000 test images, grey, 28×28, ten classes."""

    native = (28, 28, 1)
    num_classes = 10
    implementation: ClassVar[str] = "couplet.data.sources.published:read_mnist"
    kind: Literal["fashion_mnist"] = "fashion_mnist"


class Cifar10Config(DatasetConfig):
    """CIFAR-10: 50,000 training and 10,000 test images, 32×32, ten classes."""

    native = (32, 32, 3)
    num_classes = 10
    implementation: ClassVar[str] = "couplet.data.sources.published:read_cifar10"
    kind: Literal["cifar10"] = "cifar10"


class CelebA64Config(DatasetConfig):
    """CelebA, aligned, at 64×64, without labels: 162,770 training and 19,962 test images, as in GC's code."""

    native = (64, 64, 3)
    implementation: ClassVar[str] = "couplet.data.sources.published:read_celeba"
    kind: Literal["celeba64"] = "celeba64"
    crop: Crop = "resize-center-crop-lanczos"
    """GC's code."""


class Church64Config(HeldOutConfig):
    """LSUN church outdoor at 64×64: 126,227 images without labels; the 300 of the official validation split,
    too few to score on, are left out."""

    native = (64, 64, 3)
    implementation: ClassVar[str] = "couplet.data.sources.published:read_church"
    kind: Literal["church64"] = "church64"
    crop: Crop = "resize-center-crop-lanczos"
    """GC's code for CelebA; there is no published code for this data set."""


class ImageNet32Config(DatasetConfig):
    """ILSVRC-2012 at 32×32, 1,000 classes: 1,281,167 training and, of validation, 50,000 test images."""

    native = (32, 32, 3)
    num_classes = 1000
    implementation: ClassVar[str] = "couplet.data.sources.published:read_imagenet32"
    kind: Literal["imagenet32"] = "imagenet32"
    crop: Crop = "resize-center-crop-bilinear"
    """GC's code. The public downsampled ImageNet of this size has other pixels: it was made with boxes."""


class ImageNet64Config(HeldOutConfig):
    """ILSVRC-2012 at 64×64, 1,000 classes: 1,281,167 training images."""

    native = (64, 64, 3)
    num_classes = 1000
    implementation: ClassVar[str] = "couplet.data.sources.published:read_imagenet64"
    kind: Literal["imagenet64"] = "imagenet64"
    originals: Literal["zip", "ilsvrc"] = "zip"
    """`zip`: the archive of EDM's or EDM2's dataset_tool, training images only, as the papers use it.
    `ilsvrc`: the original images; the 50,000 validation images are the test split."""
    crop: Crop = "center-crop-dhariwal"
    """EDM2's, and so ECT's and VCT's; EDM's is center-crop. A zip has cropped images: there the crop selects
    the file, img64.zip or, for EDM's, imagenet-64x64.zip, and no other crop is allowed."""

    @property
    def splits(self) -> dict[str, int | None] | None:
        return {"train": None, "test": None} if self.originals == "ilsvrc" else super().splits

    @model_validator(mode="after")
    def _fits_originals(self) -> Self:
        if self.originals == "ilsvrc" and self.test_images:
            raise Invalid(("test_images",), self.test_images, "must be 0: ilsvrc has its own test split")
        if self.originals == "zip" and self.crop not in ("center-crop", "center-crop-dhariwal"):
            expected = "must be center-crop or center-crop-dhariwal with originals: zip"
            raise Invalid(("crop",), self.crop, expected)
        return self


class Ffhq64Config(HeldOutConfig):
    """Flickr-Faces-HQ at 64×64: 70,000 images without labels, resized by EDM's dataset_tool (Lanczos)."""

    native = (64, 64, 3)
    implementation: ClassVar[str] = "couplet.data.sources.published:read_ffhq"
    kind: Literal["ffhq64"] = "ffhq64"


class ImagesConfig(HeldOutConfig):
    """Your own images: a folder, zip, tar, IDX file or LMDB, recognised by its content.

    Labels come from the names of the first-level folders, from the dataset.json of an EDM zip, or from the
    labels file next to an IDX file; top-level folders such as `train` and `test` are splits. Transparency is
    dropped, and images of more than 8 bits per channel are refused.
    """

    implementation: ClassVar[str] = "couplet.data.sources.images:read_images"
    by_content = ("path", "test_path")
    num_classes = None
    kind: Literal["images"] = "images"
    path: Place
    """Path of the images, relative to the working directory."""
    resolution: int = Field(ge=1, le=4096)
    """Height and width of the archive's images, in pixels."""
    crop: Crop = "center-crop-dhariwal"
    """How an image becomes a square."""
    channels: Literal[1, 3] | None = None
    """3: colour; 1: grey (ITU-R 601-2 luma). null: the images' own, which must then agree."""
    test_path: Place | None = None
    """Path of the test images, if they are not at `path`."""
    skip_corrupt: bool = False
    """Leave out images that cannot be decoded and list them in the card, instead of refusing them."""

    @property
    def originals_named(self) -> dict[str, Path]:
        named = super().originals_named
        labels = {f"{name}_labels": labels_beside(path) for name, path in named.items()}
        return named | {name: path for name, path in labels.items() if path is not None}

    @property
    def size(self) -> tuple[int | None, int | None]:
        return self.resolution, self.channels

    @property
    def splits(self) -> dict[str, int | None] | None:
        if self.test_path or self.test_images:
            return {"train": None, "test": self.test_images or None}
        return None

    @model_validator(mode="after")
    def _one_test_split(self) -> Self:
        if self.test_path is not None and self.test_images:
            raise Invalid(("test_images",), self.test_images, "must be 0 if test_path is set")
        return self


def labels_beside(images: Path) -> Path | None:
    """The existing file of labels, packed or not, next to an IDX file of images with a name as MNIST's."""
    name, replaced = re.subn(r"images([-.])idx3", r"labels\1idx1", images.name.removesuffix(".gz"))
    files = (images.with_name(name), images.with_name(f"{name}.gz")) if replaced else ()
    return next((file for file in files if file.is_file()), None)


def from_path(name: str, path: str | Path, **given: Any) -> ImagesConfig:
    """The images at ``path`` as data set ``name``, for `couplet prepare NAME --from PATH`.

    A kind of that name gives defaults for the settings ``given``, so that the result can replace it.

    Raises:
        UserError: a value is not allowed, or neither the settings nor the kind have a resolution.
    """
    with refused("data set"):
        path_safe(name)
    family: dict[str, Any] = DatasetConfig.family
    known = {name: kind for name, kind in family.items() if getattr(kind, "native", None)}
    settings: dict[str, Any] = {"path": str(path)}
    if kind := known.get(name):
        _, settings["resolution"], settings["channels"] = kind.native
        if "crop" in kind.model_fields:
            settings["crop"] = kind.model_fields["crop"].default
    settings |= given
    if "resolution" not in settings:
        raise UserError(f"data set {name}: needs a resolution; only {', '.join(sorted(known))} prescribe one")
    return validated(ImagesConfig, settings, f"data set {name}")
