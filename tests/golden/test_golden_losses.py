"""A training step of iCT, of ECM (VCT, ECT and ECT on ImageNet) and of GC, with gradients."""

from __future__ import annotations

import copy
from typing import Any

import harness
import pytest
import torch
from harness import Group
from test_golden_schedules import CURRICULA
from tiny import floats, kernel_of, labels_of, model_of
from torch import Tensor

from couplet.config import couplings as config
from couplet.config import recipes
from couplet.config.networks import DDPMPlusPlusConfig
from couplet.couplings.generator_induced import GeneratorInduced
from couplet.couplings.minibatch import assignment
from couplet.couplings.variational import Variational, gaussian_kl
from couplet.model import ConsistencyModel
from couplet.schedules import Discretised, Schedule
from couplet.training.step import Batch, Draws, Models, Objective, Terms, consistency_loss

DISTANCES = {
    "VCT": {"huber": recipes.ElementwisePseudoHuberConfig(), "l2": recipes.SquaredL2Config()},
    "GC": {"huber": recipes.PseudoHuberConfig(), "l2": recipes.SquaredL2Config()},
}
LEVELS = {"lognormal": "lognormal", "uniform_time": "uniform"}
WEIGHTINGS = {"consistency": "inverse_gap", "1/(t-r)": "inverse_gap"}
WEIGHTINGS |= {"karras": "karras", "snrpk": "karras"}


class Step:
    """Runs our training step on a case and looks over its shoulder."""

    def __init__(
        self,
        group: Group,
        name: str,
        recipe: recipes.Recipe,
        coupling: config.CouplingConfig,
        *,
        draw: Tensor,
        step: int,
        uniform: Tensor | None = None,
    ) -> None:
        case = group.cases[name]
        images, noise = floats(group, f"{name}/x"), floats(group, f"{name}/noise")
        labels = labels_of(group, name)
        if group.has(f"{name}/ot_choices"):
            # VCT re-orders both sides of the plan at random, we keep the images in their place.
            choices = group.get(f"{name}/ot_choices")
            order, partner = map(torch.from_numpy, divmod(choices, len(images)))
            images = images[order]
            labels = None if labels is None else labels[order]
            assert torch.equal(assignment(images, noise), partner)
        kernel = kernel_of(case.get("kernel", "ve"), recipe.sigma_min, recipe.sigma_max, recipe.sigma_data)
        time = case.get("time_fn", "tanh")
        self.model = model_of(group, name, kernel, coupling, time=time).train()
        averaged = "_ema" if group.has(f"{name}/W_ema") else ""
        ema = model_of(group, name, kernel, coupling, averaged, time)
        objective = Objective(recipe, kernel, images[0].numel())
        self.curriculum = objective.schedule.curriculum(step)
        self.t, self.r = levels(objective.schedule, step, draw)

        self.inputs: list[tuple[Tensor, Tensor]] = []
        self.answers: list[tuple[Tensor, Tensor]] = []

        def distance(student: Tensor, target: Tensor) -> Tensor:
            self.answers.append((student.detach(), target.detach()))
            return objective.distance(student, target)

        def watch(_: ConsistencyModel, given: tuple[Any, ...]) -> None:
            self.inputs.append((given[0].detach(), given[1]))

        def endpoint(_: torch.nn.Module, given: tuple[Any, ...], pair: Any) -> None:
            self.pair = pair

        self.model.register_forward_pre_hook(watch)
        self.model.coupling.register_forward_hook(endpoint)
        # The step is compared at the stored levels: what a rounding of t - r does to a loss at a
        # fine grid says nothing about the step. The double-precision run has our levels.
        uniform = torch.zeros(len(images)) if uniform is None else uniform
        t = stored(group, f"{name}/debug/t", f"{name}/debug/sigma_ip1", otherwise=self.t)
        r = stored(group, f"{name}/debug/r", f"{name}/debug/sigma_i", otherwise=self.r)
        # The loop arranges a batch's noise before the step.
        draws = Draws(t, r, self.model.coupling.arrange(images, noise), uniform, dropout_seed=0)
        self.images, self.noise, self.labels = images, noise, labels
        observed = copy.copy(objective)
        observed.distance = distance
        self.terms: Terms = consistency_loss(
            Models(self.model, ema, None),
            Batch(images, labels),
            draws,
            objective=observed,
            step=step,
        )
        self.terms.loss.backward()

    def results(self) -> dict[str, Any]:
        """Everything that a case may ask for, under its name in the vectors."""
        terms = self.terms
        weighted = terms.weight * terms.distance
        ((student, target),) = self.answers
        found = {
            "loss": terms.loss,
            "consistency_loss": terms.distance.mean(),
            "weighted_consistency": weighted.mean(),
            **self.model.network.gradients(),
            "debug/t": self.t,
            "debug/r": self.r,
            "debug/D_t": student,
            "debug/D_r": target,
        }
        # The last two calls are teacher's and student's, or the student's alone.
        found["debug/x_t"] = self.inputs[-1][0]
        if (self.r != 0).any():
            found["debug/x_r"] = self.inputs[-2][0]
        coupling = self.model.coupling
        if isinstance(coupling, Variational):
            mean, std = coupling.posterior(self.images, self.labels)
            kl = gaussian_kl(mean, std + coupling.posterior_floor)
            torch.testing.assert_close(terms.penalty, coupling.kl_weight * kl)
            found |= {
                "kl_divergence": kl.mean(),
                "kl_scale_effective": coupling.kl_weight * terms.penalty_scale,
                **coupling.encoder.gradients("_enc"),
                "debug/enc_mu": mean,
                "debug/enc_std": std,
                "debug/enc_time_input": coupling.encoder.noise_labels[0],
            }
        return found


