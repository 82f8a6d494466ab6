"""The repository's own file, the cells of its grid, and what overrides do to them."""

from pathlib import Path

import pytest
import yaml

from couplet.config.base import Invalid
from couplet.config.couplings import CouplingConfig
from couplet.config.layers import merge
from couplet.config.params import Params
from couplet.config.resolve import resolve

PARAMS = Path(__file__).parents[3] / "params.yaml"


@pytest.fixture
def params(params_content):
    """The checked parameters with the given overrides of recipe ict."""

    def make(overrides=(), **changes):
        params_content["recipes"]["ict"]["overrides"] = list(overrides)
        return Params.model_validate(params_content | changes)

    return make


@pytest.fixture
def resolved(params_content, tmp_path):
    """The parameters of a file with the given content over the repository's, at a scale."""

    def make(scale=None, **changes):
        path = tmp_path / "params.yaml"
        path.write_text(yaml.safe_dump(params_content | changes))
        return resolve(path, scale)

    return make


def training(params, **names):
    return params.training(params.experiment.model_copy(update=names))


def test_the_repository_s_file_is_right(params_content):
    params = resolve(PARAMS)
    grid = params_content["table1"]
    cells = params.cells()
    assert len(cells) == len({str(cell) for cell in cells})
    assert len(cells) == len(grid["couplings"]) * len(grid["seeds"])
    for cell in cells:
        assert params.training(cell).cell == cell
        assert params.training(cell).recipe.steps == params_content["recipes"]["ict"]["steps"]


def test_smoke_scale_of_the_repository_s_file_is_small(params_content):
    smoke, small = (resolve(PARAMS, scale) for scale in ("smoke", "small"))
    assert resolve(PARAMS).scale == "small"
    assert len(small.cells()) == 3 * len(smoke.cells())
    assert training(smoke).recipe.steps < 50 < training(small).recipe.steps
    plain = Params.model_validate(params_content)
    assert [plain.training(c) for c in plain.cells()] == [small.training(c) for c in small.cells()]


def test_grid_is_every_combination(params):
    grid = {
        "datasets": ["digits"],
        "recipes": ["ict"],
        "kernels": ["ve", "li"],
        "couplings": ["ot", "vae"],
        "seeds": [3, 1, 2],
    }
    cells = params(table1=grid).cells()
    assert {(c.kernel, c.coupling, c.seed) for c in cells} == {
        (kernel, coupling, seed)
        for kernel in ("ve", "li")
        for coupling in ("ot", "vae")
        for seed in (1, 2, 3)
    }


def test_name_of_a_kind_need_not_repeat_it(params):
    couplings = {"independent": None, "strong": {"kind": "vae", "kl_weight": 90}, "vae": {}}
    grid = {"datasets": ["digits"], "recipes": ["ict"], "couplings": ["strong"], "seeds": [0]}
    made = params(couplings=couplings, table1=grid)
    assert {name: c.kind for name, c in made.couplings.items()} == {
        "independent": "independent",
        "strong": "vae",
        "vae": "vae",
    }
    assert training(made, coupling="strong").coupling.kl_weight == 90


def test_override_applies_where_all_its_conditions_hold(params):
    made = params([{"when": {"coupling": "vae", "kernel": "li"}, "steps": 7}])
    found = {
        (coupling, kernel): training(made, coupling=coupling, kernel=kernel).recipe.steps
        for coupling in ("vae", "ot")
        for kernel in ("ve", "li")
    }
    assert found == {("vae", "li"): 7, ("vae", "ve"): 1500, ("ot", "li"): 1500, ("ot", "ve"): 1500}


def test_override_of_a_kind_holds_for_its_couplings_of_every_name(params):
    couplings = {"strong": {"kind": "vae", "kl_weight": 90}}
    made = params([{"when": {"coupling_kind": ["vae", "ot"]}, "steps": 7}], couplings=couplings)
    names = ("vae", "strong", "ot", "independent")
    assert {name: training(made, coupling=name).recipe.steps for name in names} == {
        "vae": 7,
        "strong": 7,
        "ot": 7,
        "independent": 1500,
    }


def test_later_override_wins(params):
    made = params(
        [
            {"when": {"dataset": "digits"}, "steps": 7, "batch": 8},
            {"when": {"coupling": "vae"}, "steps": 9},
        ]
    )
    assert (training(made, coupling="vae").recipe.steps) == 9
    assert (training(made, coupling="vae").recipe.batch) == 8
    assert (training(made, coupling="ot").recipe.steps) == 7


