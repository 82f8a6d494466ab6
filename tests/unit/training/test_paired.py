"""A seed gives all couplings the same start, images, noise and levels, in training and in sampling."""

import pytest
import torch

from couplet import sampling
from couplet.config.couplings import CouplingConfig
from couplet.config.designs import SamplerConfig
from couplet.data.loader import Loader
from couplet.model import ImageShape
from couplet.training import loop

SHAPE = ImageShape(channels=1, resolution=8, num_classes=3)
SAMPLER = SamplerConfig(levels=[80.0, 0.821])
NETWORK = {
    "kind": "ddpmpp",
    "model_channels": 8,
    "channel_mult": [1],
    "num_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.3,
}
OTHERS = sorted({*CouplingConfig.family} - {"independent"})


@pytest.fixture
def state(make_training):
    """A run of four steps before its first."""

    def make(coupling, seed=0):
        training = make_training(
            coupling,
            seed=seed,
            steps=4,
            flip=True,
            conditional=True,
            nonfinite_gradients="zero",
            network=NETWORK,
        )
        return training, loop.initial_state(training, SHAPE, torch.device("cpu"))

    return make


@pytest.fixture
def training_draws(state, random_split, monkeypatch):
    """The weights that a run starts from and what each of its steps is given, by name; noise as a set."""

    def record(coupling, seed=0):
        training, start = state(coupling, seed)
        given = {name: value.clone() for name, value in start.model.network.state_dict().items()}
        original = loop.consistency_loss

        def loss(models, batch, draws, *, objective, step):
            given.update({f"{step} {name}": value for name, value in batch._asdict().items()})
            given.update({f"{step} {name}": value for name, value in draws._asdict().items()})
            given[f"{step} noise"] = draws.noise.flatten(1).unique(dim=0)
            return original(models, batch, draws, objective=objective, step=step)

        with monkeypatch.context() as patch:
            patch.setattr(loop, "consistency_loss", loss)
            loader = Loader(random_split, batch=training.recipe.batch, seed=seed, flip=True, num_classes=3)
            assert len(list(loop.run(training, start, loader))) == 4
        return given

    return record


@pytest.fixture
def sampling_draws(state, monkeypatch):
    """The noise of each evaluation and the classes, by purpose, and the images of an untrained network."""

    def record(coupling, seed=0):
        model = state(coupling, seed)[1].model.eval()
        given = {}
        original = sampling.multistep

        def multistep(model, noises, levels, labels, **options):
            parts.append((*noises, labels))
            return original(model, noises, levels, labels, **options)

        for purpose in ("select", "sample"):
            parts = []
            with monkeypatch.context() as patch:
                patch.setattr(sampling, "multistep", multistep)
                options = {"seed": seed, "purpose": purpose, "count": 80, "batch": 16, "nfe": (1, 2)}
                made = list(sampling.generate(model, SHAPE, SAMPLER, conditional=True, **options))
            names = ("first noise", "second noise", "labels")
            given |= {
                f"{purpose} {n}": torch.cat(x) for n, x in zip(names, zip(*parts, strict=True), strict=True)
            }
            given[f"{purpose} images"] = torch.cat([torch.from_numpy(each[1]) for each in made])
        return given

    return record


@pytest.mark.parametrize("draws", ["training_draws", "sampling_draws"])
def test_a_seed_decides_the_same_draws_for_every_coupling(draws, request):
    draws = request.getfixturevalue(draws)
    expected = draws("independent")
    for coupling in OTHERS:
        given = draws(coupling)
        assert given.keys() == expected.keys()
        different = [name for name in given if not same(given[name], expected[name])]
        assert different == [], coupling


@pytest.mark.parametrize("draws", ["training_draws", "sampling_draws"])
def test_another_seed_decides_others(draws, request):
    draws = request.getfixturevalue(draws)
    expected, given = draws("independent"), draws("independent", seed=1)
    drawn = [name for name in given if name.endswith(("noise", "images", "uniform", "seed"))]
    assert len(drawn) > 5
    assert [name for name in drawn if same(given[name], expected[name])] == []


def same(one, other):
    return torch.equal(one, other) if torch.is_tensor(one) else one == other