def levels(schedule: Schedule, step: int, draw: Tensor) -> tuple[Tensor, Tensor]:
    """Our noise levels (t, r), in the precision of the run."""
    if isinstance(schedule, Discretised) and torch.get_default_dtype() == torch.float64:
        grid = schedule.grid(schedule.curriculum(step))
        return grid[draw + 1], grid[draw]
    return schedule.pair_at(step, draw)


def stored(group: Group, *arrays: str, otherwise: Tensor) -> Tensor:
    """The first of ``arrays`` that the group has, unless this is a double-precision run."""
    found = [array for array in arrays if group.has(array)]
    if not found or torch.get_default_dtype() == torch.float64:
        return otherwise
    return group.tensor(found[0])


def compare(precision: str, group: Group, case: str, found: dict[str, Any]) -> None:
    check = {"float32": group.check, "float64": group.check64}[precision]
    for array in group.outputs(f"{case}/"):
        check(array, found[array.removeprefix(f"{case}/")])


def recipe_of(case: dict[str, Any], **settings: Any) -> recipes.Recipe:
    """A recipe with what cases of all kinds state alike."""
    return recipes.Recipe(
        steps=settings.pop("steps", case.get("total_training_steps")),
        sigma_min=float(case.get("sigma_min", 0.002)),
        sigma_max=float(case.get("sigma_max", 80.0)),
        sigma_data=case["sigma_data"],
        mid_sigmas=(),
        network=DDPMPlusPlusConfig(),
        **settings,
    )


def coupling_config(case: dict[str, Any]) -> config.CouplingConfig:
    return {
        "independent": config.IndependentConfig(),
        "ot": config.MinibatchOTConfig(),
        "vae": config.VariationalConfig(kl_weight=case["kl_loss_scale"]),
    }[case["coupling"]]


@pytest.mark.parametrize(("name", "case"), harness.cases("losses_ict"))
def test_ict(name: str, case: str, precision: str) -> None:
    group = harness.load(name)
    settings = group.cases[case]
    assert settings["model"] == "ImprovedConsistencyTraining"
    recipe = recipe_of(
        settings,
        schedule=recipes.DiscretisedConfig(
            curriculum=CURRICULA[settings["scale_mode"]],
            s0=settings["start_scales"],
            s1=settings["end_scales"],
            rho=settings["rho"],
            p_mean=settings["p_mean"],
            p_std=settings["p_std"],
            levels=LEVELS[settings["noise_schedule"]],
        ),
        distance=DISTANCES["VCT"][settings["loss_mode"]],
    )
    step = Step(
        group,
        case,
        recipe,
        coupling_config(settings),
        draw=group.tensor(f"{case}/indices"),
        step=settings["step"],
    )
    assert step.curriculum == settings["num_timesteps"]
    compare(precision, group, case, step.results())


