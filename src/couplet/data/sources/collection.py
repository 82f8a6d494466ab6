"""Encoded images that are opened one by one."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from couplet.data.archive import CorruptImage
from couplet.errors import UserError


@dataclass(frozen=True)
class Collection:
    """Images by name."""

    names: Sequence[str]
    labels: NDArray[np.int64]
    """Class indices [n]; 0 without labels."""
    classes: tuple[str, ...]
    """Names of the classes; empty without labels."""
    open: Callable[[int], Image.Image]
    """Opens image i, not yet decoded; called from several threads. Raises CorruptImage."""

    def __len__(self) -> int:
        return len(self.names)


def opener(path: Path, names: Sequence[str], read: Callable[[int], bytes]) -> Callable[[int], Image.Image]:
    """:attr:`Collection.open` for images in ``path`` whose encoded bytes ``read`` returns."""

    def image(index: int) -> Image.Image:
        try:
            content = read(index)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise CorruptImage(str(error)) from None
        except (OSError, RuntimeError) as error:  # includes encrypted zips and unknown compression
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{path}: {names[index]}: cannot be read ({reason})") from None
        try:
            return Image.open(io.BytesIO(content))
        except Image.UnidentifiedImageError:
            raise CorruptImage("not an image" if content else "empty file") from None
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise CorruptImage(str(error)) from None

    return image
