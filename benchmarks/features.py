"""Images per second through the Inception extractor: clean-fid on a folder of PNG files, and ours.

    python benchmarks/features.py --threads 1 --json benchmarks/results/features.json
    python benchmarks/features.py --device cuda --threads 16 --images 20000 --batch 256

Both paths get the same images and the same network: clean-fid's `get_folder_features` PNG files and as many
worker processes as ours gets threads, ours an array mapped from disk. They take turns, and their features
are compared before anything is timed. Networks have random weights:

    inception   torchvision's InceptionV3 as TorchScript: the cost of an evaluation
    trivial     one average: the cost of reading and resizing alone
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import report
import torch
from cleanfid import fid
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torchvision.models import inception_v3

from couplet.config.extractors import InceptionConfig
from couplet.data.archive import read_array
from couplet.metrics.extractor.inception import InceptionExtractor


class Row(NamedTuple):
    """One network: images per second, medians over rounds."""

    network: str
    cleanfid: float
    couplet: float
    ratio: float
    """couplet / cleanfid, the median of the ratios within a round."""
    difference: float
    """Largest difference of a feature between the two, over the largest feature."""


class WithInterface(nn.Module):
    """A trunk with the interface of Inception's TorchScript file."""

    def __init__(self, layers: nn.Sequential, width: int) -> None:
        super().__init__()
        self.layers = layers
        self.output = nn.Linear(width, 1008)

    def forward(self, img: Tensor, return_features: bool = False) -> Tensor:
        x = nn.functional.interpolate(img.float(), size=[299, 299], mode="bilinear")
        features = self.layers((x - 128) / 128).flatten(1)
        return features if return_features else self.output(features).softmax(1)


class Contiguous(nn.Module):
    """Copy to the usual order of memory."""

    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous()


def networks() -> dict[str, WithInterface]:
    """Networks by name."""
    torch.manual_seed(0)
    network = inception_v3(weights=None, init_weights=False, aux_logits=False)
    layers = list(network.children())[:-2]  # without dropout and the head
    # The published file makes the output of every block contiguous, which undoes channels_last.
    layers = [
        nn.Sequential(layer, Contiguous()) if "Inception" in type(layer).__name__ else layer
        for layer in layers
    ]
    return {
        "inception": WithInterface(nn.Sequential(*layers), 2048),
        "trivial": WithInterface(nn.Sequential(nn.AdaptiveAvgPool2d(1)), 3),
    }


def write_images(folder: Path, count: int, resolution: int) -> NDArray[np.uint8]:
    """Write noise as PNG files and as an array; return the array, mapped from disk."""
    images = np.random.default_rng(0).integers(0, 256, (count, resolution, resolution, 3), dtype=np.uint8)
    (folder / "png").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / "png" / f"{i:07}.png")
    np.save(folder / "images.npy", images)
    return read_array(folder / "images.npy")


def compare(name: str, module: WithInterface, folder: Path, images: NDArray[np.uint8], options: Any) -> Row:
    """Time both paths by turns."""
    device = torch.device(options.device)
    path = folder / f"{name}.pt"
    torch.jit.save(torch.jit.script(module.eval()), str(path))
    config = InceptionConfig(
        weights=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest(), batch=options.batch
    )
    extractor = InceptionExtractor(config, folder, device)

    def couplet() -> NDArray[np.float32]:
        return extractor(images).values

    def cleanfid() -> NDArray[np.float32]:
        return fid.get_folder_features(
            str(folder / "png"),
            model=extractor.features,
            num_workers=options.threads,
            batch_size=options.batch,
            device=device,
            mode="clean",
            verbose=False,
        )

    ours, theirs = couplet(), cleanfid()
    difference = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    rates: dict[str, list[float]] = {"couplet": [], "cleanfid": []}
    for number in range(options.rounds):
        turns = [("couplet", couplet), ("cleanfid", cleanfid)]
        for key, path_of in turns if number % 2 else turns[::-1]:
            rates[key].append(len(images) / seconds(path_of))
    return Row(
        network=name,
        cleanfid=statistics.median(rates["cleanfid"]),
        couplet=statistics.median(rates["couplet"]),
        ratio=statistics.median(a / b for a, b in zip(rates["couplet"], rates["cleanfid"], strict=True)),
        difference=difference,
    )


def seconds(work: Callable[[], Any]) -> float:
    """Time ``work``, whose result is on the CPU."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--batch", type=int, default=32, help="images per network call")
    parser.add_argument(
        "--threads", type=int, default=1, help="of the network; threads or workers that resize"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")  # TorchScript is deprecated
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images = write_images(folder, options.images, options.resolution)
        rows = [compare(name, module, folder, images, options) for name, module in networks().items()]
    print(f"{'network':12}{'clean-fid':>12}{'couplet':>12}{'ratio':>8}{'difference':>12}   images/s")
    for row in rows:
        print(
            f"{row.network:12}{row.cleanfid:12.1f}{row.couplet:12.1f}{row.ratio:8.2f}{row.difference:12.1e}"
        )
    if options.json:
        settings = {key: value for key, value in vars(options).items() if key not in ("json", "device")}
        device = torch.device(options.device)
        report.write(options.json, device, settings=settings, rows=[row._asdict() for row in rows])


if __name__ == "__main__":
    main()
