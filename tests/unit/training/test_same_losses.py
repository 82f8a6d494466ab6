"""Whatever is faster takes the same steps: losses and weights against the step written down the plain way."""

import plain
import pytest
import torch

from couplet.couplings.base import Coupling
from couplet.data.loader import Loader
from couplet.model import ImageShape
from couplet.training.loop import initial_state, run

CPU = torch.device("cpu")
SHAPE = ImageShape(channels=1, resolution=8, num_classes=3)
COUPLINGS = ["independent", "ot", "sinkhorn", "vae", "generator", "vae_generator"]
STEPS = 20
NETWORK = {
    "kind": "ddpmpp",
    "model_channels": 8,
    "channel_mult": [1],
    "num_blocks": 1,
    "attn_resolutions": [],
}


@pytest.fixture
def trained(make_training, random_split):
    """Trains and returns losses, weights and averages."""

    def train(coupling, take=run, *, train=None, dropout=0.0, batch=6, teacher="online", **options):
        training = make_training(
            {"kind": "generator", "mu": 0.4} if coupling == "generator" else coupling,
            train=train,
            steps=STEPS,
            batch=batch,
            flip=True,
            conditional=True,
            clip_norm=1.0,
            teacher=teacher,
            network={**NETWORK, "dropout": dropout},
            schedule={"kind": "discretised", "s0": 2, "s1": 16},
            optimizer={"kind": "radam", "lr": 3e-3},
        )
        state = initial_state(training, SHAPE, CPU)
        loader = Loader(random_split, batch=batch, seed=0, flip=True, num_classes=3)
        losses = [getattr(done, "loss", done) for done in take(training, state, loader, **options)]
        weights = torch.cat([p.detach().flatten() for p in state.model.parameters()])
        averages = [p.detach().flatten() for a in state.averages.values() for p in a.module.parameters()]
        return torch.tensor(losses), weights, torch.cat(averages)

    return train


def assert_close(found, wanted, *, loss, weight):
    """Losses relative to each, weights relative to the largest: after 20 steps in which errors grow."""
    torch.testing.assert_close(found[0], wanted[0], rtol=loss, atol=0)
    for mine, theirs in zip(found[1:], wanted[1:], strict=True):
        assert (mine - theirs).abs().max() < weight * theirs.abs().max()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_losses_are_those_of_the_plain_step(trained, coupling, dropout):
    """What remains is the optimiser: torch's two forms of RAdam round differently."""
    wanted = trained(coupling, plain.run, dropout=dropout)
    assert_close(trained(coupling, dropout=dropout), wanted, loss=1e-4, weight=1e-4)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("teacher", ["ema", "target"])
def test_losses_with_an_average_as_teacher_are_those_of_the_plain_step(trained, teacher, dropout):
    wanted = trained("generator", plain.run, dropout=dropout, teacher=teacher)
    found = trained("generator", dropout=dropout, teacher=teacher)
    assert_close(found, wanted, loss=1e-4, weight=1e-4)
    assert not torch.equal(found[0], trained("generator", dropout=dropout)[0])


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize(
    ("coupling", "teacher"), [*((coupling, "online") for coupling in COUPLINGS), ("vae", "target")]
)
def test_parts_of_a_batch_add_up_to_the_whole(trained, coupling, teacher, size):
    found = trained(coupling, train={"microbatch": size}, teacher=teacher)
    assert_close(found, trained(coupling, teacher=teacher), loss=1e-4, weight=1e-4)


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_gradient_of_the_parts_is_that_of_the_whole(make_training, random_split, coupling):
    gradients = []
    for size in (None, 2, 4):
        training = make_training(coupling, train={"microbatch": size}, batch=6, steps=1)
        state = initial_state(training, SHAPE, CPU)
        # Networks start with layers of nearly zero, behind which no error would show.
        with torch.no_grad():
            for parameter in state.model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) / 5)
        [progress] = run(training, state, Loader(random_split, batch=6, seed=0, flip=False, num_classes=0))
        gradients.append(torch.cat([p.grad.flatten() for p in state.model.parameters()]))
        assert progress.gradient_norm > 0
    for parts in gradients[1:]:
        assert (parts - gradients[0]).abs().max() < 1e-6 * gradients[0].abs().max()


def test_with_dropout_the_parts_have_masks_of_their_own(trained):
    """Other draws of the same law; the whole batch as one part has today's."""
    whole = trained("vae", dropout=0.3)
    one_part = trained("vae", dropout=0.3, train={"microbatch": 6})
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(one_part, whole, strict=True))
    assert not torch.equal(trained("vae", dropout=0.3, train={"microbatch": 3})[0], whole[0])


@pytest.mark.parametrize(("coupling", "ahead"), [("ot", 1), ("ot", 50), ("generator", 2)])
def test_arranging_ahead_changes_no_bit(trained, coupling, ahead):
    found = trained(coupling, ahead=ahead)
    assert all(torch.equal(a, b) for a, b in zip(found, trained(coupling, ahead=0), strict=True))


def test_no_more_is_arranged_than_asked_for_and_an_error_comes_through(
    make_training, random_split, monkeypatch
):
    """The thread ends with the training, also where that is given up."""
    count = 0

    def arrange(self, images, noise, rows):
        nonlocal count
        count += 1
        if count == 5:
            raise ValueError("not finite")
        return noise

    monkeypatch.setattr(Coupling, "arrange", arrange)
    training = make_training(steps=20)
    state = initial_state(training, SHAPE, CPU)
    steps = run(training, state, Loader(random_split, batch=4, seed=0, flip=False, num_classes=0), ahead=2)
    next(steps)
    assert 1 <= count <= 3
    with pytest.raises(ValueError, match="not finite"):
        list(steps)
    assert state.step == 4
    assert count <= 7


def test_profiler_sees_the_parts_of_a_step(make_training, random_split):
    training = make_training(steps=1)
    loader = Loader(random_split, batch=4, seed=0, flip=False, num_classes=0)
    steps = run(training, initial_state(training, SHAPE, CPU), loader)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        list(steps)
    parts = {"data", "arrange", "coupling", "student", "teacher", "backward", "optimiser", "ema"}
    assert parts <= {event.key for event in profile.key_averages()}
