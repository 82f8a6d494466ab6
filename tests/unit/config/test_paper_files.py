"""The papers' parameter files: every row resolves at every scale, and every setting says where it is from."""

from collections.abc import Mapping
from functools import cache
from itertools import product
from pathlib import Path

import pytest

from couplet.config.resolve import resolve
from couplet.config.yaml12 import read_yaml

PAPERS = {path.stem: path for path in sorted((Path(__file__).parents[3] / "workflow/papers").glob("*.yaml"))}
SCALES = ["paper", "small", "smoke"]
OURS = {"sources", "overrides", "when"}
"""Keys of a recipe that are no settings of a method."""


@cache
def params(paper, scale="paper"):
    return resolve(PAPERS[paper], scale)


def trainings(paper, scale="paper"):
    checked = params(paper, scale)
    return {cell.name: checked.training(cell) for cell in checked.cells()}


def leaves(draft, above=""):
    """Dotted keys of the settings in nested mappings; a list or an empty mapping is one."""
    for key, value in draft.items():
        if not above and key in OURS:
            continue
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}"


def covers(source, key):
    return key == source or key.startswith(f"{source}.")


def layers():
    """Every recipe and every override of a paper's own, with what they set and what they say of it."""
    for paper, path in PAPERS.items():
        for name, draft in read_yaml(path)["recipes"].items():
            yield f"{paper}: {name}", {}, draft
            for i, override in enumerate(draft.get("overrides", ())):
                yield f"{paper}: {name}: override {i}", draft, override


def test_there_is_a_file_for_every_paper():
    assert set(PAPERS) == {"ict", "vct", "gc", "ect"}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("paper", PAPERS)
def test_every_row_resolves_and_can_be_measured(paper, scale):
    checked = params(paper, scale)
    for cell, extractor in checked.measured():
        assert checked.training(cell).cell == cell
        measurement = checked.measurement(cell)
        assert checked.extractor_named(extractor)
        assert max(measurement.sample.nfe) <= 1 + len(measurement.mid_sigmas)
        # Data sets without a test split can only be scored on the training split.
        assert measurement.select.split == "train" or checked.dataset_named(cell.dataset).has_test


def test_rows_are_those_of_the_papers():
    grid = lambda *names: {"-".join(row) for row in product(*names)}  # noqa: E731
    mus = [f"generator-mu{mu}" for mu in ("0", "0.1", "0.3", "0.7", "0.9", "1")]
    expected = {
        "ict": grid(["cifar10", "imagenet64"], ["ict", "ict-deep"], ["ve"], ["independent"]),
        "vct": grid(
            ["fashion_mnist", "cifar10", "ffhq64", "imagenet64"],
            ["vct-ict", "vct-ecm"],
            ["ve", "li"],
            ["independent", "ot", "vae"],
        )
        | grid(["mnist"], ["vct-ict"], ["ve"], ["independent", "ot", "vae"]),
        "gc": grid(
            ["cifar10", "imagenet32", "celeba64", "church64"],
            ["gc-ict"],
            ["ve"],
            ["independent", "ot", "generator"],
        )
        | grid(["cifar10"], ["gc-ict"], ["ve"], mus)
        | grid(["cifar10"], ["gc-ect", "gc-ect-1hour"], ["ve"], ["independent", "generator-mu0.3"]),
        "ect": grid(
            ["cifar10"], [f"ecm-{run}" for run in ("1hour", "100k", "200k", "400k")], ["ve-independent"]
        )
        | grid(
            ["imagenet64"], [f"ecm-{size}" for size in ("s", "m", "l", "xl", "xl-1024")], ["ve-independent"]
        ),
    }
    for scale in SCALES:
        assert {paper: set(trainings(paper, scale)) for paper in PAPERS} == expected
    assert {paper: params(paper).sample.nfe for paper in PAPERS} == {
        "ict": (1, 2),
        "vct": (1, 2),
        "gc": (1,),
        "ect": (1, 2),
    }


def test_a_recipe_s_name_belongs_to_one_file():
    names = [name for path in PAPERS.values() for name in read_yaml(path)["recipes"]]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("where", "base", "layer"), [pytest.param(*layer, id=layer[0]) for layer in layers()]
)
def test_every_setting_has_a_source_and_every_source_a_setting(where, base, layer):
    keys, sources = list(leaves(layer)), layer.get("sources", {})
    assert all(isinstance(text, str) and text for text in sources.values())
    for key in keys:
        own = max((source for source in sources if covers(source, key)), key=len, default=None)
        assert own is not None, f"{where}: no source for {key}"
        # What the recipe says of its own value must not outlive the override.
        stale = [
            source for source in base.get("sources", {}) if covers(source, key) and len(source) > len(own)
        ]
        assert not stale, f"{where}: {stale} speaks of another value of {key}"
    for source in sources:
        told = keys or list(leaves(base))
        assert any(covers(source, key) for key in told), f"{where}: no setting {source}"


