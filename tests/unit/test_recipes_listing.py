"""`couplet recipes`: rows, what they cost, and where their settings come from."""

from pathlib import Path

import pytest
import torch
import yaml
from torch.profiler import ProfilerActivity, profile

from couplet.config.resolve import resolve
from couplet.errors import UserError
from couplet.model import ImageShape, build
from couplet.networks.base import Network
from couplet.recipes import Row, find, rows, settings, summary

PAPERS = Path(__file__).parents[2] / "workflow/papers"
PRODUCTS = {"aten::conv2d", "aten::addmm", "aten::mm", "aten::bmm"}


@pytest.fixture
def small(tmp_path, params_content):
    """A file with a row per coupling, in two seeds, of a small network."""
    recipe = params_content["recipes"]["ict"]
    recipe.update(steps=1000, batch=32)
    recipe["sources"] = {
        "steps": "assumed",
        "batch": "not published; guessed",
        "network": "table 3",
        "ema": "code",
    }
    params_content["recipes"] = {"ict": recipe}
    params_content["table1"]["couplings"].append("vae_generator")
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(params_content))
    return path


def test_rows_are_cells_without_seeds_in_the_files_order(small):
    found = list(rows([small]))
    assert [row.name for row in found] == [
        f"tiny/digits-ict-ve-{coupling}"
        for coupling in ("independent", "ot", "vae", "generator", "vae_generator")
    ]
    assert {row.cell.seed for row in found} == {0}


@pytest.mark.parametrize("coupling", ["independent", "vae", "generator", "vae_generator"])
def test_cost_is_that_of_the_model_that_is_trained(small, coupling):
    """Parameters of the real model; operations as torch's profiler counts them on the CPU, which leaves
    out the filters that double the resolution: a thousandth."""
    row = find([small], f"digits-ict-ve-{coupling}")
    model = build(row.training.design, ImageShape(1, 8, 10))
    assert row.cost.parameters == sum(p.numel() for p in model.parameters())
    forward = operations(model.network)
    own = sum(operations(m) for m in model.coupling.modules() if isinstance(m, Network))
    # generator, mu 0.5: half of the images ask the model once more.
    predictions = 0.5 if "generator" in coupling else 0
    assert row.cost.flops == pytest.approx((4 + predictions) * forward + 3 * own, rel=2e-3)


def operations(network):
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], with_flops=True) as profiled:
        network(torch.zeros(1, 1, 8, 8), torch.zeros(1), None)
    return sum(event.flops for event in profiled.key_averages() if event.key in PRODUCTS)


def test_summary_has_a_column_per_heading(small):
    row = find([small], "tiny/digits-ict-ve-ot")
    line = summary(row, tflops=0.5)
    assert (line["table"], line["coupling"]) == ("tiny", "ot")
    assert line["steps × batch"] == "1,000 × 32"
    assert line["parameters"] == f"{row.cost.parameters / 1e6:.1f} M"
    assert float(line["GPU-hours"]) == pytest.approx(row.cost.flops * 32_000 / 0.5e12 / 3600, rel=1e-2)
    assert line["published FID"] == ""


def test_settings_without_a_published_source_are_counted(small):
    row = find([small], "tiny/digits-ict-ve-ot")
    assert sorted(row.assumed) == ["batch", "steps"]
    assert summary(row, 1.0)["assumed"] == "2"


def test_settings_carry_the_source_of_their_group(small):
    found = {key: (value, source) for key, value, source in settings(find([small], "tiny/digits-ict-ve-ot"))}
    assert found["steps"] == ("1000", "assumed")
    assert found["network.channel_mult"] == ("[1, 2]", "table 3")
    assert found["ema.beta"] == ("0.99", "code")
    assert found["optimizer.lr"] == ("0.003", "")
    assert found["coupling.kind"] == ('"ot"', "")
    assert found["dataset.test_images"] == ("300", "")
    assert not any(key.startswith("sources") for key in found)


def test_unknown_and_ambiguous_names_are_refused(small, tmp_path):
    with pytest.raises(UserError, match=r"no row of this name; close: tiny/digits-ict-ve-ot"):
        find([small], "tiny/digits-ict-ve-oz")
    other = tmp_path / "other.yaml"
    other.write_text(small.read_text())
    with pytest.raises(UserError, match=r"more than one row: tiny/digits-ict-ve-ot, other/digits-ict-ve-ot"):
        find([small, other], "digits-ict-ve-ot")
    assert find([small, other], "other/digits-ict-ve-ot").table == "other"


def test_images_of_ones_own_have_no_cost_before_they_are_prepared(small, params_content):
    params_content["datasets"]["mine"] = {"kind": "images", "path": "p", "resolution": 8}
    params_content["table1"]["datasets"] = ["mine"]
    small.write_text(yaml.safe_dump(params_content))
    row = next(rows([small]))
    assert row.cost is None
    assert summary(row, 1.0)["parameters"] == ""


def test_network_that_does_not_fit_is_named(small, params_content):
    params_content["recipes"]["ict"]["network"]["model_channels"] = 18
    small.write_text(yaml.safe_dump(params_content))
    with pytest.raises(UserError, match=r"recipes\.ict\.network: 18 channels cannot be normalised in groups"):
        summary(next(rows([small])), 1.0)


@pytest.mark.parametrize(
    ("paper", "name", "parameters"),
    [
        ("ict", "cifar10-ict-ve-independent", 56_395_523),
        ("ict", "imagenet64-ict-ve-independent", 282_168_003),
        ("ect", "imagenet64-ecm-s-ve-independent", 280_209_253),
        ("ect", "cifar10-ecm-1hour-ve-independent", 55_732_739),
        ("vct", "cifar10-vct-ict-ve-ot", 55_732_739),
        ("vct", "cifar10-vct-ict-ve-vae", 55_732_739 + 1_562_246),
        ("gc", "cifar10-gc-ict-ve-generator", 34_711_811),
        ("gc", "celeba64-gc-ict-ve-ot", 59_582_723),
        ("gc", "imagenet32-gc-ict-ve-independent", 39_479_683),
    ],
)
def test_parameters_are_those_of_the_published_networks(paper, name, parameters):
    """As counted in the papers' codes; with VCT's coupling, its small encoder as well.

    iCT's ADM, without adaptive normalisation, lacks 769 weights for each of its blocks' 17,856 channels;
    CM's has 295,899,267.
    """
    params = resolve(PAPERS / f"{paper}.yaml", "paper")
    (cell,) = {cell.model_copy(update={"seed": 0}) for cell in params.cells(name)}
    assert Row(paper, cell, params.training(cell), params.sample.nfe).cost.parameters == parameters
