"""Base of all extractors: batches of images to features, loading from a card, and published weights."""

from __future__ import annotations

import hashlib
import io
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor

from couplet.config.base import Invalid
from couplet.config.extractors import ADDRESSES, DinoV2Config, ExtractorConfig, InceptionConfig
from couplet.config.variants import build
from couplet.data.archive import Archive, prefetched
from couplet.data.pixels import ImageArray
from couplet.errors import UserError
from couplet.files import read_json
from couplet.ranks import ALONE, Ranks
from couplet.tensors import products

CARD = "card.json"
"""File that `couplet features` writes for every extractor."""

Pixels = NDArray[np.uint8]
"""Images [n, h, w, c], possibly mapped from disk."""


class Features(NamedTuple):
    """Features [n, d] of n images, and class scores before the softmax [n, k] if the network classifies."""

    values: NDArray[np.float32]
    logits: NDArray[np.float32] | None


class Extractor(ABC):
    """Maps images to features; every number made with it carries its name and digest.

    The context of :func:`couplet.config.variants.build` is the folder that :meth:`make` wrote to and the
    device.
    """

    batch: int
    """Images per network call."""

    def __init__(self, config: Any, folder: Path, device: torch.device, *, digest: str) -> None:
        """Load the extractor that ``config`` describes; subclasses determine ``digest``."""
        self.config: ExtractorConfig = config
        self.device, self.digest = device, digest

    @property
    def name(self) -> str:
        """Kind and first digits of the weights' digest: ``inception-f58cb9b6``."""
        return f"{self.config.kind}-{self.digest[:8]}"

    @classmethod
    def make(cls, config: Any, data: Archive, out: Path) -> dict[str, Any]:
        """Write the files that loading needs to ``out``, by default none; return more entries of card.json.

        Raises:
            UserError: the extractor does not suit ``data``, or ``out`` cannot be written.
        """
        return {}

    @abstractmethod
    def prepare(self, images: Pixels) -> Tensor:
        """Convert images [b, h, w, c] to the network's input, on the CPU. Several threads call it."""

    @abstractmethod
    def network(self, prepared: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute features [b, d] and logits [b, k] or None of a prepared batch on the extractor's device."""

    def batches(self, images: ImageArray, ranks: Ranks = ALONE) -> Iterator[Features]:
        """Yield features batch by batch, in order: each of ``ranks`` computes its share and yields all.

        No more than two prepared batches are in memory. TensorFloat32 is off.
        """
        starts = range(0, len(images), self.batch)[ranks.rank :: ranks.size]
        parts = (images[start : start + self.batch] for start in starts)
        prepared = ahead(parts, self.prepare, torch.get_num_threads())
        return ranks.in_turn(map(self._features, prepared))

    def _features(self, prepared: Tensor) -> Features:
        with torch.no_grad(), products(deterministic=True):
            values, logits = self.network(prepared.to(self.device))
        return Features(values.cpu().numpy(), None if logits is None else logits.cpu().numpy())

    def __call__(self, images: ImageArray) -> Features:
        """Compute features of all ``images``, batch by batch."""
        values, logits = zip(*self.batches(images), strict=True)
        return Features(np.concatenate(values), None if logits[0] is None else np.concatenate(logits))


def ahead(batches: Iterable[Pixels], prepare: Callable[[Pixels], Tensor], workers: int) -> Iterator[Tensor]:
    """Yield ``prepare(batch)`` in order; ``workers`` threads prepare the next batch and no more."""
    with ThreadPoolExecutor(workers) as pool:

        def prepared(part: Pixels) -> Tensor:
            parts = list(pool.map(prepare, np.array_split(part, min(workers, len(part)))))
            return parts[0] if len(parts) == 1 else torch.cat(parts)

        yield from prefetched(prepared, batches, threads=1, most=1)


def rgb(images: Pixels) -> Pixels:
    """Return images [n, h, w, 3]; a single channel is repeated, as VCT does for MNIST.

    Raises:
        UserError: another number of channels.
    """
    channels = images.shape[-1]
    if channels not in (1, 3):
        raise UserError(f"images of {channels} channels: this extractor takes 1 or 3")
    return images if channels == 3 else np.repeat(images, 3, axis=-1)


def load_extractor(folder: Path, device: torch.device) -> Extractor:
    """Load the extractor whose card `couplet features` wrote to ``folder``.

    Raises:
        UserError: card or weights are missing, damaged, or do not match.
    """
    card = read_json(folder / CARD)
    try:
        config, digest = ExtractorConfig.parse(card["config"]), card["sha256"]
    except (KeyError, TypeError, Invalid, ValidationError):
        raise UserError(f"{folder / CARD}: not a card of `couplet features`; run it again") from None
    extractor: Extractor = build(config, folder, device)
    if extractor.digest != digest:
        raise UserError(
            f"{folder}: weights have SHA-256 {extractor.digest}, the card says {digest}; "
            "run `couplet features` again"
        )
    return extractor


def read_weights(config: InceptionConfig | DinoV2Config) -> tuple[Path, bytes]:
    """The file that ``config`` names, else the published one in torch's cache, and its bytes as checked.

    A published file that the cache lacks is downloaded into it, checked and then moved into place.

    Raises:
        UserError: the file cannot be read or downloaded, or has another digest.
    """
    path = Path(config.weights) if config.weights is not None else _cached(config)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}); features.NAME.weights must name "
            f"the file with SHA-256 {config.sha256}"
        ) from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != config.sha256:
        raise UserError(
            f"{path}: its SHA-256 is {digest}, not {config.sha256} as features.NAME.sha256 asks; "
            "another file may be meant, or this one is damaged"
        )
    return path, content


def tensors(path: Path, content: bytes) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors file or one of `torch.save`, without executing code in it.

    Raises:
        UserError: the file is neither, or holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load(content)
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, KeyError, SafetensorError):
        state = None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: not a file of tensors (.safetensors, or one of torch.save)")
    return state


def _cached(config: InceptionConfig | DinoV2Config) -> Path:
    """The path of the published file in torch's cache, downloaded if needed."""
    others = ", ".join(sorted({*ExtractorConfig.family} - {config.kind}))
    options = f"give the file's path as features.NAME.weights, or choose another extractor: {others}"
    if config.sha256 not in ADDRESSES:
        raise UserError(f"SHA-256 {config.sha256}: not a published file; {options}")
    address = ADDRESSES[config.sha256]
    folder, name = Path(torch.hub.get_dir(), "checkpoints"), address.rpartition("/")[2]
    if not (folder / name).exists():
        import pooch  # slow to import

        try:
            pooch.retrieve(address, f"sha256:{config.sha256}", name, folder, progressbar=True)
        except (OSError, ValueError) as error:
            failure = f"cannot be downloaded to {folder / name} ({' '.join(str(error).split())})"
            raise UserError(f"{address}: {failure}; {options}") from None
    return folder / name
