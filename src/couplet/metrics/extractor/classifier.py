"""A small classifier trained on the data set itself, for images that mean nothing to Inception."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from couplet.config.extractors import ClassifierConfig, ExtractorConfig
from couplet.data.archive import Archive, Split
from couplet.data.loader import Loader, to_float
from couplet.errors import UserError
from couplet.files import replacing, sha256
from couplet.metrics.extractor.base import Extractor, Pixels, extracts
from couplet.tensors import default_stream, seed_of

EXTRACTOR = "extractor.safetensors"
"""The classifier's file beside its card."""

CHUNK = 2000
"""Images that the classifier looks at together when it is not trained."""

HELD_OUT = 10
"""Without a test split, one training image in so many is kept from training and tells the accuracy."""


class Classifier(nn.Module):
    """Convolutions, each after the first at half the resolution, and one hidden layer."""

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
        """The hidden layer's activations [b, d] for images [b, c, h, w] in [-1, 1].

        Scaled by one number so that their variance over the training images is 1 on average: distances
        then do not depend on how large the training let them grow.
        """
        return self.scale * F.silu(self.hidden(self.trunk(images)))

    def forward(self, images: Tensor) -> Tensor:
        """Class logits [b, k]."""
        logits: Tensor = self.head(self.features(images))
        return logits


class Trained(NamedTuple):
    """A classifier and the share of images it was not trained on that it names correctly."""

    classifier: Classifier
    test_accuracy: float


def train_classifier(config: ClassifierConfig, train: Split, test: Split | None, classes: int) -> Trained:
    """A classifier of the training split, trained on the CPU from ``config.seed``.

    Without a ``test`` split every tenth training image is held out for the accuracy. Images are converted
    batch by batch, so that a data set mapped from disk is never in memory as a whole.
    """
    cpu = torch.device("cpu")
    _, resolution, _, channels = train.images.shape
    with default_stream(cpu, seed_of(config.seed, "classifier")):
        model = Classifier(config, channels=channels, resolution=resolution, classes=classes)
    everything = np.arange(len(train))
    held_out = everything[:0] if test is not None else everything[::HELD_OUT]
    seen = np.delete(everything, held_out)
    # The loader only draws positions in `seen`; which images these are, it need not know.
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
        images = to_float(train.images[chosen], cpu)
        labels = F.one_hot(torch.from_numpy(np.asarray(train.labels[chosen])), classes).float()
        optimizer.zero_grad()
        loss: Tensor = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        split, positions = (train, held_out) if test is None else (test, np.arange(len(test)))
        predicted = torch.cat([model(images).argmax(1) for images in _chunks(split, positions)])
        features = torch.cat([model.features(images) for images in _chunks(train, seen)])
        spread = features.var(0).mean().sqrt()
        model.head.weight *= spread
        model.scale /= spread
    return Trained(model.eval(), float((predicted.numpy() == split.labels[positions]).mean()))


def _chunks(split: Split, positions: NDArray[np.int64]) -> Iterator[Tensor]:
    """The images at ``positions`` as float32, a few at a time."""
    for start in range(0, len(positions), CHUNK):
        yield to_float(split.images[positions[start : start + CHUNK]], torch.device("cpu"))


def save_classifier(path: Path, trained: Trained, config: ClassifierConfig, split: Split) -> None:
    """Writes the classifier with what rebuilds it."""
    _, resolution, _, channels = split.images.shape
    described = {
        "config": config.model_dump(mode="json"),
        "shape": {
            "channels": channels,
            "resolution": resolution,
            "classes": trained.classifier.head.out_features,
        },
    }
    with replacing(path) as temporary:
        save_file(
            trained.classifier.state_dict(),
            temporary,
            {"couplet": json.dumps(described, sort_keys=True)},
        )


@extracts(ClassifierConfig)
class ClassifierExtractor(Extractor):
    """The hidden layer of a classifier file; no logits, for no paper reports a score of such classes."""

    batch = CHUNK

    def __init__(self, path: Path, device: torch.device) -> None:
        """Reads a file that :func:`save_classifier` wrote.

        Raises:
            UserError: the file is missing, damaged, or something else.
        """
        digest = sha256(path)
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                described: dict[str, Any] = json.loads((file.metadata() or {})["couplet"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            config = ClassifierConfig.model_validate(described["config"])
            shape = described["shape"]
            self.model = Classifier(config, **shape)
            self.shape = (shape["resolution"], shape["resolution"], shape["channels"])
            self.model.load_state_dict(tensors)
        except (KeyError, ValueError, TypeError, RuntimeError, SafetensorError):
            raise UserError(f"{path}: not a classifier that `couplet features` wrote") from None
        super().__init__(config, digest, device)
        self.model.to(device).eval()

    @classmethod
    def make(cls, config: ClassifierConfig, data: Archive, out: Path) -> dict[str, Any]:
        """Trains the classifier on the training split of ``data`` and writes it.

        Raises:
            UserError: the data set has no classes, or the file cannot be written.
        """
        card = data.card
        if not card.classes:
            others = ", ".join(sorted({*ExtractorConfig.family} - {config.kind}))
            raise UserError(
                f"{data.folder}: {card.dataset} has no classes that a classifier could learn; "
                f"choose another extractor: {others}"
            )
        test = data.split("test") if card.counts.get("test") else None
        train = data.split("train")
        trained = train_classifier(config, train, test, len(card.classes))
        save_classifier(out / EXTRACTOR, trained, config, train)
        return {
            "test_accuracy": trained.test_accuracy,
            "tested_on": "test" if test is not None else f"every {HELD_OUT}th image of train",
            "data": dict(card.files),
        }

    @classmethod
    def load(cls, config: ClassifierConfig, folder: Path, device: torch.device) -> Self:
        return cls(folder / EXTRACTOR, device)

    def prepare(self, images: Pixels) -> Tensor:
        """float32 [b, c, h, w] in [-1, 1].

        Raises:
            UserError: the classifier was trained on images of another size.
        """
        if images.shape[1:] != self.shape:
            seen, given = ("×".join(map(str, shape)) for shape in (self.shape, images.shape[1:]))
            raise UserError(
                f"extractor {self.name}: was trained on images of {seen}, these have {given}; "
                "run `couplet features` for their data set"
            )
        return to_float(images, torch.device("cpu"))

    def network(self, prepared: Tensor) -> tuple[Tensor, None]:
        return self.model.features(prepared), None
