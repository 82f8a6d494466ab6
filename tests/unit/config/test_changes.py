"""Layers in their order, changes from the command line, and the file that `couplet run` keeps."""

import os
from pathlib import Path

import pytest

from couplet.config.resolve import resolve, settings_with_origins, standalone
from couplet.config.yaml12 import dump_yaml
from couplet.errors import UserError


@pytest.fixture
def write(tmp_path, params_content):
    """Writes parameter files beside base.yaml, the repository's parameters; returns the path of the last."""

    def make(**files):
        for name, content in {"base": params_content, **files}.items():
            path = tmp_path / f"{name}.yaml"
            path.write_text(dump_yaml(content))
        return path

    return make


def training(params):
    return params.training(params.experiment)


def test_names_are_changes_like_others(write):
    names = ["coupling=vae", "seed=5", "kernel=li"]
    assert str(resolve(write(), None, names).experiment) == "digits-ict-li-vae-s5"


def test_dotted_keys_take_yaml_values(write):
    changes = ["recipes.ict.mid_sigmas=[0.5, 0.1]", "train.snapshots=2", "recipes.ict.flip=true"]
    params = resolve(write(), None, [*changes, "recipes.ict.optimizer.lr=3e-3"])
    recipe = training(params).recipe
    assert (recipe.mid_sigmas, recipe.flip, params.train.snapshots) == ((0.5, 0.1), True, 2)
    assert recipe.optimizer.lr == 0.003


def test_dotted_keys_know_names_with_dots(write, params_content):
    params_content["couplings"] |= {
        "generator-mu0.3": {"kind": "generator", "mu": 0.3},
        "generator-mu0": {"kind": "generator", "mu": 0.0},
    }
    changes = ["couplings.generator-mu0.3.mu=0.4", "couplings.generator-mu0.mu=0.1"]
    changed = resolve(write(), None, changes).couplings
    assert (changed["generator-mu0.3"].mu, changed["generator-mu0"].mu) == (0.4, 0.1)


def test_a_change_of_a_change_is_the_last(write):
    assert training(resolve(write(), None, ["recipes.ict.steps=3", "recipes.ict.steps=4"])).recipe.steps == 4


def test_changed_grid_is_laid_over_each_grid(write, params_content):
    grid = params_content["table1"]
    params_content["table1"] = [grid, {**grid, "kernels": ["li"]}]
    params = resolve(write(), None, ["table1.seeds=[7]"])
    assert {(cell.kernel, cell.seed) for cell in params.cells()} == {("ve", 7), ("li", 7)}


LAYERS = {
    "base": lambda files: files["base"]["recipes"]["ict"].update(steps=1),
    "override of the base": lambda files: files["base"]["recipes"]["ict"].update(
        overrides=[{"when": {"kernel": "ve"}, "steps": 2}]
    ),
    "file": lambda files: files["over"].setdefault("recipes", {}).update(ict={"steps": 3}),
    "override of the file": lambda files: (
        files["over"]
        .setdefault("recipes", {})
        .update(ict=[{"steps": 3}, {"overrides": [{"when": {"dataset": "digits"}, "steps": 4}]}])
    ),
    "recipe of the scale": lambda files: files["over"]["scales"]["s"].update(recipes={"ict": {"steps": 5}}),
    "every recipe of the file": lambda files: files["over"].update(every_recipe={"steps": 6}),
    "every recipe of the scale": lambda files: files["over"]["scales"]["s"].update(every_recipe={"steps": 7}),
    "override of it": lambda files: files["over"]["scales"]["s"].update(
        every_recipe={"steps": 7, "overrides": [{"when": {"coupling": "independent"}, "steps": 8}]}
    ),
}
"""Where `steps` of the experiment may be set, each layer before those that win over it."""


