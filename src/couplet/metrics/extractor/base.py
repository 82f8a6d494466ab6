"""What an extractor is, how it streams, and the registry that finds it by its configuration class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from couplet.config.base import Invalid
from couplet.config.extractors import ExtractorConfig
from couplet.data.archive import Archive
from couplet.errors import UserError
from couplet.files import read_json
from couplet.ranks import ALONE, Ranks

CARD = "card.json"
"""What `couplet features` writes for every extractor."""

Pixels = NDArray[np.uint8]
"""Images [n, h, w, c], possibly mapped from disk."""


class Features(NamedTuple):
    """What an extractor makes of ``n`` images."""

    values: NDArray[np.float32]
    """Features [n, d]."""
    logits: NDArray[np.float32] | None
    """Class scores before the softmax [n, k]; None where the network does not classify."""


class Extractor(ABC):
    """Maps images to features; its name and digest stand beside every number made with it."""

    batch: int
    """Images per network call."""

    def __init__(self, config: ExtractorConfig, digest: str, device: torch.device) -> None:
        self.config, self.digest, self.device = config, digest, device

    @property
    def kind(self) -> str:
        """What it is called in the parameter file."""
        return self.config.kind

    @property
    def name(self) -> str:
        """Kind and first digits of the weights' digest: ``inception-f58cb9b6``."""
        return f"{self.kind}-{self.digest[:8]}"

    @classmethod
    def make(cls, config: Any, data: Archive, out: Path) -> dict[str, Any]:
        """Writes to the folder ``out`` what :meth:`load` needs besides ``config``, here nothing.

        Returns what card.json should say about it.
        """
        return {}

    @classmethod
    @abstractmethod
    def load(cls, config: Any, folder: Path, device: torch.device) -> Self:
        """The extractor that ``config`` describes; ``folder`` is where :meth:`make` wrote.

        Raises:
            UserError: weights are missing, damaged or of another digest, or a package is not installed.
        """

    @abstractmethod
    def prepare(self, images: Pixels) -> Tensor:
        """Images [b, h, w, c] as the network takes them, on the CPU; several threads call it."""

    @abstractmethod
    def network(self, prepared: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features [b, d] and logits [b, k] or None of a prepared batch on the extractor's device."""

    def batches(self, images: Pixels, ranks: Ranks = ALONE) -> Iterator[Features]:
        """Features of ``images`` batch by batch, in order; the next batch is prepared meanwhile.

        Each of ``ranks`` makes its share of the batches and yields them all. It never holds more than two in
        the form that :meth:`prepare` gives them. TensorFloat32 is off: features are those of float32.
        """
        starts = range(0, len(images), self.batch)[ranks.rank :: ranks.size]
        parts = (images[start : start + self.batch] for start in starts)
        prepared = ahead(parts, self.prepare, torch.get_num_threads())
        return ranks.in_turn(map(self._features, prepared))

    def _features(self, prepared: Tensor) -> Features:
        with torch.no_grad(), _full_precision():
            values, logits = self.network(prepared.to(self.device))
        return Features(values.cpu().numpy(), None if logits is None else logits.cpu().numpy())

    def __call__(self, images: Pixels) -> Features:
        """Features of all ``images`` at once, made batch by batch."""
        parts = list(self.batches(images))
        logits = [part.logits for part in parts if part.logits is not None]
        values = np.concatenate([part.values for part in parts])
        return Features(values, np.concatenate(logits) if logits else None)


@contextmanager
def _full_precision() -> Iterator[None]:
    """Products and convolutions in float32 and in a fixed order, whatever training was set to."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def ahead(batches: Iterable[Pixels], prepare: Callable[[Pixels], Tensor], workers: int) -> Iterator[Tensor]:
    """``prepare`` of one of ``batches`` after the other, each shared out among ``workers`` threads.

    While the caller works on one batch, the threads make the next one, and no more than that.
    """
    waiting: deque[list[Future[Tensor]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for part in batches:
            pieces = np.array_split(part, min(workers, len(part)))
            waiting.append([pool.submit(prepare, piece) for piece in pieces])
            if len(waiting) > 1:
                yield _joined(waiting.popleft())
        while waiting:
            yield _joined(waiting.popleft())


def _joined(pieces: list[Future[Tensor]]) -> Tensor:
    found = [piece.result() for piece in pieces]
    return found[0] if len(found) == 1 else torch.cat(found)


def rgb(images: Pixels) -> Pixels:
    """Images [n, h, w, 3] of images of 3 channels, or of 1 that is repeated (as VCT does for MNIST).

    Raises:
        UserError: another number of channels.
    """
    channels = images.shape[-1]
    if channels not in (1, 3):
        raise UserError(f"images of {channels} channels: this extractor takes 1 or 3")
    return images if channels == 3 else np.repeat(images, 3, axis=-1)


_IMPLEMENTATIONS: dict[type[ExtractorConfig], type[Extractor]] = {}

Implementation = TypeVar("Implementation", bound=type[Extractor])


def extracts(config: type[ExtractorConfig]) -> Callable[[Implementation], Implementation]:
    """Registers what implements a configuration class: a class decorator, open to plug-ins."""

    def register(implementation: Implementation) -> Implementation:
        _IMPLEMENTATIONS[config] = implementation
        return implementation

    return register


def implementation(config: ExtractorConfig) -> type[Extractor]:
    """The class that implements ``config``.

    Raises:
        TypeError: nothing is registered for it.
    """
    try:
        return _IMPLEMENTATIONS[type(config)]
    except KeyError:
        raise TypeError(f"no feature extractor for {type(config).__name__}") from None


def load_extractor(folder: Path, device: torch.device) -> Extractor:
    """The extractor whose card `couplet features` wrote to ``folder``.

    Raises:
        UserError: card or weights are missing, damaged, or do not match.
    """
    path = folder / CARD
    card = read_json(path)
    try:
        config = ExtractorConfig.parse(card["config"])
        digest = card["sha256"]
    except (KeyError, TypeError, Invalid, ValidationError):
        raise UserError(f"{path}: not a card of `couplet features`; run it again") from None
    extractor = implementation(config).load(config, folder, device)
    if extractor.digest != digest:
        raise UserError(
            f"{folder}: weights have SHA-256 {extractor.digest}, the card says {digest}; "
            "run `couplet features` again"
        )
    return extractor
