"""What the papers' trainings cost: floating-point operations counted, hours modelled.

    python benchmarks/cost.py --tflops 300

Operations are counted by torch on the meta device for one image through the full-size network; a
multiply-add counts as two. A step is teacher forward, student forward and backward (twice a forward).
Hours divide by a throughput that you assume (H200: about 790 TFLOP/s dense in bf16; 300 is 38 % of it).
Nothing here is measured.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from couplet import networks
from couplet.config.networks import ADMConfig, DDPMPlusPlusConfig, NCSNPlusPlusConfig, NetworkConfig, shrink


class Paper(NamedTuple):
    """One training of a paper."""

    name: str
    network: NetworkConfig
    resolution: int
    steps: int
    batch: int
    num_classes: int = 0
    extra: str = ""
    """What a step does besides: an `encoder` forward and backward, or half a `generator` forward."""


GC_CIFAR = DDPMPlusPlusConfig(
    channel_mult=(1, 2, 2), num_blocks=3, attn_resolutions=(), dropout=0.3, fourier_scale=16.0
)
PAPERS = (
    Paper("iCT, CIFAR-10", NCSNPlusPlusConfig(dropout=0.3), 32, 400_000, 1024),
    Paper("iCT, ImageNet-64", ADMConfig(dropout=0.2), 64, 800_000, 4096, 1000),
    Paper("VCT (iCT-VC), CIFAR-10", DDPMPlusPlusConfig(dropout=0.3), 32, 400_000, 1024, 0, "encoder"),
    Paper("GC (iCT-GC), CIFAR-10", GC_CIFAR, 32, 100_000, 512, 0, "generator"),
    Paper("ECT, CIFAR-10", DDPMPlusPlusConfig(dropout=0.2), 32, 200_000, 128),
)


def forward_flops(config: NetworkConfig, paper: Paper, out_channels: int = 3) -> int:
    """Operations of one image's forward pass."""
    with torch.device("meta"):
        network = networks.build(
            config,
            in_channels=3,
            out_channels=out_channels,
            resolution=paper.resolution,
            num_classes=paper.num_classes,
        )
        x = torch.empty(1, 3, paper.resolution, paper.resolution)
        level = torch.empty(1)
        labels = torch.empty(1, paper.num_classes) if paper.num_classes else None
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(x, level, labels)
    return counter.get_total_flops()


def step_flops(paper: Paper) -> int:
    """Operations per image and training step."""
    forward = forward_flops(paper.network, paper)
    flops = 4 * forward
    if paper.extra == "encoder":
        flops += 3 * forward_flops(shrink(paper.network), paper, out_channels=6)
    if paper.extra == "generator":
        flops += forward // 2
    return flops


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tflops", type=float, default=300.0, help="assumed throughput in TFLOP/s")
    tflops = parser.parse_args().tflops
    print(f"| training | images | GFLOP per image and step | hours at {tflops:g} TFLOP/s |")
    print("| --- | --- | --- | --- |")
    for paper in PAPERS:
        flops, images = step_flops(paper), paper.steps * paper.batch
        hours = flops * images / (tflops * 1e12) / 3600
        print(f"| {paper.name} | {images / 1e6:.0f} M | {flops / 1e9:.0f} | {hours:.0f} |")


if __name__ == "__main__":
    main()