@pytest.mark.parametrize("last", range(len(LAYERS)), ids=list(LAYERS))
@pytest.mark.parametrize("change", [False, True], ids=["", "--set"])
def test_later_layers_win(write, params_content, last, change):
    """Each layer wins over all before it, and a change over all of them, scales and overrides included."""
    files = {"base": params_content, "over": {"base": "base.yaml", "scales": {"s": {}}}}
    for add in list(LAYERS.values())[: last + 1]:
        add(files)
    params = resolve(write(**files), "s", ["recipes.ict.steps=99"] if change else [])
    assert training(params).recipe.steps == (99 if change else last + 1)


def test_a_scale_lies_over_the_scale_of_that_name_of_its_base(write, params_content):
    override = {"when": {"kernel": "ve"}, "steps": 5, "batch": 5}
    params_content["scales"] = {"s": {"every_recipe": {"overrides": [override]}, "sample": {"samples": 9}}}
    over = {"base": "base.yaml", "scales": {"s": {"every_recipe": {"steps": 6}}}}
    params = resolve(write(over=over), "s")
    recipe = training(params).recipe
    assert (recipe.steps, recipe.batch, params.sample.samples) == (6, 5, 9)


def test_a_change_wins_over_the_recipe_s_overrides_of_the_coupling(write, params_content):
    override = {"when": {"coupling": "vae"}, "coupling": {"kl_weight": 3.0}}
    params_content["recipes"]["ict"]["overrides"] = [override]
    changes = ["coupling=vae", "recipes.ict.overrides=[{when: {coupling: vae}, coupling: {kl_weight: 4}}]"]
    assert training(resolve(write(), None, changes)).coupling.kl_weight == 4


def test_a_change_of_a_recipe_s_base_reaches_the_recipe(write, params_content):
    params_content["recipes"]["mine"] = {"base": "ict", "batch": 8}
    recipe = training(resolve(write(), None, ["recipe=mine", "recipes.ict.steps=3"])).recipe
    assert (recipe.steps, recipe.batch) == (3, 8)


def test_a_change_of_a_scale_s_section_wins(write):
    scales = {"s": {"sample": {"samples": 9}, "couplings": {"generator": {"mu": 0.1}}}}
    changes = ["sample.samples=11", "couplings.generator.mu=0.9"]
    params = resolve(write(over={"base": "base.yaml", "scales": scales}), "s", changes)
    assert (params.sample.samples, params.couplings["generator"].mu) == (11, 0.9)


@pytest.mark.parametrize("left_out", ["kernel", "seed", "threads", "train", "sample", "datasets", "features"])
def test_keys_with_a_default_may_be_left_out(write, params_content, left_out):
    del params_content[left_out]
    params_content["select"]["split"] = "train"
    assert training(resolve(write(), None, ["recipes.ict.steps=3"])).recipe.steps == 3


def test_empty_overrides_may_be_added_to(write, params_content):
    params_content["recipes"]["ict"]["overrides"] = None
    assert training(resolve(write(), None, ["recipes.ict.steps=3"])).recipe.steps == 3


def test_changes_win_over_a_scale_that_changes_nothing(write):
    path = write(over={"base": "base.yaml", "scale": "small", "scales": {"small": None}})
    assert training(resolve(path, None, ["recipes.ict.steps=7"])).recipe.steps == 7


@pytest.mark.parametrize(
    "changes",
    [
        ["coupling=vea"],
        ["recipe=itc", "recipes.itc.steps=3"],
        ["recipes.ict.steps=0"],
        ["recipes.ict.steps"],
        ["recipes.itc.steps=3"],
        ["recipes.ict.steps.more=3"],
        ["recipes.ict.stepz=3"],
        ["recipes.ict.steps=many"],
        ["recipes.ict.steps=null"],
        ["recipes.ict=3"],
        ["recipes.ict=[3]"],
        ["recipes=3"],
        ["recipes=[]"],
        ["recipes.ict.mid_sigmas=[0.5"],
        ["recipes.ict.optimizer={lr: 1, lr: 2}"],
        ["couplings.generator.mu=[1]"],
        ["couplings=3"],
        ["table1=3"],
        ["table1.seeds=3"],
        ["every_recipe=3"],
        ["every_recipe.stepz=3"],
        ["set.recipes.ict.steps=3"],
        ["scales.small.seed=3"],
        ["base=other.yaml"],
        ["cuplings.generator.mu=0.5"],
        ["=3"],
        [".=3"],
        ["recipes..steps=3"],
        [""],
        ["seed=!!python/object:os.system {}"],
        ["seed=2026-01-01"],
        ["seed=1_000"],
    ],
    ids=str,
)
def test_wrong_changes_are_one_line(write, changes):
    for entry in (resolve, settings_with_origins, standalone):
        with pytest.raises(UserError) as caught:
            entry(write(), None, changes)
        assert "\n" not in str(caught.value)


