"""What turns images into features, and the small classifier that does it where Inception cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from couplet.config.extractors import Classifier as ClassifierConfig
from couplet.data import Loader, Split, to_float
from couplet.errors import UserError
from couplet.files import replacing, sha256
from couplet.tensors import default_stream, seed_of


class Extractor(Protocol):
    """Maps images to features; its name and digest stand beside every number made with it."""

    name: str
    digest: str

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features [n, d] of images [n, h, w, c]."""


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

        Scaled by one number so that their variance over the training split is 1 on average: distances
        then do not depend on how large the training let them grow.
        """
        return self.scale * F.silu(self.hidden(self.trunk(images)))

    def forward(self, images: Tensor) -> Tensor:
        """Class logits [b, k]."""
        logits: Tensor = self.head(self.features(images))
        return logits


class Trained(NamedTuple):
    """A classifier and the share of test images that it names correctly."""

    classifier: Classifier
    test_accuracy: float


def train_classifier(config: ClassifierConfig, train: Split, test: Split, classes: int) -> Trained:
    """A classifier of the training split, trained on the CPU from ``config.seed``."""
    cpu = torch.device("cpu")
    _, resolution, _, channels = train.images.shape
    with default_stream(cpu, seed_of(config.seed, "classifier")):
        model = Classifier(config, channels=channels, resolution=resolution, classes=classes)
    loader = Loader(train, batch=config.batch, seed=config.seed, flip=False, num_classes=classes)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=config.steps)
    for step in range(config.steps):
        images, labels = loader.at(step, cpu)
        optimizer.zero_grad()
        assert labels is not None  # The loader has classes, and so has labels.
        loss: Tensor = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        predicted = model(to_float(test.images, cpu)).argmax(1).numpy()
        spread = model.features(to_float(train.images, cpu)).var(0).mean().sqrt()
        model.head.weight *= spread
        model.scale /= spread
    return Trained(model.eval(), float((predicted == test.labels).mean()))


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


class ClassifierExtractor:
    """The hidden layer of a classifier file."""

    def __init__(self, path: Path, device: torch.device) -> None:
        """Reads a file that :func:`save_classifier` wrote.

        Raises:
            UserError: the file is missing, damaged, or something else.
        """
        self.digest = sha256(path)
        self.name = f"classifier-{self.digest[:8]}"
        self.device = device
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                described: dict[str, Any] = json.loads((file.metadata() or {})["couplet"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            config = ClassifierConfig.model_validate(described["config"])
            self.model = Classifier(config, **described["shape"])
            self.model.load_state_dict(tensors)
        except (KeyError, ValueError, TypeError, RuntimeError, SafetensorError):
            raise UserError(f"{path}: not a classifier that `couplet features` wrote") from None
        self.model.to(device).eval()

    @torch.no_grad()
    def __call__(self, images: NDArray[np.uint8], batch: int = 1000) -> NDArray[np.float32]:
        parts = [
            self.model.features(to_float(images[start : start + batch], self.device)).cpu().numpy()
            for start in range(0, len(images), batch)
        ]
        return np.concatenate(parts)
