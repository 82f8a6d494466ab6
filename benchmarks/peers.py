"""couplet beside the packages that its users would take instead, for what is not a network's pass.

    pip install --no-deps --target peers torchcfm POT torch-fidelity pytorch-fid clean-fid
    PYTHONPATH=peers python benchmarks/peers.py --json benchmarks/results/peers.json
    PYTHONPATH=peers python benchmarks/peers.py --quick

A pair is one call of each side on the same input, in one process of one thread; the order alternates. A ratio
is the peer's time over couplet's, so that above 1 couplet is faster: median of pairs, smallest and largest.
On a busy machine the ratio of CPU times is the one to read. Ratios of CPU time below 0.95 are named as
defects. `ours` and `theirs` are what the calls return, such as the distance, by which one sees that both did
the same.

A peer that is not installed is named with the command that installs it; the exit code is 2 if none is.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import report
import torch
from features import networks
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor
from transport import make_images

from couplet.config.couplings import MinibatchOTConfig
from couplet.config.extractors import InceptionConfig
from couplet.config.metrics import InceptionScoreConfig
from couplet.config.variants import build
from couplet.couplings.base import Setting
from couplet.metrics.distances import frechet_distance, kernel_distance
from couplet.metrics.extractor.inception import InceptionExtractor
from couplet.metrics.inception_score import scores
from couplet.metrics.measure import Measured, Moments, MomentsAccumulator
from couplet.metrics.precision_recall import precision_recall

PEERS = ("torchcfm", "POT", "torch-fidelity", "pytorch-fid", "clean-fid")

INSTALL = "pip install --no-deps --target peers"

BEHIND = 0.95
"""Below this ratio couplet is slower than the clock could explain."""

REASONS: dict[tuple[str, str], str] = {}
"""Why couplet is slower, by task and peer, where it is so on purpose."""

ELSEWHERE = {
    "VCT, GC, ECT": "not on PyPI: their training step, sampling and minibatch OT",
    "EDM's dataset_tool": "not on PyPI: preparing data, and its loader",
    "torch-fidelity's and pytorch-fid's Inception": "their weights are downloads: features",
}
"""What cannot be compared here, and why."""


class Task(NamedTuple):
    """The same work of couplet and of a peer; both calls return the value that they found."""

    what: str
    peer: str
    ours: Callable[[], float]
    theirs: Callable[[], float]


class Spread(NamedTuple):
    """Of a ratio over pairs."""

    median: float
    smallest: float
    largest: float

    def __str__(self) -> str:
        return f"{self.median:6.2f} ({self.smallest:.2f} to {self.largest:.2f})"


class Row(NamedTuple):
    """A comparison."""

    what: str
    peer: str
    cpu_ms: float
    """couplet's CPU time, median."""
    peer_cpu_ms: float
    cpu: Spread
    wall: Spread
    pairs: int
    ours: float
    theirs: float
    defect: str | None
    """Of a ratio of CPU times below 0.95: the reason."""


def transport(quick: bool) -> Iterator[Task]:
    """Minibatch optimal transport of images of 3x32x32, from batch to re-ordered noise."""
    coupling = build(MinibatchOTConfig(), Setting(1, 0.5, None))
    for batch in (128, 512) if quick else (128, 512, 1024):
        draws = torch.Generator().manual_seed(batch)
        images = make_images(batch, (3, 32, 32), draws)
        noise = torch.randn(images.shape, generator=draws)

        def mean(x: Tensor, z: Tensor) -> float:
            """The cost of a pair."""
            return float((x - z).square().sum() / len(x))

        def ours(images: Tensor = images, noise: Tensor = noise) -> float:
            return mean(images, coupling.arrange(images, noise))

        def sampled(replace: bool, images: Tensor = images, noise: Tensor = noise) -> float:
            from torchcfm.optimal_transport import OTPlanSampler

            return mean(*OTPlanSampler(method="exact").sample_plan(images, noise, replace=replace))

        def planned(images: Tensor = images, noise: Tensor = noise) -> float:
            import ot

            cost = torch.cdist(images.flatten(1), noise.flatten(1)).square().numpy()
            return mean(images, noise[ot.emd([], [], cost).argmax(1)])

        what = f"minibatch OT, {batch} images"
        yield Task(what, "POT", ours, planned)
        yield Task(f"{what}, without replacement", "torchcfm", ours, partial(sampled, replace=False))
        yield Task(f"{what}, with replacement", "torchcfm", ours, partial(sampled, replace=True))


