"""The user's images, and the way from an opened image to uint8 pixels of the configured size and channels.

Each crop is that of the code that made a paper's data set.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from couplet.config.datasets import Crop, ImagesConfig
from couplet.data.archive import CorruptImage, Source, Stream
from couplet.data.sources.base import with_held_out
from couplet.data.sources.containers import ROLES, Found, images_at
from couplet.errors import UserError
from couplet.files import sha256

Channels = Literal[1, 3]


def read_images(config: ImagesConfig, raw: Path, stack: ExitStack) -> Source:
    """The images at ``config.path``, whose format is recognised by content; ``raw`` is not used."""
    path = Path(config.path)
    found = _found(config, path, stack)
    train = found.splits["train"]
    channels = config.channels or channels_of(train, config.path)
    as_pixels = partial(stream, resolution=config.resolution, crop=config.crop, channels=channels)
    convert = config.channels is not None
    splits = {name: as_pixels(part, config.path, convert=convert) for name, part in found.splits.items()}
    files = [path, *([Path(config.test_path)] if config.test_path else [])]
    return Source(
        description=f"{config.path}, {words(config.resolution, config.crop, channels)}",
        classes=train.classes,
        splits=with_held_out(splits["train"], config.test_images) if config.test_images else splits,
        originals={str(file): f"sha256:{sha256(file)}" for file in files if file.is_file()},
        skip_corrupt=config.skip_corrupt,
        folders=found.folders,
        left_out=found.left_out,
    )


def _found(config: ImagesConfig, path: Path, stack: ExitStack) -> Found:
    """The splits at ``path`` and ``test_path``; refuses two test splits, or one of other classes."""
    found = images_at(path, stack)
    folder = PurePosixPath(found.folders.get("train", "train")).name
    if ROLES[folder.lower()] != "train":
        raise UserError(f"{path}: has no images but in {folder!r}; the training images must be in 'train'")
    if "test" in found.splits and (config.test_path or config.test_images):
        key = "test_path" if config.test_path else "test_images"
        raise UserError(f"{path}: has its own test split; leave {key} out")
    if config.test_path is None:
        return found
    if path.resolve() in ((other := Path(config.test_path).resolve()), *other.parents):
        raise UserError(f"{config.test_path}: lies in {path}, whose images are trained on")
    test = images_at(Path(config.test_path), stack)
    if set(test.splits) != {"train"}:
        raise UserError(
            f"{config.test_path}: has splits; test_path must be a folder or file of images without splits"
        )
    train, held = found.splits["train"], test.splits["train"]
    if bool(train.classes) != bool(held.classes) or set(held.classes) - set(train.classes):
        names = [", ".join(sorted(part.classes)[:5]) or "no labels" for part in (held, train)]
        raise UserError(f"{config.test_path}: {names[0]} are not among the classes of {path}: {names[1]}")
    numbers = np.array([train.classes.index(name) for name in held.classes] or [0], np.int64)
    return Found(
        {"train": train, "test": replace(held, labels=numbers[held.labels], classes=train.classes)},
        {**found.folders, "test": config.test_path},
        dict(Counter(found.left_out) + Counter(test.left_out)),
    )


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """The central square, resized by Lanczos: EDM's dataset_tool, ``--transform=center-crop``."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)


def center_crop_dhariwal(image: Image.Image, size: int) -> Image.Image:
    """Halve by boxes until less than twice too large, resize by bicubic, crop: ADM; EDM2's dataset_tool."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def resize_center_crop(image: Image.Image, size: int, *, resample: Image.Resampling) -> Image.Image:
    """Resize the shorter side to ``size`` and crop the centre: torchvision's Resize and CenterCrop."""
    short = min(image.size)
    width, height = (size if side == short else int(size * side / short) for side in image.size)
    image = image.resize((width, height), resample)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def _resized_first(name: str) -> tuple[Callable[[Image.Image, int], Image.Image], str]:
    crop = partial(resize_center_crop, resample=Image.Resampling[name.upper()])
    return crop, f"shorter side resized by {name}, centre cropped"


CROPS: dict[Crop, tuple[Callable[[Image.Image, int], Image.Image], str]] = {
    "center-crop": (center_crop, "central square resized by Lanczos"),
    "center-crop-dhariwal": (center_crop_dhariwal, "halved by boxes, resized by bicubic, centre cropped"),
    "resize-center-crop-lanczos": _resized_first("Lanczos"),
    "resize-center-crop-bicubic": _resized_first("bicubic"),
    "resize-center-crop-bilinear": _resized_first("bilinear"),
}
"""Each crop by its name in the configuration, and its description in the card."""

