"""Crops of an image to a square, each as in the code that made the papers' data sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from PIL import Image

from couplet.config.datasets import Crop

BICUBIC, BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR
BOX, LANCZOS = Image.Resampling.BOX, Image.Resampling.LANCZOS


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


CROPS: Mapping[Crop, Callable[[Image.Image, int], Image.Image]] = {
    "center-crop": center_crop,
    "center-crop-dhariwal": center_crop_dhariwal,
    "resize-center-crop-lanczos": partial(resize_center_crop, resample=LANCZOS),
    "resize-center-crop-bicubic": partial(resize_center_crop, resample=BICUBIC),
    "resize-center-crop-bilinear": partial(resize_center_crop, resample=BILINEAR),
}
"""Crop by its name in the configuration."""

WORDS: Mapping[Crop, str] = {
    "center-crop": "central square resized by Lanczos",
    "center-crop-dhariwal": "halved by boxes, resized by bicubic, centre cropped",
    "resize-center-crop-lanczos": "shorter side resized by Lanczos, centre cropped",
    "resize-center-crop-bicubic": "shorter side resized by bicubic, centre cropped",
    "resize-center-crop-bilinear": "shorter side resized by bilinear, centre cropped",
}
"""Description of each crop in the card."""
