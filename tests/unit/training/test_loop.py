"""The loop: the same numbers however it is cut, and what it does when they are not finite."""

import pytest
import torch

from couplet.data.loader import Loader
from couplet.errors import UserError
from couplet.model import ImageShape
from couplet.training import loop
from couplet.training.loop import INFINITY, initial_state, replace_nonfinite_, run

CPU = torch.device("cpu")
SHAPE = ImageShape(channels=1, resolution=8, num_classes=3)
COUPLINGS = ["independent", "ot", "swaps", "vae", "generator", "vae_generator"]
DROPOUT = {
    "kind": "ddpmpp",
    "model_channels": 8,
    "channel_mult": [1],
    "num_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.3,
}


@pytest.fixture
def loader(random_split):
    def make(training):
        return Loader(
            random_split,
            batch=training.recipe.batch,
            seed=training.cell.seed,
            flip=training.recipe.flip,
            num_classes=3 if training.recipe.conditional else 0,
        )

    return make


@pytest.fixture
def start():
    return lambda training: initial_state(training, SHAPE, CPU)


def flat(content, prefix=""):
    """Every tensor and number of nested dictionaries and lists, by path."""
    if isinstance(content, dict):
        content = content.items()
    elif isinstance(content, list | tuple):
        content = enumerate(content)
    else:
        return {prefix: content}
    return {k: v for key, value in content for k, v in flat(value, f"{prefix}/{key}").items()}


def contents(state):
    parts = {name: getattr(state, name).state_dict() for name in ("model", "optimizer")}
    parts |= {name: average.module.state_dict() for name, average in state.averages.items()}
    del parts["optimizer"]["param_groups"]  # settings; a step sets its learning rate itself
    updates = {f"updates/{name}": average.updates for name, average in state.averages.items()}
    return flat(parts) | {"step": state.step, "replaced": state.replaced, **updates}


def assert_same(one, other):
    one, other = contents(one), contents(other)
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other[name]), name
        else:
            assert value == other[name], name


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize(
    ("schedule", "teacher"), [("discretised", "online"), ("discretised", "target"), ("continuous", "ema")]
)
def test_stopping_and_going_on_changes_no_bit(
    make_training, start, loader, tmp_path, coupling, schedule, teacher
):
    settings = {
        "teacher": teacher,
        "steps": 6,
        "flip": True,
        "conditional": True,
        "network": DROPOUT,
        "schedule": {"kind": schedule, **({"s0": 2, "s1": 8} if schedule == "discretised" else {})},
        "learning_rate": {"kind": "cosine", "warmup": 2},
        "ema": {"kind": "power"},
    }
    if coupling == "generator":
        coupling = {"kind": "generator", "mu": 0.2, "mu_end": 0.9}
    training = make_training(coupling, **settings)
    whole = start(training)
    log = list(run(training, whole, loader(training)))

    first = start(training)
    steps = run(training, first, loader(training))
    cut = [next(steps) for _ in range(3)]
    first.save(tmp_path / "state", key="key", data="d")
    torch.rand(5)  # what happens between the processes does not matter
    second = start(training)
    second.restore(tmp_path / "state", key="key", data="d")
    assert_same(first, second)
    assert second.seconds == first.seconds
    rest = list(run(training, second, loader(training)))
    assert cut + rest == log
    assert_same(whole, second)


def test_default_generator_decides_nothing_and_is_not_disturbed(make_training, start, loader):
    training = make_training("vae", steps=2, network=DROPOUT)
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        states.append(start(training))
        list(run(training, states[-1], loader(training)))
        assert torch.equal(torch.get_rng_state(), before)
    assert_same(*states)


def test_seeds_give_different_weights_and_different_steps(make_training, start, loader):
    zero, one = make_training(seed=0, steps=2), make_training(seed=1, steps=2)
    a, b = start(zero), start(one)
    assert any(not torch.equal(x, y) for x, y in zip(a.model.parameters(), b.model.parameters(), strict=True))
    b.model.load_state_dict(a.model.state_dict())
    losses = [[p.loss for p in run(t, s, loader(zero))] for t, s in ((zero, a), (one, b))]
    assert losses[0][0] != losses[1][0]