def correlated(count: int, width: int, seed: int, shift: float = 0.1) -> NDArray[np.float32]:
    """Non-negative features whose variances differ by four orders, [count, width], seeds ``shift`` apart."""
    mixed = np.random.default_rng(0).normal(size=(width, width)) * np.geomspace(1, 1e-2, width)
    draws = np.random.default_rng(seed + 1)
    return np.maximum(draws.normal(size=(count, width)) @ mixed / width**0.5 + shift * seed, 0).astype(
        np.float32
    )


def distances(quick: bool) -> Iterator[Task]:
    """Fréchet distances between moments, of regular covariances and of fewer samples than features."""
    width = 512 if quick else 2048

    def moments(count: int, seed: int) -> Moments:
        return MomentsAccumulator().add(correlated(count, width, seed)).result()

    real = moments(5 * width, 0)
    for count in (5 * width, width // 4):
        fake = moments(count, 1)
        sides = (fake.mean, fake.covariance, real.mean, real.covariance)

        def fidelity(fake: Moments = fake) -> float:
            from torch_fidelity.metric_fid import fid_statistics_to_metric

            first, second = ({"mu": side.mean, "sigma": side.covariance} for side in (fake, real))
            (value,) = fid_statistics_to_metric(first, second, False).values()
            return float(value)

        def pytorch(sides: Any = sides) -> float:
            from pytorch_fid.fid_score import calculate_frechet_distance

            return float(calculate_frechet_distance(*sides))

        def clean(sides: Any = sides) -> float:
            from cleanfid import fid

            return float(fid.frechet_distance(*sides))

        what = f"Fréchet distance, {width} features, {count} samples"
        for peer, theirs in {"torch-fidelity": fidelity, "pytorch-fid": pytorch, "clean-fid": clean}.items():
            yield Task(what, peer, partial(frechet_distance, fake, real), theirs)


def samples(quick: bool) -> Iterator[Task]:
    """Numbers from the features of single images."""
    count, width = (1000, 512) if quick else (5000, 2048)
    real, fake = (correlated(count, width, seed) for seed in (0, 1))
    subsets = {"subsets": 10, "subset_size": 1000}
    kid = partial(kernel_distance, fake, real, **subsets, seed=0)

    def clean() -> float:
        from cleanfid.fid import kernel_distance as theirs

        np.random.seed(0)  # noqa: NPY002 (clean-fid draws from the global generator)
        sides = real.astype(np.float64), fake.astype(np.float64)
        return float(theirs(*sides, num_subsets=10, max_subset_size=1000))

    def fidelity() -> float:
        from torch_fidelity.metric_kid import kid_features_to_metric

        sides = torch.from_numpy(fake).double(), torch.from_numpy(real).double()
        found = kid_features_to_metric(*sides, kid_subsets=10, kid_subset_size=1000, verbose=False)
        return float(found["kernel_inception_distance_mean"])

    what = f"KID, {width} features, 10 subsets of 1000"
    yield Task(what, "clean-fid", kid, clean)
    yield Task(what, "torch-fidelity", kid, fidelity)

    def covered() -> float:
        from torch_fidelity.metric_prc import prc_features_to_metric

        sides = torch.from_numpy(near).double(), torch.from_numpy(real).double()
        return float(prc_features_to_metric(*sides, save_cpu_ram=False, verbose=False)["precision"])

    what = f"precision and recall, {width} features, {count} images"
    near = correlated(count, width, 1, shift=0.01)
    yield Task(what, "torch-fidelity", lambda: precision_recall(real, near, k=3)[0], covered)

    logits = np.random.default_rng(2).normal(size=(count, 1008)).astype(np.float32)
    generated = Measured(MomentsAccumulator().add(fake).result(), fake, logits)

    def score() -> float:
        return scores(InceptionScoreConfig(variant="ect"), generated, generated, seed=0)["is"]

    def scored() -> float:
        from torch_fidelity.metric_isc import isc_features_to_metric

        found = isc_features_to_metric(torch.from_numpy(logits), splits=10, shuffle=False)
        return float(found["inception_score_mean"])

    yield Task(f"Inception Score, {count} images", "torch-fidelity", score, scored)


def features(quick: bool) -> Iterator[Task]:
    """Images 32x32 through a network with random weights: clean-fid's Inception, or one average."""
    sizes = {"inception": 8 if quick else 64, "trivial": 256}
    words = {"inception": "Inception", "trivial": "reading and resizing alone"}
    for name, count in sizes.items():
        batch = min(count, InceptionConfig().batch)
        images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "network.pt")
            torch.jit.save(torch.jit.script(networks()[name].eval()), str(path))
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            config = InceptionConfig(weights=str(path), sha256=digest, batch=batch)
            extractor = InceptionExtractor(config, path.parent, torch.device("cpu"))
        batches = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).split(batch)

        def ours(extractor: Any = extractor, images: Any = images) -> float:
            return float(extractor(images).values.mean())

        def theirs(extractor: Any = extractor, batches: Sequence[Tensor] = batches) -> float:
            from cleanfid.fid import get_model_features

            left = iter(batches)
            found = get_model_features(
                lambda z: next(left),
                extractor.features,
                num_gen=sum(map(len, batches)),
                batch_size=len(batches[0]),
                device=torch.device("cpu"),
                verbose=False,
            )
            return float(found.mean())

        yield Task(f"features, {count} images, {words[name]}", "clean-fid", ours, theirs)


