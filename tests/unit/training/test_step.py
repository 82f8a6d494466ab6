"""One training step: student, teacher, dropout masks and the parts of the loss."""

import copy

import pytest
import torch
from torch import nn

from couplet.config.couplings import (
    GeneratorInducedConfig,
    IndependentConfig,
    MinibatchOTConfig,
    VariationalConfig,
)
from couplet.config.recipes import KernelConfig, Recipe
from couplet.config.variants import build
from couplet.couplings.base import Coupling, Pair, Setting
from couplet.model import ConsistencyModel
from couplet.training.step import Batch, Draws, Models, Objective, consistency_loss

B, SIZE = 6, (6, 1, 4, 4)


class Conv(nn.Module):
    """A convolution that depends on the level; dropout and other levels as told."""

    def __init__(self, out_channels=1, dropout=0.0, embed=torch.tanh):
        super().__init__()
        self.conv = nn.Conv2d(1, out_channels, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.embed, self.masks, self.levels = embed, [], []

    def forward(self, x, noise_labels, class_labels=None):
        self.levels.append(noise_labels.detach())
        mask = self.dropout(torch.ones_like(x))
        self.masks.append(mask != 0)
        return self.conv(x * mask) * (1 + self.embed(noise_labels))[:, None, None, None]


def make_model(network=None, coupling=None, kernel="ve"):
    setting = Setting(1, 0.5, lambda out_channels, **size: Conv(out_channels, dropout=0.5))
    levels = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5}
    return ConsistencyModel(
        network or Conv(),
        build(coupling or IndependentConfig(), setting),
        build(KernelConfig.parse(kernel), **levels),
    )


def make_objective(model, **settings):
    recipe = Recipe.model_validate({"steps": 100, "network": {"kind": "ddpmpp"}, "boundary": {}, **settings})
    return Objective(recipe, model.kernel, 16)


def make_draws(**changes):
    r = torch.tensor([0.002, 0.1, 0.5, 1.0, 5.0, 40.0])
    draws = Draws(t=2 * r, r=r, noise=torch.randn(SIZE), uniform=torch.rand(B), dropout_seed=1234)
    return draws._replace(**changes)


def loss_of(model, draws, *, objective=None, ema=None, frozen=None, target=None, images=None, step=0):
    images = torch.linspace(-1, 1, 96).reshape(SIZE) if images is None else images
    objective = objective or make_objective(model)
    draws = draws._replace(noise=model.coupling.arrange(images, draws.noise))
    models = Models(model, ema or model, frozen, target)
    return consistency_loss(models, Batch(images, None), draws, objective=objective, step=step)


def changed(objective, **parts):
    """The objective with some of its parts replaced."""
    other = copy.copy(objective)
    vars(other).update(parts)
    return other


def spied(objective):
    """The objective, and a list that collects the teacher's answers."""
    answers = []

    def distance(student, teacher):
        answers.append(teacher)
        return objective.distance(student, teacher)

    return changed(objective, distance=distance), answers


def test_loss_is_what_the_formula_says():
    """``mean_b ||f(x + t z, t) - f(x + r z, r)||² / (t - r)`` with the preconditioning written out."""
    model, draws, x = make_model(), make_draws(), torch.randn(SIZE)
    objective = make_objective(model, distance={"kind": "squared_l2"})

    def f(level):
        level = level[:, None, None, None]
        c_in = (0.25 + level**2).rsqrt()
        noisy = x + level * draws.noise
        shifted = level - 0.002
        inner = model.network(c_in * noisy, level.flatten().log() / 4)
        return 0.25 / (shifted**2 + 0.25) * noisy + shifted * 0.5 * c_in * inner

    distance = (f(draws.t) - f(draws.r)).square().sum((1, 2, 3))
    terms = loss_of(model, draws, objective=objective, images=x)
    torch.testing.assert_close(terms.distance, distance)
    torch.testing.assert_close(terms.loss, (distance / (draws.t - draws.r)).mean())