def test_override_of_one_setting_keeps_its_neighbours(params):
    made = params([{"when": {"kernel": "ve"}, "optimizer": {"lr": 0.5}, "network": {"dropout": 0.2}}])
    recipe = training(made).recipe
    assert (recipe.optimizer.kind, recipe.optimizer.lr) == ("radam", 0.5)
    assert (recipe.network.dropout, recipe.network.model_channels) == (0.2, 16)


def test_override_that_names_another_kind_replaces(params):
    """Nothing of the discretised schedule's s0 and s1 may be left, or it would be refused."""
    made = params([{"when": {"kernel": "ve"}, "schedule": {"kind": "continuous", "q": 4.0}}])
    schedule = training(made).recipe.schedule
    assert (schedule.kind, schedule.q, schedule.stages) == ("continuous", 4.0, 8)


def test_override_may_change_the_coupling(params):
    made = params(
        [
            {"when": {"coupling": "vae"}, "coupling": {"kl_weight": 3.0}},
            {"when": {"coupling": "vae"}, "coupling": {"encoder": {"num_blocks": 2}}},
        ]
    )
    coupling = training(made, coupling="vae").coupling
    assert coupling.kl_weight == 3
    assert (coupling.encoder.num_blocks, coupling.encoder.model_channels) == (2, 8)
    assert training(made, coupling="generator").coupling == made.couplings["generator"]
    assert made.couplings["vae"].kl_weight == 10


def test_override_may_name_several(params):
    made = params([{"when": {"coupling": ["vae", "ot"]}, "steps": 7}])
    found = {name: training(made, coupling=name).recipe.steps for name in made.couplings}
    assert {name for name, steps in found.items() if steps == 7} == {"vae", "ot"}
    assert set(found.values()) == {7, 1500}


SCALES = {
    "smoke": {
        "every_recipe": {
            "steps": 7,
            "network": {"model_channels": 4},
            "overrides": [{"when": {"coupling": "vae"}, "coupling": {"kl_weight": 3.0}}],
        },
        "recipes": {"ict": {"batch": 8}},
        "couplings": {"generator": {"mu": 0.25}},
        "table1": {"seeds": [5]},
        "sample": {"samples": 16},
        "probes": {"gradient": {"batches": 4}},
    },
    "full": None,
}


def test_scale_is_a_layer_over_every_section(resolved, params_content):
    params_content["recipes"]["ict"]["overrides"] = [{"when": {"kernel": "ve"}, "steps": 9, "batch": 9}]
    written, made = resolved(scales=SCALES), resolved("smoke", scales=SCALES)
    assert training(written).recipe.steps == 9
    recipe = training(made).recipe
    assert (recipe.steps, recipe.batch) == (7, 8)  # later layers win, over overrides too
    assert (recipe.network.model_channels, recipe.network.channel_mult) == (4, (1, 2))
    assert training(made, coupling="vae").coupling.kl_weight == 3
    assert training(made, coupling="generator").coupling.mu == 0.25
    assert made.sample.samples == 16
    assert made.sample.nfe == written.sample.nfe
    assert (made.probes["gradient"].batches, written.probes["gradient"].batches) == (4, 32)
    assert made.probes["transport"] == written.probes["transport"]
    assert {cell.seed for cell in made.cells()} == {5}
    assert len(made.cells()) == len(written.cells()) / 3


def test_every_recipe_is_laid_over_recipes_of_the_file_itself(resolved):
    made = resolved(every_recipe={"steps": 7})
    assert {training(made, recipe=name).recipe.steps for name in made.recipes} == {7}


def test_scale_that_changes_nothing_keeps_every_setting(resolved):
    plain, full = resolved(), resolved("full", scales=SCALES)
    assert [plain.training(c) for c in plain.cells()] == [full.training(c) for c in full.cells()]


def test_scale_given_to_resolve_wins_over_the_file(resolved):
    assert resolved(scale=None, scales=SCALES).scale is None
    assert resolved("smoke", scales=SCALES).sample.samples == 16


def test_recipe_is_a_mapping_or_a_list_of_layers(resolved, params_content):
    params_content["recipes"]["ict"] = [params_content["recipes"]["ict"], {"steps": 8}, {"batch": 8}]
    recipe = training(resolved()).recipe
    assert (recipe.steps, recipe.batch, recipe.network.model_channels) == (8, 8, 16)


def test_bare_string_stands_for_a_kind(resolved, params_content):
    params_content["recipes"]["ict"] |= {"weighting": "karras", "optimizer": "adam"}
    params_content["couplings"]["plain"] = "independent"
    made = resolved()
    recipe = training(made, coupling="plain").recipe
    assert (recipe.weighting.kind, recipe.optimizer.kind) == ("karras", "adam")
    assert training(made, coupling="plain").coupling.kind == "independent"