def test_every_step_and_seed_has_draws_of_its_own(make_training, start, loader, monkeypatch):
    seen = []

    def record(models, batch, draws, **rest):
        seen.append(draws)
        raise UserError("enough")

    monkeypatch.setattr(loop, "consistency_loss", record)
    for seed in (0, 1):
        training = make_training(seed=seed, schedule={"kind": "continuous"}, batch=64)
        for step in (0, 1, 2):
            state = start(training)
            state.step = step
            with pytest.raises(UserError, match="enough"):
                list(run(training, state, loader(training)))
    assert len(seen) == 6
    for name in ("t", "noise", "uniform"):
        drawn = [getattr(draws, name) for draws in seen]
        assert len({values.numpy().tobytes() for values in drawn}) == 6
        assert torch.cat(drawn).unique().numel() > 0.99 * torch.cat(drawn).numel()
    assert len({draws.dropout_seed for draws in seen}) == 6
    for draws in seen:
        # Levels, noise and choices come from streams of their own, not from one used twice.
        normal = (draws.t.double().log() + 1.1) / 2
        assert (normal - draws.noise.flatten()[:64]).abs().max() > 0.1
        assert (torch.special.ndtr(normal) - draws.uniform).abs().max() > 0.1
    noise = torch.cat([draws.noise for draws in seen]).double()
    assert abs(noise.mean()) < 4 / noise.numel() ** 0.5
    assert abs(noise.var() - 1) < 4 * (2 / noise.numel()) ** 0.5
    uniform = torch.cat([draws.uniform for draws in seen])
    assert ((uniform >= 0) & (uniform < 1)).all()
    assert abs(uniform.double().mean() - 0.5) < 4 / (12 * uniform.numel()) ** 0.5


def test_couplings_of_one_seed_start_from_the_same_network(make_training, start):
    networks = [start(make_training(kind)).model.network.state_dict() for kind in COUPLINGS]
    for other in networks[1:]:
        assert all(torch.equal(other[name], networks[0][name]) for name in networks[0])


def test_progress_tells_what_happened(make_training, start, loader):
    training = make_training(
        {"kind": "vae", "kl_weight": 3.0},
        steps=4,
        schedule={"kind": "discretised", "s0": 2, "s1": 8},
        learning_rate={"kind": "constant", "warmup": 2},
    )
    state = start(training)
    steps = list(run(training, state, loader(training)))
    assert [p.step for p in steps] == [1, 2, 3, 4]
    assert [p.curriculum for p in steps] == [3, 5, 9, 9]
    assert [p.learning_rate for p in steps] == pytest.approx([5e-4, 1e-3, 1e-3, 1e-3])
    assert [p.ema_decay for p in steps] == pytest.approx([1 / 10, 2 / 11, 3 / 12, 4 / 13])
    for p in steps:
        assert p.loss == pytest.approx(p.consistency + p.penalty, rel=1e-5)
        assert min(p.distance, p.penalty, p.gradient_norm) > 0
    assert state.step == 4
    assert state.seconds > 0


def test_optimiser_steps_with_the_scheduled_learning_rate(make_training, start, loader):
    """Adam without memory moves every weight by just the learning rate."""
    training = make_training(
        steps=4,
        optimizer={"kind": "adam", "lr": 0.1, "betas": [0.0, 0.0]},
        learning_rate={"kind": "inverse_sqrt", "reference": 1, "warmup": 2},
    )
    state = start(training)
    bias = state.model.network.state_dict()["enc.8x8_conv.bias"]
    before, moved = bias.clone(), []
    for _ in run(training, state, loader(training)):
        moved.append((bias - before).abs().max().item())
        before = bias.clone()
    assert moved == pytest.approx([0.05, 0.1, 0.1 / 2**0.5, 0.1 / 3**0.5], rel=0.02)