COLOURS = {
    1: "grey (colours by ITU-R 601-2 luma, transparency dropped)",
    3: "RGB (grey repeated, palettes looked up, transparency dropped)",
}
"""Description of the conversion in the card."""


def checked(
    images: Stream[Image.Image], where: str, *, size: tuple[int, int] | None, channels: Channels | None
) -> Stream[Image.Image]:
    """The opened images, refused one by one unless they have 8 bits per channel, and this size and channels.

    Args:
        images: the images, called ``where`` in messages.
        size: height and width; None: any.
        channels: None: any.
    """

    def image(index: int) -> Image.Image:
        opened = images.image(index)
        name = f"{where}: {images.names[index]}"
        # Pillow would clip or truncate more than 8 bits per channel, even in mode RGB.
        tiles: Any = getattr(opened, "tile", [])
        if opened.mode[0] in "IF" or any(";16" in str(tile[3]) for tile in tiles):
            raise UserError(f"{name}: more than 8 bits per channel ({opened.mode}); convert it first")
        if channels is not None and _channels(opened) != channels:
            raise UserError(
                f"{name}: {_channels(opened)} channels, the first image has {channels}; make them alike, or "
                "`couplet prepare` them with channels: 3 or 1"
            )
        if size is not None and (opened.height, opened.width) != size:
            given, wanted = f"{opened.width}×{opened.height}", f"{size[1]}×{size[0]}"
            raise UserError(f"{name}: {given} pixels, must be {wanted}")
        return opened

    return Stream(images.names, images.labels, image, images.classes)


def stream(
    images: Stream[Image.Image],
    where: str,
    *,
    resolution: int,
    crop: Crop | None,
    channels: Channels,
    convert: bool = True,
) -> Stream[NDArray[np.uint8]]:
    """The images of ``images``, called ``where`` in messages, as pixels, decoded on demand.

    Args:
        resolution: height and width of the result.
        crop: crop to that size; None: images must have it.
        channels: channels of the result.
        convert: whether to convert images with other channels or to refuse them.
    """
    size = (resolution, resolution)
    opened = checked(images, where, size=None if crop else size, channels=None if convert else channels)

    def image(index: int) -> NDArray[np.uint8]:
        found = opened.image(index)
        if crop is None or found.size == size:  # which all crops leave as it is
            return pixels(found, channels)
        return np.asarray(CROPS[crop][0](_coloured(found, channels), resolution)).reshape(*size, channels)

    return Stream(images.names, images.labels, image, images.classes)


def pixels(opened: Image.Image, channels: Channels) -> NDArray[np.uint8]:
    """An opened image decoded, uint8 [h, w, c]; CorruptImage if it cannot be."""
    return np.asarray(_coloured(opened, channels)).reshape(opened.height, opened.width, channels)


def words(resolution: int, crop: Crop, channels: Channels) -> str:
    """Description of crop and conversion for the card."""
    return f"{resolution}×{resolution} by {crop} ({CROPS[crop][1]}), {COLOURS[channels]}"


def channels_of(images: Stream[Image.Image], where: str) -> Channels:
    """The number of channels of the first image that can be opened."""
    return first_shape(images, where)[2]


def first_shape(images: Stream[Image.Image], where: str) -> tuple[int, int, Channels]:
    """Height, width and channels of the first image that can be opened."""
    for index in range(len(images)):
        with suppress(CorruptImage):
            opened = images.image(index)
            return opened.height, opened.width, _channels(opened)
    raise UserError(f"{where}: none of {len(images)} images can be opened, such as {images.names[0]}")


def _channels(image: Image.Image) -> Channels:
    return 1 if image.mode in {"1", "L", "LA", "La"} else 3


def _coloured(opened: Image.Image, channels: Channels) -> Image.Image:
    """The decoded image, grey or RGB, or CorruptImage raised."""
    try:
        opened.load()
        if opened.mode == "P" and "transparency" in opened.info:
            opened = opened.convert("RGBA")
        mode = "RGB" if channels == 3 else "L"
        return opened if opened.mode == mode else opened.convert(mode)
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error, Image.DecompressionBombError) as error:
        raise CorruptImage(str(error)) from None
