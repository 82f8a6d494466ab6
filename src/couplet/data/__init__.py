"""Sources of images, the prepared archive, and the loader that starts at any step."""

from couplet.data.archive import (
    SPLITS,
    Archive,
    Card,
    CorruptImage,
    Counting,
    Split,
    Stream,
    read_array,
    write,
)
from couplet.data.loader import Loader, to_float
from couplet.data.sources import Source, read, reads

__all__ = [
    "SPLITS",
    "Archive",
    "Card",
    "CorruptImage",
    "Counting",
    "Loader",
    "Source",
    "Split",
    "Stream",
    "read",
    "read_array",
    "reads",
    "to_float",
    "write",
]