def test_weights_are_normalised_before_every_step(make_training, start, loader):
    """The scale of EDM2's stored weights decides nothing: neither an answer nor how far a step turns them."""
    edm2 = {
        "kind": "edm2",
        "model_channels": 8,
        "channel_mult": [1],
        "num_blocks": 1,
        "attn_resolutions": [],
        "channels_per_head": 8,
    }
    training = make_training(steps=4, network=edm2, optimizer={"kind": "adam", "lr": 0.01})
    losses = []
    for scale in (1, 8):
        state = start(training)
        with torch.no_grad():
            for name, weight in state.model.network.named_parameters():
                if name.endswith(".weight"):
                    weight.mul_(scale)
        losses.append([progress.loss for progress in run(training, state, loader(training))])
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)
    assert losses[0][-1] != pytest.approx(losses[0][0], rel=0.05)


def test_finished_training_does_nothing(make_training, start, loader):
    training = make_training(steps=2)
    state = start(training)
    list(run(training, state, loader(training)))
    before = {k: v.clone() for k, v in state.model.state_dict().items()}
    assert list(run(training, state, loader(training))) == []
    assert all(torch.equal(before[k], v) for k, v in state.model.state_dict().items())


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_average_is_updated_after_every_step(make_training, start, loader, coupling):
    training = make_training(coupling, steps=3, ema={"kind": "constant", "beta": 0.5})
    state = start(training)
    wanted = [p.detach().clone() for p in state.model.parameters()]
    for _ in run(training, state, loader(training)):
        wanted = [w + (p.detach() - w) * 0.5 for w, p in zip(wanted, state.model.parameters(), strict=True)]
        for w, p in zip(wanted, state.ema.module.parameters(), strict=True):
            torch.testing.assert_close(p, w, rtol=1e-5, atol=1e-7)
    assert state.model.training
    assert not state.ema.module.training


def test_target_average_follows_with_its_own_decay_and_the_sampling_average_with_its(
    make_training, start, loader
):
    """N(k) is 3, 5, 9, 9: mu(k) = 0.5^(2/N(k))."""
    settings = {"steps": 4, "ema": {"kind": "constant", "beta": 0.5}}
    schedule = {"kind": "discretised", "s0": 2, "s1": 8}
    training = make_training(**settings, schedule=schedule, teacher="target", teacher_mu0=0.5)
    state = start(training)
    first = [p.detach().clone() for p in state.model.parameters()]
    target, ema = list(first), list(first)
    decays = iter([0.5 ** (2 / 3), 0.5 ** (2 / 5), 0.5 ** (2 / 9), 0.5 ** (2 / 9)])
    for _ in run(training, state, loader(training)):
        mu, now = next(decays), [p.detach().clone() for p in state.model.parameters()]
        target = [mu * old + (1 - mu) * new for old, new in zip(target, now, strict=True)]
        ema = [(old + new) / 2 for old, new in zip(ema, now, strict=True)]
    for wanted, average in ((target, state.target), (ema, state.ema)):
        for w, p in zip(wanted, average.module.parameters(), strict=True):
            torch.testing.assert_close(p, w, rtol=1e-5, atol=1e-7)
        assert not average.module.training
    assert set(state.averages) == {"ema", "target"}


def test_encoder_is_trained(make_training, start, loader):
    training = make_training("vae", steps=3)
    state = start(training)
    before = [p.detach().clone() for p in state.model.coupling.parameters()]
    list(run(training, state, loader(training)))
    after = list(state.model.coupling.parameters())
    assert sum(not torch.equal(x, y) for x, y in zip(before, after, strict=True)) > len(after) / 2


def break_at(state, step):
    """Makes the network's gradient infinite at 0-based ``step``, once."""
    [*_, (_, weight)] = state.model.network.named_parameters()

    def spoil(gradient):
        return torch.full_like(gradient, float("inf")) if state.step == step else gradient

    weight.register_hook(spoil)
    return weight


