"""Sampling in several steps, as VCT, ECT and ECT on ImageNet do it."""

from __future__ import annotations

import re

import harness
import pytest
import torch
from tiny import floats, kernel_of, labels_of, model_of

from couplet.config import couplings as config
from couplet.sampling import multistep

COUPLINGS = {
    "independent": config.IndependentConfig(),
    "ot": config.MinibatchOTConfig(recouple_when_sampling=True),
    "vae": config.VariationalConfig(),
}


def shifted(case: dict) -> bool:
    """Whether the preconditioning is the identity at sigma_min."""
    model = case["model"]
    if model == "ict":
        return True
    if model == "ecm":
        return not case["train_mode"]
    if model == "ECT main":
        return case["mode"] == "eval"
    assert model == "ECT imgnet"
    return False


@pytest.mark.parametrize(("name", "case"), harness.cases("sampling"))
def test_multistep(name: str, case: str, precision: str) -> None:
    group = harness.load(name)
    settings = group.cases[case]
    sigma_max = float(settings.get("sigma_max", settings.get("t_max")))
    kernel = kernel_of(
        settings.get("kernel", "ve"),
        settings["sigma_min"] or 0.0,
        sigma_max,
        settings["sigma_data"],
    )
    coupling = COUPLINGS[settings.get("coupling", "independent")]
    model = model_of(group, case, kernel, coupling).eval()
    levels = [sigma_max, *group.get(f"{case}/mid_t").tolist()]
    noises = [floats(group, f"{case}/z")]
    noises += [floats(group, f"{case}/noise{i}") for i in range(1, len(levels))]
    labels = labels_of(group, case)
    samples = list(multistep(model, noises, levels, labels, boundary=shifted(settings)))
    check = {"float32": group.check, "float64": group.check64}[precision]
    for array in group.outputs(f"{case}/"):
        steps = int(re.fullmatch(r"out_(\d+)step", array.removeprefix(f"{case}/")).group(1))
        images = samples[steps - 1]
        assert images.dtype == torch.float64
        for refinement in range(1, steps if settings.get("coupling") == "ot" else 1):
            # VCT's plan shuffles the batch at every refinement, ours leaves it in order.
            choices = group.get(f"{case}/ot_choices_{steps}step_{refinement}")
            images = images[choices // len(images)]
        check(array, images)
