"""A small classifier trained on the data set itself, for images that Inception was not trained on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from couplet.config.extractors import ClassifierConfig, ExtractorConfig
from couplet.data.archive import Archive, Split
from couplet.data.loader import Loader, to_float
from couplet.errors import UserError
from couplet.files import sha256
from couplet.metrics.extractor.base import Extractor, Pixels
from couplet.tensors import CPU, default_stream, load_tensors, save_tensors, seed_of

EXTRACTOR = "extractor.safetensors"
"""The classifier's file, next to its card."""

CHUNK = 2000
"""Images per call outside training."""

ROUNDING = 1e-5
"""Standard deviation of features, relative to their size, up to which they differ by rounding only."""

HELD_OUT = 10
"""Without a test split, every tenth training image is held out to measure the accuracy."""


class Classifier(nn.Module):
    """Convolutions, each after the first with stride 2, and one hidden layer."""

    scale: Tensor

    def __init__(self, config: ClassifierConfig, *, channels: int, resolution: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, width in enumerate(config.channels):
            stride = 1 if i == 0 else 2
            layers += [nn.Conv2d(channels, width, 3, stride, padding=1), nn.SiLU()]
            channels, resolution = width, -(-resolution // stride)
        self.trunk = nn.Sequential(*layers, nn.Flatten())
        self.hidden = nn.Linear(channels * resolution**2, config.features)
        self.head = nn.Linear(config.features, classes)
        self.register_buffer("scale", torch.ones(()))

    def features(self, images: Tensor) -> Tensor:
        """Activations [b, d] of the hidden layer for images [b, c, h, w] in [-1, 1].

        One common scale makes their mean variance over the training images 1. So distances do not depend on
        the size that activations reached in training.
        """
        return self.scale * F.silu(self.hidden(self.trunk(images)))

    def forward(self, images: Tensor) -> Tensor:
        """Class logits [b, k] of images [b, c, h, w] in [-1, 1]."""
        return self.head(self.features(images))


def train_classifier(
    config: ClassifierConfig, train: Split, test: Split | None, classes: int
) -> tuple[Classifier, float]:
    """Train a classifier on the CPU; return it with its accuracy on images that it was not trained on.

    Without a ``test`` split every tenth training image is held out for the accuracy. Images are converted
    batch by batch, so that a data set mapped from disk is never in memory as a whole.

    Raises:
        UserError: all images have the same features, or these are not finite.
    """
    _, resolution, _, channels = train.images.shape
    with default_stream(CPU, seed_of(config.seed, "classifier")):
        model = Classifier(config, channels=channels, resolution=resolution, classes=classes)
    everything = np.arange(len(train))
    held_out = everything[:0] if test is not None else everything[::HELD_OUT]
    seen = np.delete(everything, held_out)
    # The loader only draws positions in `seen`, so any images of that number do.
    loader = Loader(
        Split(train.images[: len(seen)], train.labels[: len(seen)]),
        batch=config.batch,
        seed=config.seed,
        flip=False,
        num_classes=classes,
    )
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=config.steps)
    for step in range(config.steps):
        chosen = seen[loader.indices(step)]
        images = to_float(train.images[chosen], CPU)
        labels = F.one_hot(torch.from_numpy(np.asarray(train.labels[chosen])), classes).float()
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        split, positions = (train, held_out) if test is None else (test, np.arange(len(test)))
        predicted = torch.cat([model(images).argmax(1) for images in _chunks(split, positions)])
        features = torch.cat([model.features(images) for images in _chunks(train, seen)])
        spread = features.var(0).mean().sqrt()
        if not torch.isfinite(spread):
            raise UserError(f"the classifier diverges at learning_rate = {config.learning_rate}; lower it")
        if spread <= ROUNDING * features.abs().mean():
            raise UserError(
                f"the {len(seen)} training images are too few or too equal for a classifier, or "
                f"learning_rate = {config.learning_rate} is too large: their features do not differ"
            )
        model.head.weight *= spread
        model.scale /= spread
    return model.eval(), float((predicted.numpy() == split.labels[positions]).mean())


def _chunks(split: Split, positions: NDArray[np.int64]) -> Iterator[Tensor]:
    """Yield the images at ``positions`` as float32, ``CHUNK`` at a time."""
    for start in range(0, len(positions), CHUNK):
        yield to_float(split.images[positions[start : start + CHUNK]], CPU)


class ClassifierExtractor(Extractor):
    """The hidden layer of a trained classifier; no logits: no paper reports a score of such classes."""

    batch = CHUNK

    def __init__(self, config: ClassifierConfig, folder: Path, device: torch.device) -> None:
        path = folder / EXTRACTOR
        digest = sha256(path)
        try:
            texts, tensors = load_tensors(path, device)
            shape: dict[str, int] = json.loads(texts["couplet"])["shape"]
            self.model = Classifier(config, **shape)
            self.shape = (shape["resolution"], shape["resolution"], shape["channels"])
            self.model.load_state_dict(tensors)
        except (KeyError, ValueError, TypeError, RuntimeError, SafetensorError):
            raise UserError(f"{path}: not a classifier that `couplet features` wrote") from None
        super().__init__(config, folder, device, digest=digest)
        self.model.to(device).eval()

    @classmethod
    def make(cls, config: ClassifierConfig, data: Archive, out: Path) -> dict[str, Any]:
        """Train the classifier on the training split of ``data`` and write it.

        Raises:
            UserError: the images are too equal, or the file cannot be written.
        """
        card = data.card
        test = data.split("test") if card.counts.get("test") else None
        resolution, _, channels = card.shape
        shape = {"channels": channels, "resolution": resolution, "classes": len(card.classes)}
        described = {"config": config.model_dump(mode="json"), "shape": shape}
        try:
            model, accuracy = train_classifier(config, data.train, test, len(card.classes))
        except UserError as error:
            others = ", ".join(sorted({*ExtractorConfig.family} - {config.kind}))
            raise UserError(f"{data.folder}: {error}, or choose another extractor: {others}") from None
        save_tensors(out / EXTRACTOR, model.state_dict(), couplet=json.dumps(described, sort_keys=True))
        return {
            "test_accuracy": accuracy,
            "tested_on": "test" if test is not None else f"every {HELD_OUT}th image of train",
            "data": dict(card.files),
        }

    def prepare(self, images: Pixels) -> Tensor:
        """Convert to float32 [b, c, h, w] in [-1, 1].

        Raises:
            UserError: the classifier was trained on images of another size.
        """
        if images.shape[1:] != self.shape:
            seen, given = ("×".join(map(str, shape)) for shape in (self.shape, images.shape[1:]))
            problem = f"was trained on images of {seen}, these have {given}"
            raise UserError(f"extractor {self.name}: {problem}; run `couplet features` for their data set")
        return to_float(images, CPU)

    def network(self, prepared: Tensor) -> tuple[Tensor, None]:
        return self.model.features(prepared), None