def test_gradient_that_is_not_finite_stops_and_names_the_step(make_training, start, loader):
    training = make_training(steps=4)
    state = start(training)
    break_at(state, 2)
    done = []
    with pytest.raises(UserError, match=r"step 2\b") as caught:
        done.extend(run(training, state, loader(training)))
    message = str(caught.value)
    assert str(training.cell) in message
    assert "\n" not in message
    assert state.step == 2
    assert all(torch.isfinite(p).all() for p in state.model.parameters())


def test_loss_that_is_not_finite_stops_and_names_levels_and_coupling(make_training, start, loader):
    training = make_training("ot", steps=2)
    state = start(training)
    with torch.no_grad():
        next(state.model.network.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match=r"step 0\b.*t = .*coupling ot"):
        list(run(training, state, loader(training)))


def test_gradients_that_are_not_finite_become_zero_where_allowed(make_training, start, loader, tmp_path):
    settings = {"nonfinite_gradients": "zero", "optimizer": {"kind": "adam", "betas": [0.0, 0.0]}}
    training = make_training(steps=3, **settings)
    state = start(training)
    weight = break_at(state, 1)
    others = [p for p in state.model.parameters() if p is not weight]
    moved = []
    for _ in run(training, state, loader(training)):
        moved.append((weight.detach().clone(), [p.detach().clone() for p in others]))
        assert all(torch.isfinite(p).all() for p in state.model.parameters())
    assert state.replaced == 1
    # Adam without memory moves by the gradient's sign: not at all where it was put to zero.
    assert torch.equal(moved[0][0], moved[1][0])
    assert not torch.equal(moved[1][0], moved[2][0])
    assert any(not torch.equal(x, y) for x, y in zip(moved[0][1], moved[1][1], strict=True))
    state.save(tmp_path / "state", key="key", data="d")
    again = start(training)
    again.restore(tmp_path / "state", key="key", data="d")
    assert again.replaced == 1


def test_finite_training_zeroes_nothing(make_training, start, loader):
    training = make_training(steps=2, nonfinite_gradients="zero")
    state = start(training)
    list(run(training, state, loader(training)))
    assert state.replaced == 0


def gradients_seen(state):
    """The gradients that the optimiser gets at each step."""
    seen = []

    def look(optimizer, args, kwargs):
        grads = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        seen.append(torch.cat([grad.flatten().clone() for grad in grads]))

    state.optimizer.register_step_pre_hook(look)
    return seen


@pytest.mark.parametrize("relation", [0.1, 10.0])
def test_gradients_are_clipped_to_the_global_norm(make_training, start, loader, relation):
    free = make_training("vae", steps=1)
    state = start(free)
    raw = gradients_seen(state)
    [progress] = run(free, state, loader(free))
    norm = raw[0].norm().item()
    assert progress.gradient_norm == pytest.approx(norm, rel=1e-5)

    limit = relation * norm
    clipped = make_training("vae", steps=1, clip_norm=limit)
    state = start(clipped)
    seen = gradients_seen(state)
    [progress] = run(clipped, state, loader(clipped))
    assert progress.gradient_norm == pytest.approx(norm, rel=1e-5)  # as it was before clipping
    torch.testing.assert_close(seen[0], raw[0] * min(1, relation), rtol=1e-4, atol=1e-6)


def test_initial_weights_replace_those_of_the_network_by_name(make_training, start):
    training = make_training("vae")
    source = initial_state(make_training("vae", seed=5), SHAPE, CPU).model.network.state_dict()
    state = initial_state(training, SHAPE, CPU, weights=source)
    for model in (state.model, state.ema.module):
        assert all(torch.equal(v, source[k]) for k, v in model.network.state_dict().items())
    encoder = start(training).model.coupling.state_dict()
    assert all(torch.equal(v, encoder[k]) for k, v in state.model.coupling.state_dict().items())


@pytest.mark.parametrize(("kind", "infinity"), [("zero", 0.0), ("large", 1e5)])
def test_infinite_gradients_become_what_the_name_says(kind, infinity):
    gradient = torch.tensor([float("inf"), float("-inf"), float("nan"), 2.0])
    replace_nonfinite_([gradient], INFINITY[kind])
    assert gradient.tolist() == [infinity, -infinity, 0.0, 2.0]