@pytest.mark.parametrize(("name", "case"), harness.cases("losses_ecm"))
def test_ecm(name: str, case: str, precision: str) -> None:
    group = harness.load(name)
    settings = group.cases[case]
    model = settings["model"]
    if model.startswith("EasyConsistencyModel"):
        # VCT shifts the preconditioning in evaluation mode alone.
        assert model.endswith("(train mode)")
        total, stages, step = (settings[k] for k in ("total_training_steps", "n_stages", "step"))
        coupling, weighting = coupling_config(settings), settings["loss_weighting"]
        if float(settings["q"]) ** stages > 1e6:
            # In later stages the levels of a pair would be the same in float32; the case is of an early one.
            total = stages = int(settings["stage"]) + 1
            step = total - 1
    else:
        assert model in ("ECT main ECMLoss", "ECT imgnet ECMLoss")
        assert settings["train_mode"]
        # ECT counts its stages itself: one step per stage makes ours the same.
        total = stages = settings["stage"] + 1
        step = settings["stage"]
        coupling, weighting = config.IndependentConfig(), settings["weighting"].split(" ")[0]
    recipe = recipe_of(
        settings,
        steps=total,
        boundary=recipes.Boundary(training=False),
        schedule=recipes.ContinuousConfig(
            mapping=settings["adj"],
            q=float(settings["q"]),
            k=settings["k"],
            b=settings["b"],
            stages=stages,
            p_mean=settings["p_mean"],
            p_std=settings["p_std"],
        ),
        distance=recipes.PseudoHuberConfig(c=settings["c"]),
        weighting=WEIGHTINGS[weighting],
    )
    draw = floats(group, f"{case}/rnd_normal").flatten()
    done = Step(group, case, recipe, coupling, draw=draw, step=step)
    assert done.curriculum == settings["stage"]
    if "n_r_equal_zero" in settings:
        assert (done.r == 0).sum() == settings["n_r_equal_zero"]
        assert (len(done.inputs) == 2) == settings["teacher_evaluated"]
    found = done.results()
    found["loss_per_sample"] = done.terms.weight * done.terms.distance
    compare(precision, group, case, found)


@pytest.mark.parametrize(("name", "case"), harness.cases("losses_gc"))
def test_gc(name: str, case: str, precision: str) -> None:
    group = harness.load(name)
    settings = group.cases[case]
    recipe = recipe_of(
        settings,
        schedule=recipes.DiscretisedConfig(s0=settings["s0"], s1=settings["s1"]),
        distance=DISTANCES["GC"][settings["loss_type"]],
    )
    coupling, uniform = config.IndependentConfig(), None
    if settings["generator_induced_traj"]:
        # GC's code replaces an image where uniform > m, and all of them where m = 0: m is the
        # share of real images. The paper's mu is that of generated ones, drawn by uniform < mu.
        end = settings["mix_end"]
        coupling = config.GeneratorInducedConfig(
            mu=1 - settings["mix_start"],
            mu_end=None if end is None else 1 - end,
            predictor="ema" if settings["generator_induced_traj_ema"] else "online",
        )
        below_one = 1 - torch.finfo(torch.float32).eps / 2
        uniform = (1 - floats(group, f"{case}/mask_uniform").flatten()).clamp(max=below_one)
    arguments = {"draw": group.tensor(f"{case}/indices"), "step": settings["step"]}
    step = Step(group, case, recipe, coupling, uniform=uniform, **arguments)
    assert step.curriculum == settings["num_timesteps"]
    found = step.results()
    found |= {
        "loss_per_sample": step.terms.distance,
        "loss_weights": step.terms.weight,
        "endpoint": step.pair.data,
        "debug/sigma_ip1": found["debug/t"],
        "debug/sigma_i": found["debug/r"],
        "debug/x_ip1": found["debug/x_t"],
        "debug/x_i": found["debug/x_r"],
        "debug/D_ip1": found["debug/D_t"],
        "debug/D_i": found["debug/D_r"],
    }
    if isinstance(step.model.coupling, GeneratorInduced):
        progress = settings["step"] / settings["total_training_steps"]
        mu = step.model.coupling.mu_at(progress)
        assert mu == pytest.approx(1 - settings["mixing_value"], rel=1e-12)
        found["mask"] = (step.pair.data != step.images).flatten(1).any(1)
        everywhere = Step(
            group,
            case,
            recipe,
            coupling.model_copy(update={"mu": 1.0, "mu_end": None}),
            uniform=uniform,
            **arguments,
        )
        found["debug/generator_endpoint"] = everywhere.pair.data
    compare(precision, group, case, found)