@pytest.mark.parametrize("scale", ["small", "smoke"])
@pytest.mark.parametrize("paper", PAPERS)
def test_a_scale_changes_the_size_and_not_the_method(paper, scale):
    for name, ours in trainings(paper, scale).items():
        theirs = trainings(paper)[name]
        for part in ("network", "schedule", "distance"):
            assert getattr(ours.recipe, part).kind == getattr(theirs.recipe, part).kind
        for part in ("weighting", "teacher", "boundary", "conditional", "flip", "clip_norm", "mid_sigmas"):
            assert getattr(ours.recipe, part) == getattr(theirs.recipe, part)
        assert ours.recipe.network.channel_mult == theirs.recipe.network.channel_mult
        assert ours.recipe.network.dropout == theirs.recipe.network.dropout
        assert ours.recipe.distance == theirs.recipe.distance
        assert ours.coupling.model_dump(exclude={"encoder"}) == theirs.coupling.model_dump(
            exclude={"encoder"}
        )
        if hasattr(ours.coupling, "encoder"):
            assert ours.coupling.encoder.model_channels < ours.recipe.network.model_channels
        assert ours.recipe.init_from is None


def test_iCT_deep_is_twice_as_deep_at_every_scale():
    for scale, data in product(SCALES, ["cifar10", "imagenet64"]):
        rows = trainings("ict", scale)
        shallow, deep = (rows[f"{data}-{name}-ve-independent"].recipe for name in ("ict", "ict-deep"))
        assert deep.network.num_blocks == 2 * shallow.network.num_blocks
        assert deep.network.model_copy(update={"num_blocks": shallow.network.num_blocks}) == shallow.network


def test_overrides_that_meet_in_a_row():
    """Values from the codes' configurations where several overrides hold at once."""
    gc, vct = trainings("gc"), trainings("vct")
    dropout = {name: row.recipe.network.dropout for name, row in gc.items()}
    assert dropout["cifar10-gc-ict-ve-independent"] == 0.3
    assert dropout["celeba64-gc-ict-ve-ot"] == (0.0, 0.0, 0.2, 0.2)
    assert dropout["imagenet32-gc-ict-ve-independent"] == (0.0, 0.2, 0.2)
    assert {d for name, d in dropout.items() if "gc-ict-ve-generator" in name} == {0.0}
    assert gc["imagenet32-gc-ict-ve-generator"].recipe.ema.start == 10_000
    assert gc["celeba64-gc-ict-ve-generator"].recipe.ema.start == 0
    assert gc["cifar10-gc-ict-ve-generator"].recipe.optimizer.lr == 1e-4
    assert gc["celeba64-gc-ict-ve-generator"].recipe.optimizer.lr == 8e-5
    for name, row in vct.items():
        assert row.recipe.clip_norm == (200.0 if name.endswith("vae") else None)
    kl = {name: row.coupling.kl_weight for name, row in vct.items() if name.endswith("vae")}
    assert kl["cifar10-vct-ict-ve-vae"] == kl["fashion_mnist-vct-ict-li-vae"] == 30.0
    assert kl["cifar10-vct-ecm-li-vae"] == kl["ffhq64-vct-ecm-ve-vae"] == 10.0
    assert kl["imagenet64-vct-ecm-li-vae"] == 90.0
    assert vct["imagenet64-vct-ecm-li-vae"].coupling.encoder.num_blocks == 2
    assert vct["cifar10-vct-ecm-li-vae"].coupling.encoder.num_blocks == 1
    ecm = vct["imagenet64-vct-ecm-li-ot"].recipe
    assert (ecm.schedule.q, ecm.schedule.stages, ecm.schedule.k, ecm.distance.c) == (4.0, 4, 8.0, 0.06)
    assert (ecm.weighting.kind, ecm.steps, ecm.sigma_min) == ("karras", 200_000, 0.003)


def test_batches_and_averages_of_ict_on_cifar10():
    """VCT's 512 of one device, as iCT's own section 3; 1,024 and 0.99993 belong to iCT's table 2."""
    rows = {**trainings("ict"), **trainings("vct")}
    found = {name: (row.recipe.batch, row.recipe.ema.beta) for name, row in rows.items() if "cifar10" in name}
    assert {found[f"cifar10-{name}-ve-independent"] for name in ("ict", "ict-deep")} == {(1024, 0.99993)}
    assert {value for name, value in found.items() if "vct-ict" in name} == {(512, 0.9999)}
    assert {row.coupling.parts for name, row in rows.items() if name.endswith("-ot")} == {1}


def test_ict_on_imagenet_has_no_adaptive_normalisation():
    for name in ("ict", "ict-deep"):
        for scale in SCALES:
            network = trainings("ict", scale)[f"imagenet64-{name}-ve-independent"].recipe.network
            assert (network.kind, network.adaptive_scale, network.noise_scale) == ("adm", False, 1.0)


def test_networks_that_start_from_published_weights():
    wanted = {
        name: row.recipe.init_from
        for paper in PAPERS
        for name, row in trainings(paper).items()
        if row.recipe.init_from is not None
    }
    assert {Path(path).parent for path in wanted.values()} == {Path("weights")}
    assert {Path(path).stem for path in wanted.values()} == {
        "edm-cifar10-32x32-uncond-vp",
        "edm-ffhq-64x64-uncond-vp",
        "edm2-img64-s-1073741-0.075",
        "edm2-img64-m-2147483-0.060",
        "edm2-img64-l-1073741-0.040",
        "edm2-img64-xl-0671088-0.040",
    }
    assert not any("-gc-ict-" in name or "-vct-ict-" in name or "-ict-ve-" in name for name in wanted)
