"""Rows of the papers train: networks of full size and every other setting as published, at batch 2 on a CPU.

Weights are random where the paper starts from published ones. What a step computes is compared with the
papers' codes elsewhere; here the settings of a row have to fit together. Large networks take one step, for on
one core that is most of a minute.
"""

import gc
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from couplet.config.cells import Training
from couplet.config.resolve import resolve
from couplet.cost import native_shape
from couplet.data.archive import Split
from couplet.data.loader import Loader
from couplet.model import build
from couplet.training.loop import initial_state, run

PAPERS = Path(__file__).parents[2] / "workflow/papers"

ROWS = [
    # Each recipe on each of its data sets once; kernels and couplings take turns, so that each network meets
    # all that the papers train it with. The number of parameters of the network is that of the papers' codes.
    ("ict", "cifar10-ict-ve-independent", 56_395_523),
    ("ict", "cifar10-ict-deep-ve-independent", None),
    # CM's ADM of 295,899,267 parameters without adaptive normalisation.
    ("ict", "imagenet64-ict-ve-independent", 282_168_003),
    ("vct", "fashion_mnist-vct-ict-ve-vae", None),
    ("vct", "mnist-vct-ict-ve-ot", None),
    ("vct", "cifar10-vct-ict-li-ot", 55_732_739),
    ("vct", "ffhq64-vct-ict-ve-independent", 61_804_419),
    ("vct", "imagenet64-vct-ict-ve-ot", 280_209_253),
    ("vct", "fashion_mnist-vct-ecm-li-ot", None),
    ("vct", "cifar10-vct-ecm-ve-vae", 55_732_739),
    ("vct", "ffhq64-vct-ecm-li-vae", 61_804_419),
    ("vct", "imagenet64-vct-ecm-li-vae", 280_209_253),
    ("gc", "cifar10-gc-ict-ve-generator", 34_711_811),
    ("gc", "imagenet32-gc-ict-ve-ot", 39_479_683),
    ("gc", "celeba64-gc-ict-ve-generator", 59_582_723),
    ("gc", "church64-gc-ict-ve-independent", 59_582_723),
    ("gc", "cifar10-gc-ect-ve-generator-mu0.3", 55_732_739),
    ("gc", "cifar10-gc-ect-1hour-ve-independent", 55_732_739),
    ("ect", "cifar10-ecm-200k-ve-independent", 55_732_739),
    ("ect", "cifar10-ecm-1hour-ve-independent", 55_732_739),
    ("ect", "imagenet64-ecm-s-ve-independent", 280_209_253),
]
LARGE = [
    # More memory or time than a test may take: their networks are built without any of it. iCT-deep is about
    # twice iCT; the sizes of EDM2 are those that arXiv 2410.11081 prints: 498 M, 778 M and 1.1 B.
    ("ict", "imagenet64-ict-deep-ve-independent", (1.5 * 282.2e6, 2.5 * 282.2e6)),
    ("ect", "imagenet64-ecm-m-ve-independent", (497e6, 499e6)),
    ("ect", "imagenet64-ecm-l-ve-independent", (777e6, 779e6)),
    ("ect", "imagenet64-ecm-xl-ve-independent", (1.05e9, 1.15e9)),
]
SAME = {
    # Rows that differ from one above in numbers alone.
    ("ect", "cifar10-ecm-100k-ve-independent"): "cifar10-ecm-200k-ve-independent",
    ("ect", "cifar10-ecm-400k-ve-independent"): "cifar10-ecm-200k-ve-independent",
    ("ect", "imagenet64-ecm-xl-1024-ve-independent"): "imagenet64-ecm-xl-ve-independent",
}


def training_of(paper, name):
    params = resolve(PAPERS / f"{paper}.yaml", "paper")
    return next(params.training(cell) for cell in params.cells() if cell.name == name)


def at_batch_two(training):
    """The same training on two images a step, from random weights."""
    recipe = training.recipe.model_copy(update={"batch": 2, "init_from": None})
    return Training.model_validate(training.model_copy(update={"recipe": recipe}).model_dump())


def random_images(shape):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, shape.resolution, shape.resolution, shape.channels), dtype=np.uint8)
    return Split(images, np.arange(4, dtype=np.int64) % max(shape.num_classes, 1))


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def digests(module):
    return [float(parameter.detach().double().sum()) for parameter in module.parameters()]


@pytest.mark.slow
@pytest.mark.parametrize(("paper", "name", "size"), [pytest.param(*row, id=row[1]) for row in ROWS])
def test_a_row_trains_at_full_size(paper, name, size):
    training = at_batch_two(training_of(paper, name))
    shape = native_shape(training.dataset)
    loader = Loader(
        random_images(shape),
        batch=2,
        seed=0,
        flip=training.recipe.flip,
        num_classes=shape.num_classes if training.recipe.conditional else 0,
    )
    state = initial_state(training, shape, torch.device("cpu"))
    network, coupling = state.model.network, state.model.coupling
    if size is not None:
        assert parameters(network) == size
    before, paired = digests(network), digests(coupling)
    steps = run(training, state, loader)
    taken = [next(steps) for _ in range(1 if shape.resolution == 64 or "deep" in name else 2)]
    steps.close()
    assert [progress.step for progress in taken] == list(range(1, len(taken) + 1))
    assert all(math.isfinite(progress.loss) and progress.loss > 0 for progress in taken)
    after = digests(network)
    assert all(map(math.isfinite, after))
    assert after != before
    assert (len(paired) > 0) == (training.coupling.kind == "vae")
    if paired:
        assert digests(coupling) != paired
    del network, coupling, steps, state
    gc.collect()


@pytest.mark.parametrize(("paper", "name", "between"), [pytest.param(*row, id=row[1]) for row in LARGE])
def test_a_large_row_s_network_is_the_published_one(paper, name, between):
    training = training_of(paper, name)
    with torch.device("meta"):
        model = build(training.design, native_shape(training.dataset))
    assert between[0] < parameters(model.network) < between[1]


def test_no_recipe_is_left_out():
    listed = {(paper, name) for paper, name, _ in [*ROWS, *LARGE]} | set(SAME)
    trained = set()
    for paper, name in listed:
        cell = training_of(paper, name).cell
        trained.add((paper, cell.dataset, cell.recipe))
    wanted, families = set(), set()
    for path in PAPERS.glob("*.yaml"):
        params = resolve(path, "paper")
        for cell in params.cells():
            wanted.add((path.stem, cell.dataset, cell.recipe))
            made = params.training(cell)
            families.add((made.recipe.network.kind, made.coupling.kind))
    assert trained == wanted
    stepped = [training_of(paper, name) for paper, name, _ in ROWS]
    assert {(t.recipe.network.kind, t.coupling.kind) for t in stepped} == families


@pytest.mark.parametrize(("row", "like"), [pytest.param(*item, id=item[0][1]) for item in SAME.items()])
def test_rows_that_differ_in_numbers_alone(row, like):
    one, other = training_of(*row), training_of(row[0], like)
    numbers = {"steps", "batch", "sources"}
    assert one.recipe.model_dump(exclude=numbers) == other.recipe.model_dump(exclude=numbers)
    assert one.coupling == other.coupling
