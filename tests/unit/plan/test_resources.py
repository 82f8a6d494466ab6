"""What jobs ask for: against a trace of the real step, and without torch."""

import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

from couplet.config.couplings import CouplingConfig
from couplet.config.fit import Facts
from couplet.config.networks import (
    ADMConfig,
    ConcatMLPConfig,
    DDPMPlusPlusConfig,
    EDM2Config,
    MLPConfig,
    NCSNPlusPlusConfig,
)
from couplet.config.resolve import resolve
from couplet.config.variants import build
from couplet.cost import cost, native_shape
from couplet.model import ImageShape
from couplet.networks.base import Network
from couplet.plan.resources import UNKNOWN, memory_mb, minutes, sizes, training_memory
from couplet.plan.stages import STAGES
from couplet.recipes import rows
from couplet.training.memory import step_bytes

ROOT = Path(__file__).parents[3]
FILES = [ROOT / "params.yaml", *sorted((ROOT / "workflow/papers").glob("*.yaml"))]


@pytest.fixture(scope="module")
def params():
    return resolve(FILES[0])


def facts_of(training):
    return Facts.of(training.cell.dataset, training.dataset)


def with_batch(training, images):
    recipe = training.recipe.model_copy(update={"batch": images})
    return training.model_copy(update={"recipe": recipe})


def networks_of_papers():
    """A row for each layout of a network in the parameter files, the widest: EDM2-XL and not S, M, L."""
    found = {}
    for row in sorted(rows(FILES), key=lambda row: -row.training.recipe.network.model_channels):
        network = row.training.recipe.network.model_copy(update={"dropout": 0.0, "model_channels": 1})
        found.setdefault(repr(network), row)
    return [pytest.param(row.training, id=row.name) for row in found.values()]


@pytest.mark.parametrize("training", networks_of_papers())
def test_memory_of_a_step_is_that_of_the_trace_and_not_below(training):
    shape = native_shape(training.dataset)
    traced = step_bytes(training, shape)
    assert traced <= training_memory(training, facts_of(training)).device <= 1.25 * traced


@pytest.mark.parametrize("images", [1, 16])
@pytest.mark.parametrize("coupling", sorted(CouplingConfig.family))
def test_every_coupling_and_few_images(params, coupling, images):
    cell = params.experiment.model_copy(update={"coupling": coupling})
    training = with_batch(params.training(cell), images)
    traced = step_bytes(training, ImageShape(1, 8, 10))
    assert traced <= training_memory(training, facts_of(training)).device <= 1.25 * traced


@pytest.mark.parametrize(
    "network",
    [
        DDPMPlusPlusConfig(model_channels=32, channel_mult=(1, 3), num_blocks=(1, 3), dropout=(0.0, 0.5)),
        DDPMPlusPlusConfig(model_channels=64, channel_mult_emb=8, attn_resolutions=(32, 8), num_blocks=1),
        NCSNPlusPlusConfig(model_channels=32, channel_mult=(1, 2, 4), num_blocks=1, dropout=0.1),
        ADMConfig(model_channels=64, channel_mult=(1, 2), num_blocks=1, dropout=0.2, dropout_resolution=None),
        ADMConfig(
            model_channels=32, channel_mult=(2, 1), num_blocks=1, adaptive_scale=False, channels_per_head=16
        ),
        EDM2Config(model_channels=64, channel_mult=(1, 3), num_blocks=1, dropout=0.5),
        EDM2Config(model_channels=32, num_blocks=(1, 2), channel_mult=(1, 4), channels_per_head=16),
        MLPConfig(model_channels=512, num_blocks=6, dropout=0.1),
        ConcatMLPConfig(model_channels=512, num_blocks=4, dropout=0.1),
    ],
    ids=lambda network: f"{network.kind}{network.model_channels}",
)
def test_networks_of_no_paper(params, network):
    classes = 100
    training = params.training(params.experiment)
    update = {"network": network, "conditional": classes > 0, "batch": 8}
    training = training.model_copy(update={"recipe": training.recipe.model_copy(update=update)})
    facts = Facts(name="x", resolution=32, channels=3, classes=classes, splits=None)
    size, made = sizes(training, facts), cost(training, ImageShape(3, 32, classes))
    assert made.parameters * 0.99 <= size.parameters <= 1.06 * made.parameters
    assert 0.9 * made.forward <= size.flops <= 1.35 * made.forward
    traced = step_bytes(training, ImageShape(3, 32, classes))
    assert traced <= training_memory(training, facts).device <= 1.25 * traced


def test_trace_counts_what_a_step_on_the_cpu_keeps(params):
    """By torch's own hooks: distinct storages that the network keeps for its backward pass."""
    training = params.training(params.experiment)
    shape = ImageShape(1, 8, 10)
    traced = step_bytes(training, shape, 256) - step_bytes(training, shape, 128)
    with torch.random.fork_rng():
        network: Network = build(
            training.recipe.network, in_channels=1, out_channels=1, resolution=8, num_classes=0
        )
    kept = []
    for images in (128, 256):
        storages = {}

        def pack(tensor, storages=storages):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = (storage, storage.nbytes())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = network(torch.randn(images, 1, 8, 8), torch.zeros(images))
        kept.append(sum(size for _, size in storages.values()))
        del output
    assert kept[1] - kept[0] == pytest.approx(traced, rel=0.05)


def test_fewer_images_at_once_take_less(params):
    training = params.training(params.experiment)
    facts = facts_of(training)
    halves = training.model_copy(update={"train": training.train.model_copy(update={"microbatch": 8})})
    whole, parts = training_memory(training, facts), training_memory(halves, facts)
    assert parts.device < whole.device
    assert parts.cpu < whole.cpu
    assert parts.host == whole.host
    assert training_memory(training, facts, processes=2).cpu < whole.cpu


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_stage_of_every_file_asks_for_something(path):
    params = resolve(path)
    cells = {cell.name: cell for cell in params.cells()}.values()
    for gpus, cell, stage in product((0, 1, 4), cells, STAGES):
        job = params.model_copy(update={"gpus": gpus})
        assert memory_mb(job, stage, cell) > 500
        assert minutes(job, stage, cell) > 10


def test_jobs_on_gpus_do_not_ask_for_the_memory_of_the_gpus():
    params = resolve(ROOT / "workflow/papers/ect.yaml")
    cell = next(cell for cell in params.cells() if cell.recipe == "ecm-xl")
    on_cpu = memory_mb(params.model_copy(update={"gpus": 0}), "train", cell)
    assert memory_mb(params, "train", cell) < 72_000 < 120_000 < on_cpu
    eight = memory_mb(params.model_copy(update={"gpus": 8}), "train", cell)
    assert eight < 3 * 72_000  # the first process alone saves


def test_images_of_unknown_size_take_a_fixed_memory(params):
    facts = Facts(name="x", resolution=None, channels=None, classes=None, splits=None)
    assert training_memory(params.training(params.experiment), facts) is None
    assert UNKNOWN >= 16e9


def test_planning_imports_neither_torch_nor_numpy():
    program = (
        "import sys; from pathlib import Path; from couplet.config.resolve import resolve;"
        "from couplet.plan.resources import memory_mb, minutes;"
        "params = resolve(Path('params.yaml'));"
        "[(memory_mb(params, 'train', cell), minutes(params, 'train', cell)) for cell in params.cells()];"
        "sys.exit(bool({'torch', 'numpy'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0