@pytest.mark.parametrize("training", [True, False])
def test_boundary_of_training_is_used(training):
    """Without the shift f(x, sigma_min) differs from x, so the teacher's answer does."""
    model = make_model()
    boundary = {"training": training, "sampling": not training}
    objective = make_objective(model, boundary=boundary, distance={"kind": "squared_l2"})
    draws, x = make_draws(), torch.randn(SIZE)
    seen = loss_of(model, draws, objective=objective, images=x).distance
    noisy_t, noisy_r = (model.kernel.noise(x, draws.noise, level) for level in (draws.t, draws.r))
    student = model(noisy_t, draws.t, None, boundary=training)
    teacher = model(noisy_r, draws.r, None, boundary=training)
    torch.testing.assert_close(seen, (student - teacher).square().sum((1, 2, 3)))


@pytest.mark.parametrize("weighting", ["inverse_gap", "karras", "uniform"])
@pytest.mark.parametrize("coupling", [IndependentConfig(), VariationalConfig(kl_weight=7.0)])
def test_loss_is_the_mean_of_its_parts(coupling, weighting):
    model = make_model(coupling=coupling)
    terms = loss_of(model, make_draws(), objective=make_objective(model, weighting=weighting), step=50)
    assert terms.distance.shape == terms.weight.shape == terms.penalty.shape == (B,)
    parts = terms.weight.double() * terms.distance.double()
    parts += terms.penalty_scale * terms.penalty.double()
    assert terms.loss.item() == pytest.approx(parts.mean().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "step", "wanted"),
    [
        # s0 = 10: the last interval of the grid of 11 points; its inverse is 0.0288 (VCT).
        ({"schedule": {"kind": "discretised"}}, 0, 0.0288),
        ({"schedule": {"kind": "discretised"}}, 99, 2.94),
        ({"schedule": {"kind": "continuous"}}, 0, 2 / 80),
        ({"schedule": {"kind": "continuous"}}, 99, 256 / 80),
        ({"schedule": {"kind": "continuous"}, "weighting": "karras"}, 99, 1.0),
    ],
)
def test_penalty_scale_is_the_weight_at_the_top(settings, step, wanted):
    model = make_model()
    terms = loss_of(model, make_draws(), objective=make_objective(model, **settings), step=step)
    assert terms.penalty_scale == pytest.approx(wanted, rel=5e-3)


@pytest.mark.parametrize("coupling", [IndependentConfig(), VariationalConfig()])
def test_teacher_receives_no_gradient(coupling):
    """The gradient is that of the loss against the teacher's answer as a constant."""
    model, draws = make_model(coupling=coupling), make_draws()
    objective = make_objective(model, distance={"kind": "squared_l2"})
    loss_of(model, draws, objective=objective).loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}

    answers = []
    plain = changed(objective, distance=lambda a, b: answers.append(b) or objective.distance(a, b))
    loss_of(model, draws, objective=plain)
    [constant] = answers
    assert not constant.requires_grad
    fixed = changed(objective, distance=lambda a, b: objective.distance(a, constant.detach().clone()))
    model.zero_grad()
    loss_of(model, draws, objective=fixed).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, found[name])
        assert found[name].abs().sum() > 0


@pytest.mark.parametrize("level", [0.0, 0.5])
def test_target_is_a_constant_even_if_the_data_end_is_trained(level):
    """A coupling that moves the data end must not pull on the loss through the target."""

    class Shifting(Coupling):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.tensor(0.3))

        def forward(self, images, noise, labels, **context):
            return Pair(images + self.shift, noise, labels, images.new_zeros(len(images)))

    model = make_model()
    model.coupling = Shifting()
    spy, answers = spied(make_objective(model, schedule={"kind": "continuous"}))
    loss_of(model, make_draws(r=torch.full((B,), level), t=torch.ones(B)), objective=spy)
    assert not answers[0].requires_grad