def compare(task: Task, *, pairs: int, seconds: float) -> Row:
    """Take turns until there are ``pairs``, or two and ``seconds`` have passed."""
    values = (task.ours(), task.theirs())  # what is loaded at the first call does not count
    cpu: list[tuple[float, float]] = []
    wall: list[tuple[float, float]] = []
    began = time.monotonic()
    while len(cpu) < pairs and (len(cpu) < 2 or time.monotonic() - began < seconds):
        sides = {"ours": task.ours, "theirs": task.theirs}
        spent = {}
        for side in sides if len(cpu) % 2 else reversed(sides):
            before = time.process_time(), time.perf_counter()
            sides[side]()
            spent[side] = time.process_time() - before[0], time.perf_counter() - before[1]
        cpu.append((spent["ours"][0], spent["theirs"][0]))
        wall.append((spent["ours"][1], spent["theirs"][1]))
    ratio = spread(cpu)
    reason = REASONS.get((task.what.partition(",")[0], task.peer), "not explained")
    own, other = (1e3 * statistics.median(side) for side in zip(*cpu, strict=True))
    return Row(
        *task[:2],
        cpu_ms=own,
        peer_cpu_ms=other,
        cpu=ratio,
        wall=spread(wall),
        pairs=len(cpu),
        ours=values[0],
        theirs=values[1],
        defect=reason if ratio.median < BEHIND else None,
    )


def spread(pairs: list[tuple[float, float]]) -> Spread:
    """Of the second over the first."""
    ratios = [theirs / ours for ours, theirs in pairs]
    return Spread(statistics.median(ratios), min(ratios), max(ratios))


def line(row: Row) -> str:
    """A row, for reading."""
    text = (
        f"{row.what:56}{row.peer:16}{row.cpu_ms:10.1f}{row.peer_cpu_ms:10.1f}  {row.cpu!s:24}{row.wall!s:24}"
        f"{row.pairs:4}{row.ours:13.6g}{row.theirs:13.6g}"
    )
    return text if row.defect is None else f"{text}  defect: {row.defect}"


def installed() -> dict[str, str]:
    """The version of each peer that is there."""
    found = {}
    for peer in PEERS:
        try:
            found[peer] = version(peer)
        except PackageNotFoundError:
            print(f"{peer}: not installed, not compared: {INSTALL} {peer}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="smaller sizes and fewer pairs: minutes, not an hour"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to FILE")
    options = parser.parse_args()
    versions = installed()
    for what, reason in ELSEWHERE.items():
        print(f"{what}: not compared, {reason}")
    if not versions:
        print(f"none of the peers is installed: {INSTALL} {' '.join(PEERS)}", file=sys.stderr)
        sys.exit(2)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # TorchScript and an argument of scipy's are deprecated
    pairs, seconds = (5, 3.0) if options.quick else (15, 60.0)
    print(
        f"{'':72}{'CPU ms':>10}{'peer':>10}  {'ratio of CPU times':24}{'of wall times':24}{'':4}"
        f"{'ours':>13}{'theirs':>13}"
    )
    rows = []
    with threadpool_limits(1):
        for task in (
            task for make in (transport, distances, samples, features) for task in make(options.quick)
        ):
            needed = {task.peer, *(["POT"] if task.peer == "torchcfm" else [])}
            if needed <= versions.keys():
                rows.append(compare(task, pairs=pairs, seconds=seconds))
                print(line(rows[-1]), flush=True)
    if options.json:
        report.write(
            options.json,
            peers=versions,
            not_compared={**ELSEWHERE, **{peer: "not installed" for peer in PEERS if peer not in versions}},
            quick=options.quick,
            rows=[{**row._asdict(), "cpu": row.cpu._asdict(), "wall": row.wall._asdict()} for row in rows],
        )


if __name__ == "__main__":
    main()
