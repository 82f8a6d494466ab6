"""Small networks with the interfaces of the published ones, and small archives."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from couplet.data.archive import Source, Split, write

SIZE = 2048
"""Features of Inception, which clean-fid's wrapper has built in."""


class StandIn(nn.Module):
    """Inception's interface: `layers` to an average, `output`, and a forward that resizes by itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 9, stride=9),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(8, width, 1),
        )
        self.output = nn.Linear(width, 5)

    def forward(
        self,
        img: Tensor,
        return_features: bool = False,
        use_fp16: bool = False,
        no_output_bias: bool = False,
    ) -> Tensor:
        x = torch.nn.functional.interpolate(img.to(torch.float32), size=[299, 299], mode="bilinear")
        features = self.layers((x - 128) / 128).flatten(1)
        if return_features:
            return features
        if no_output_bias:
            return torch.nn.functional.linear(features, self.output.weight).softmax(1)
        return self.output(features).softmax(1)


def scripted(folder: Path, width: int) -> Path:
    """A TorchScript file, named as clean-fid looks for it."""
    path = folder / "inception-2015-12-05.pt"
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        torch.manual_seed(0)
        torch.jit.save(torch.jit.script(StandIn(width)), str(path))
    return path


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in with 2048 features."""
    return scripted(tmp_path_factory.mktemp("inception"), SIZE)


@pytest.fixture(scope="session")
def narrow_inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in with few enough features for a Fréchet distance."""
    return scripted(tmp_path_factory.mktemp("narrow"), 6)


@pytest.fixture
def pictures() -> np.ndarray:
    """uint8 [40, 32, 32, 3], smooth enough that resizing matters."""
    rng = np.random.default_rng(7)
    coarse = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    fine = rng.integers(-40, 40, (40, 32, 32, 3))
    return (coarse.repeat(4, 1).repeat(4, 2) + fine).clip(0, 255).astype(np.uint8)


@pytest.fixture
def make_archive(tmp_path: Path):
    """Writes an archive of random 8×8 images and gives its folder."""

    def make(name: str = "data", classes: tuple[str, ...] = ("a", "b"), channels: int = 1, **counts: int):
        rng = np.random.default_rng(3)
        splits = {}
        for split, count in counts.items():
            labels = np.arange(count) % max(len(classes), 1)
            images = rng.integers(0, 60, (count, 8, 8, channels)) + 120 * labels[:, None, None, None]
            splits[split] = Split(images.astype(np.uint8), labels)
        folder = tmp_path / name
        write(folder, name, Source("random", classes, splits))
        return folder

    return make
