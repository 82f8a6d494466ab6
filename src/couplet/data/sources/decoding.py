"""From an opened image to uint8 pixels of the configured size and channels.

Each crop is that of the code that made a paper's data set.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from couplet.config.datasets import Crop
from couplet.data.archive import CorruptImage, Stream
from couplet.data.sources.containers import Collection
from couplet.errors import UserError

Channels = Literal[1, 3]

BOX, BICUBIC, LANCZOS = Image.Resampling.BOX, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """The central square, resized by Lanczos: EDM's dataset_tool, ``--transform=center-crop``."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return image.crop((left, top, left + side, top + side)).resize((size, size), LANCZOS)


def center_crop_dhariwal(image: Image.Image, size: int) -> Image.Image:
    """Halve by boxes until less than twice too large, resize by bicubic, crop: ADM; EDM2's dataset_tool."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
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


def stream(
    collection: Collection,
    where: str,
    *,
    resolution: int,
    crop: Crop | None,
    channels: Channels,
    convert: bool = True,
) -> Stream:
    """The images of ``collection``, called ``where`` in messages, as pixels, decoded on demand.

    Args:
        resolution: height and width of the result.
        crop: crop to that size; None: images must have it.
        channels: channels of the result.
        convert: whether to convert images with other channels or to refuse them.
    """

    def image(index: int) -> NDArray[np.uint8]:
        opened = collection.open(index)
        name = f"{where}: {collection.names[index]}"
        # Pillow would clip or truncate more than 8 bits per channel, even in mode RGB.
        tiles: Any = getattr(opened, "tile", [])
        if opened.mode[0] in "IF" or any(";16" in str(tile[3]) for tile in tiles):
            raise UserError(f"{name}: more than 8 bits per channel ({opened.mode}); convert it first")
        if not convert and _channels(opened) != channels:
            raise UserError(
                f"{name}: {_channels(opened)} channels, the first image has {channels}; set channels: 3 or 1"
            )
        if crop is None and opened.size != (resolution, resolution):
            size = "×".join(map(str, opened.size))
            raise UserError(f"{name}: {size} pixels, must be {resolution}×{resolution}")
        coloured = _coloured(opened, channels)
        cut = coloured if crop is None else CROPS[crop][0](coloured, resolution)
        return np.asarray(cut).reshape(resolution, resolution, channels)

    return Stream(collection.names, collection.labels, image)


def words(resolution: int, crop: Crop, channels: Channels) -> str:
    """Description of crop and conversion for the card."""
    return f"{resolution}×{resolution} by {crop} ({CROPS[crop][1]}), {COLOURS[channels]}"


def channels_of(collection: Collection, where: str) -> Channels:
    """The number of channels of the first image that can be opened.

    Raises:
        UserError: no image can be opened.
    """
    reasons = []
    for index in range(len(collection)):
        try:
            return _channels(collection.open(index))
        except CorruptImage as error:
            reasons.append(f"{collection.names[index]} ({error})")
    raise UserError(f"{where}: none of {len(reasons)} images can be opened: {reasons[0]}")


def _channels(image: Image.Image) -> Channels:
    return 1 if image.mode in {"1", "L", "LA", "La"} else 3


def _coloured(opened: Image.Image, channels: Channels) -> Image.Image:
    """The decoded image, grey or RGB, or CorruptImage raised."""
    try:
        opened.load()
        if opened.mode == "P" and "transparency" in opened.info:
            opened = opened.convert("RGBA")
        return opened.convert("RGB" if channels == 3 else "L")
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error, Image.DecompressionBombError) as error:
        raise CorruptImage(str(error)) from None