@pytest.mark.parametrize("clean", [slice(0, 3), slice(None)])
def test_teacher_at_level_zero_is_the_image(clean):
    """f(x, 0) = x, with a network that is NaN at ln 0, as a sinusoidal embedding is."""
    r = torch.full((B,), 0.5)
    r[clean] = 0
    network = Conv(embed=torch.sin)
    model = make_model(network)
    spy, answers = spied(make_objective(model, schedule={"kind": "continuous"}))
    x = torch.randn(SIZE)
    terms = loss_of(model, make_draws(r=r, t=torch.ones(B)), objective=spy, images=x)
    assert torch.equal(answers[0][clean], x[clean])
    terms.loss.backward()
    assert torch.isfinite(terms.loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert all(torch.isfinite(level).all() for level in network.levels)


@pytest.mark.parametrize("predictor", ["online", "ema"])
def test_generated_data_end_at_level_zero_is_the_image(predictor):
    """The generator-induced coupling with ECT's schedule, where r = 0 for most pairs at first."""
    r = torch.tensor([0, 0, 0, 0.5, 0.5, 0.5])
    model = make_model(Conv(embed=torch.sin), GeneratorInducedConfig(mu=1.0, predictor=predictor))
    spy, answers = spied(make_objective(model, schedule={"kind": "continuous"}))
    x = torch.randn(SIZE)
    terms = loss_of(model, make_draws(r=r, t=torch.ones(B)), objective=spy, images=x)
    terms.loss.backward()
    assert torch.isfinite(terms.loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert torch.equal(answers[0][:3], x[:3])


@pytest.mark.parametrize("teacher", ["online", "ema", "target"])
def test_teacher_is_the_model_itself_or_one_of_its_averages(teacher):
    models = {name: make_model() for name in ("online", "ema", "target")}
    objective = make_objective(models["online"], teacher=teacher)
    loss_of(models["online"], make_draws(), objective=objective, ema=models["ema"], target=models["target"])
    calls = {name: len(model.network.levels) for name, model in models.items()}
    assert calls == {name: (name == "online") + (name == teacher) for name in models}
    # The teacher is first, so that no activations are kept meanwhile.
    torch.testing.assert_close(models[teacher].network.levels[0], make_draws().r.log() / 4)


def test_average_as_teacher_changes_the_loss():
    model, ema, draws = make_model(), make_model(), make_draws()
    with_ema = loss_of(model, draws, objective=make_objective(model, teacher="ema"), ema=ema)
    assert with_ema.loss != loss_of(model, draws, ema=ema).loss


@pytest.mark.parametrize("predictor", ["online", "ema", "frozen"])
def test_coupling_may_ask_each_model(predictor):
    models = {name: make_model() for name in ("ema", "frozen")}
    model = make_model(coupling=GeneratorInducedConfig(mu=1.0, predictor=predictor))
    draws = make_draws()
    loss_of(model, draws, **models)
    asked = {"online": model, **models}[predictor]
    torch.testing.assert_close(asked.network.levels[0], draws.r.log() / 4)
    calls = {name: len(other.network.levels) for name, other in models.items()}
    assert calls == {name: int(name == predictor) for name in models}
    assert len(model.network.levels) == (3 if predictor == "online" else 2)


def test_coupled_pair_is_used_at_both_levels():
    """Generated images as data end: student and teacher see f_ema(x + r z, r), not x."""
    model, ema, draws, x = (
        make_model(coupling=GeneratorInducedConfig(mu=1.0)),
        make_model(),
        make_draws(),
        torch.randn(SIZE),
    )
    found = loss_of(model, draws, ema=ema, images=x).distance
    end = ema(model.kernel.noise(x, draws.noise, draws.r), draws.r, None, boundary=True).detach()
    plain = make_model(model.network)
    torch.testing.assert_close(found, loss_of(plain, draws, images=end).distance)


@pytest.mark.parametrize("coupling", [MinibatchOTConfig(), VariationalConfig()])
def test_coupled_noise_is_used_at_both_levels(coupling):
    model, draws, x = make_model(coupling=coupling).eval(), make_draws(), torch.randn(SIZE)
    found = loss_of(model, draws, images=x).distance
    paired = model.coupling.renoise(x, draws.noise, None).detach()
    assert not torch.equal(paired, draws.noise)
    plain = make_model(model.network).eval()
    wanted = loss_of(plain, draws._replace(noise=paired), images=x).distance
    torch.testing.assert_close(found, wanted)


def dropout_masks(coupling=None, **changes):
    network = Conv(dropout=0.5)
    model = make_model(network, coupling)
    loss_of(model, make_draws(**changes))
    encoder = getattr(model.coupling, "encoder", None)
    return network.masks, encoder.masks if encoder else []


@pytest.mark.parametrize("coupling", [IndependentConfig(), VariationalConfig()])
def test_student_and_teacher_share_their_dropout_mask(coupling):
    (student, teacher), _ = dropout_masks(coupling)
    assert torch.equal(student, teacher)
    assert 0 < student.float().mean() < 1


def test_average_as_teacher_shares_the_mask_and_goes_back_to_evaluation():
    network, averaged = Conv(dropout=0.5), Conv(dropout=0.5)
    model, ema = make_model(network), make_model(averaged).eval()
    loss_of(model, make_draws(), objective=make_objective(model, teacher="ema"), ema=ema)
    assert torch.equal(network.masks[0], averaged.masks[0])
    assert not network.masks[0].all()
    assert not any(module.training for module in ema.modules())
    assert model.training


def test_nearly_equal_levels_give_nearly_equal_answers_under_dropout():
    network = Conv(dropout=0.5)
    r = torch.full((B,), 1.0)
    terms = loss_of(make_model(network), make_draws(r=r, t=r + 1e-6))
    assert terms.distance.max() < 1e-4


def test_other_steps_have_other_masks():
    one, _ = dropout_masks(dropout_seed=1)
    two, _ = dropout_masks(dropout_seed=2)
    again, _ = dropout_masks(dropout_seed=1)
    assert not torch.equal(one[0], two[0])
    assert torch.equal(one[0], again[0])


def test_dropout_of_the_coupling_is_its_own():
    """Were the encoder to draw from the student's stream, it would have the student's mask."""
    (student, _), [encoder] = dropout_masks(VariationalConfig())
    (alone, _), _ = dropout_masks(IndependentConfig())
    assert torch.equal(student, alone)
    assert not torch.equal(student, encoder)


@pytest.mark.parametrize(
    "coupling", [IndependentConfig(), VariationalConfig(), GeneratorInducedConfig(mu=1.0)]
)
def test_default_generator_is_left_as_it_was(coupling):
    model, draws = make_model(Conv(dropout=0.5), coupling), make_draws()
    before = torch.get_rng_state()
    loss_of(model, draws)
    assert torch.equal(torch.get_rng_state(), before)


def test_step_is_a_function_of_its_draws():
    model, draws = make_model(Conv(dropout=0.5), VariationalConfig()), make_draws()
    one, _, two = loss_of(model, draws), torch.rand(17), loss_of(model, draws)
    assert torch.equal(one.loss, two.loss)


def test_curriculum_sees_the_step():
    """mu goes from 0 to 1: at the end nearly every image is generated."""
    model = make_model(coupling=GeneratorInducedConfig(mu=0.0, mu_end=1.0, predictor="frozen"))
    frozen = make_model()
    for step, asked in ((0, 0), (99, B)):
        frozen.network.levels.clear()
        loss_of(model, make_draws(uniform=torch.full((B,), 0.9)), frozen=frozen, step=step)
        assert sum(len(level) for level in frozen.network.levels) == asked


def test_linear_interpolation_is_used_for_both_levels():
    model = make_model(kernel="li")
    draws = make_draws(t=torch.full((B,), 80.0), r=torch.full((B,), 79.999))
    near, far = (loss_of(model, draws, images=v * torch.ones(SIZE)).distance for v in (0.0, 1.0))
    torch.testing.assert_close(near, far, rtol=0.05, atol=1e-3)


# A denoiser: the schedule with r = 0.

DENOISING = {"schedule": {"kind": "denoising"}, "distance": {"kind": "squared_l2"}, "weighting": "karras"}


def test_loss_of_a_denoiser_is_its_weighted_squared_error():
    """``mean_b (1/t² + 1/sigma_data²) ||D(x + t z, t) - x||²`` (EDM), without a teacher's evaluation."""
    model, x = make_model(), torch.randn(SIZE)
    objective = make_objective(model, **DENOISING)
    t, r = objective.schedule.draw_pair(0, B, torch.Generator().manual_seed(0))
    draws = make_draws(t=t, r=r)
    terms = loss_of(model, draws, objective=objective, images=x)
    assert len(model.network.levels) == 1
    denoised = model(x + t[:, None, None, None] * draws.noise, t, None, boundary=True)
    wanted = (1 / t**2 + 4) * (denoised - x).square().sum((1, 2, 3))
    torch.testing.assert_close(terms.loss, wanted.mean())


@pytest.mark.parametrize("predictor", ["ema", "frozen"])
def test_denoisers_pairs_are_made_at_its_level(predictor):
    other, x = make_model(), torch.randn(SIZE)
    model = make_model(coupling=GeneratorInducedConfig(mu=1.0, predictor=predictor))
    spy, answers = spied(make_objective(model, **DENOISING))
    draws = make_draws(r=torch.zeros(B))
    loss_of(model, draws, objective=spy, images=x, **{predictor: other})
    torch.testing.assert_close(other.network.levels[0], draws.t.log() / 4)
    noisy = x + draws.t[:, None, None, None] * draws.noise
    torch.testing.assert_close(answers[0], other(noisy, draws.t, None, boundary=True))
    assert not torch.equal(answers[0], x)


class Pointwise(nn.Module):
    """A small network on images of one pixel."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1)
        )

    def forward(self, x, noise_labels, class_labels=None):
        inputs = torch.stack([x.flatten(), noise_labels], dim=1)
        return self.layers(inputs).reshape(x.shape)


@pytest.mark.parametrize("kernel", ["ve", "li"])
def test_denoiser_learns_the_mean_of_the_data(kernel):
    """Of images of one pixel that are 1 or -1: ``E[x | x_t] = tanh(signal(t) x_t / t²)``."""
    model = make_model(Pointwise(), kernel=kernel)
    settings = {**DENOISING, "schedule": {"kind": "denoising", "p_mean": 0.0, "p_std": 1.0}}
    objective = make_objective(model, boundary={"training": False, "sampling": False}, **settings)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    rng = torch.Generator().manual_seed(0)
    for step in range(500):
        t, r = objective.schedule.draw_pair(step, 256, rng)
        images = (torch.rand(256, generator=rng) < 0.5).float().reshape(-1, 1, 1, 1) * 2 - 1
        noise = torch.randn(images.shape, generator=rng)
        draws = Draws(t=t, r=r, noise=noise, uniform=torch.zeros(256), dropout_seed=0)
        optimizer.zero_grad()
        loss_of(model, draws, objective=objective, images=images).loss.backward()
        optimizer.step()
    for level in (0.5, 1.0, 3.0):
        t = torch.full((41,), level)
        noisy = torch.linspace(-2, 2, 41).reshape(-1, 1, 1, 1)
        signal = 1 - level / 80 if kernel == "li" else 1.0
        found = model(noisy, t, None, boundary=False).detach()
        assert (found - torch.tanh(signal * noisy / level**2)).abs().mean() < 0.06