def test_a_file_of_its_own_needs_no_other(write, tmp_path):
    """It holds a name with dots, text that looks like a number, layers of a scale and changes."""
    base = {"recipes": {"ict": {"sources": {"steps": "010", "batch": "3e3"}}}}
    files = {
        "middle": {"base": "base.yaml", **base},
        "over": {
            "base": "middle.yaml",
            "couplings": {"generator-mu0.3": {"kind": "generator", "mu": 0.3}},
            "scales": {"s": {"every_recipe": {"steps": 7}, "sample": {"samples": 9}}},
        },
    }
    path, changes = write(**files), ["coupling=generator-mu0.3", "recipes.ict.batch=8"]
    params = resolve(path, "s", changes)
    out = tmp_path / "elsewhere"
    out.mkdir()
    (out / "params.yaml").write_text(standalone(path, "s", changes))
    again = resolve(out / "params.yaml")
    assert again.experiment == params.experiment
    assert again.cells() == [params.experiment]
    assert training(again) == training(params)
    assert training(again).recipe.sources == {"steps": "010", "batch": "3e3"}
    assert again.measurement(again.experiment) == params.measurement(params.experiment)
    (again_changed,) = resolve(out / "params.yaml", None, ["recipes.ict.batch=16"]).cells()
    changed = resolve(out / "params.yaml", None, ["recipes.ict.batch=16"]).training(again_changed)
    assert (changed.recipe.batch, changed.recipe.steps) == (16, 7)


def test_origins_name_file_scale_change_or_default(write, tmp_path):
    scales = {"s": {"every_recipe": {"batch": 8}}}
    over = {"base": "base.yaml", "recipes": {"ict": {"steps": 7}}, "scales": scales}
    path = write(over=over)
    rows = {
        key: (value, origin)
        for key, value, origin in settings_with_origins(path, "s", ["recipes.ict.flip=true"])
    }
    assert rows["recipe.steps"] == (7, str(path))
    assert rows["recipe.batch"] == (8, f"{path}, scale s")
    assert rows["recipe.flip"] == (True, "--set")
    assert rows["recipe.network.model_channels"] == (16, str(tmp_path / "base.yaml"))
    assert rows["recipe.sigma_max"] == (80.0, "default")


def test_origins_follow_a_kind_to_the_layer_that_names_it(write, tmp_path, params_content):
    params_content["recipes"]["ict"] |= {"weighting": "karras", "schedule": {"kind": "continuous", "q": 3.0}}
    over = {"base": "base.yaml", "recipes": {"ict": {"schedule": {"kind": "discretised", "s0": 5}}}}
    path = write(over=over)
    rows = {
        key: origin for key, _, origin in settings_with_origins(path, None, ["recipes.ict.schedule.s1=9"])
    }
    assert rows["recipe.weighting.kind"] == str(tmp_path / "base.yaml")
    assert rows["recipe.schedule.kind"] == rows["recipe.schedule.s0"] == str(path)
    assert (rows["recipe.schedule.s1"], rows["recipe.schedule.rho"]) == ("--set", "default")


def test_base_is_relative_to_its_file_and_not_to_the_working_directory(write, tmp_path, monkeypatch):
    path = write(over={"base": "base.yaml"})
    monkeypatch.chdir("/")
    assert resolve(path).experiment == resolve(tmp_path / "base.yaml").experiment
    assert resolve(Path(os.path.relpath(path))).experiment == resolve(path).experiment