def test_layer_adds_to_a_kind_that_is_a_bare_string(resolved, params_content):
    params_content["recipes"]["ict"]["optimizer"] = "adam"
    made = resolved("s", scales={"s": {"every_recipe": {"optimizer": {"lr": 0.5}}}})
    optimizer = training(made).recipe.optimizer
    assert (optimizer.kind, optimizer.lr) == ("adam", 0.5)


def test_kernels_and_probes_have_names_of_their_own(resolved):
    made = resolved(kernels={"straight": {"kind": "li"}}, probes={"few": {"kind": "gradient", "batches": 3}})
    assert training(made, kernel="straight").kernel.kind == "li"
    assert training(made, kernel="ve").kernel.kind == "ve"
    assert made.probe_named("few").batches == 3
    assert made.probes_of(made.experiment)[0] == "few"


def test_metrics_are_named_and_may_repeat_a_kind(resolved):
    metrics = {"kid": {"subsets": 5}, "few": {"kind": "kid", "subsets": 2}, "fd": None}
    made = resolved(evaluate={"metrics": metrics}).measurement(resolved().experiment).evaluate.metrics
    assert {name: metric.kind for name, metric in made.items()} == {"kid": "kid", "few": "kid", "fd": "fd"}
    assert made["few"].subsets == 2


def test_table_is_the_union_of_its_grids(params):
    grid = {"datasets": ["digits"], "recipes": ["ict"], "seeds": [0]}
    grids = [
        {**grid, "couplings": ["ot", "vae"]},
        {**grid, "couplings": ["vae", "generator"], "extractors": ["classifier", "small"]},
    ]
    features = {"classifier": {}, "small": {"kind": "classifier", "features": 8}}
    made = params(table1=grids, features=features)
    assert [cell.coupling for cell in made.cells()] == ["ot", "vae", "generator"]
    assert [(cell.coupling, extractor) for cell, extractor in made.measured()] == [
        ("ot", "classifier"),
        ("vae", "classifier"),
        ("vae", "small"),
        ("generator", "classifier"),
        ("generator", "small"),
    ]
    assert made.extractor_named("small").features == 8


def test_part_of_a_table_is_a_row_or_the_cells_whose_names_begin_so(params):
    names = ["vae", "vae-2"]
    made = params(
        couplings={"vae": {}, "vae-2": {"kind": "vae"}, "independent": {}},
        table1={"datasets": ["digits"], "recipes": ["ict"], "couplings": names, "seeds": [0, 1]},
    )
    assert len(made.cells("digits")) == len(made.cells("digits-ict")) == 4
    assert {cell.coupling for cell in made.cells("digits-ict-ve-vae")} == {"vae"}
    with pytest.raises(Invalid, match="did you mean 'digits-ict-ve-vae'"):
        made.cells("digits-ict-ve-va")


@pytest.mark.parametrize(
    ("base", "changes", "wanted"),
    [
        ({"a": 1, "b": 2}, {"b": 3}, {"a": 1, "b": 3}),
        ({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}}, {"a": {"x": 1, "y": 3}}),
        ({"a": {"kind": "p", "x": 1}}, {"a": {"x": 2}}, {"a": {"kind": "p", "x": 2}}),
        ({"a": {"kind": "p", "x": 1}}, {"a": {"kind": "p", "y": 2}}, {"a": {"kind": "p", "x": 1, "y": 2}}),
        ({"a": {"kind": "p", "x": 1}}, {"a": {"kind": "q"}}, {"a": {"kind": "q"}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": {"x": 1}}, {"a": None}, {"a": None}),
        ({}, {"a": {"x": 1}}, {"a": {"x": 1}}),
        ({"a": "p"}, {"a": {"x": 1}}, {"a": {"kind": "p", "x": 1}}),
        ({"a": "p"}, {"a": {"kind": "q"}}, {"a": {"kind": "q"}}),
    ],
)
def test_merge(base, changes, wanted):
    before = repr((base, changes))
    assert merge(base, changes) == wanted
    assert repr((base, changes)) == before


def test_snapshots_are_equally_spaced_and_end_at_the_end(make_training):
    assert make_training(steps=12, train={"snapshots": 4}).snapshot_steps == (3, 6, 9, 12)
    assert make_training(steps=10, train={"snapshots": 3}).snapshot_steps == (3, 6, 10)
    assert make_training(steps=2, train={"snapshots": 6}).snapshot_steps == (1, 2)


def test_settings_cannot_be_changed_after_the_check(make_training):
    with pytest.raises(ValueError, match="frozen"):
        make_training().recipe.steps = 3


def test_settings_survive_json(make_training):
    for kind in sorted(CouplingConfig.family):
        training = make_training(kind)
        again = type(training).model_validate_json(training.model_dump_json())
        assert again == training
