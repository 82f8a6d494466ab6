"""Parameters changed from the command line."""

import pytest
import yaml

from couplet.config import read_params
from couplet.config.changes import changed_params
from couplet.errors import UserError


@pytest.fixture
def change(tmp_path, params_content):
    """The parameters of a run with names, recipe settings and ``KEY=VALUE`` changes."""

    def make(names=None, recipe=None, changes=(), content=None, scale=None):
        path = tmp_path / "params.yaml"
        path.write_text(yaml.safe_dump(content or params_content))
        return changed_params(path, scale, names or {}, recipe or {}, changes, tmp_path / "out")

    return make


def resolved(params):
    return params.training(params.experiment)


def test_names_replace_those_of_the_file(change):
    params = change({"coupling": "vae", "seed": 5, "kernel": "li", "recipe": None})
    assert str(params.experiment) == "digits-ict-li-vae-s5"
    assert [str(cell) for cell in params.cells()] == ["digits-ict-li-vae-s5"]


def test_settings_of_the_recipe_win_over_its_overrides(change, params_content):
    params_content["recipes"]["ict"]["overrides"] = [{"when": {"coupling": "vae"}, "steps": 7}]
    params = change({"coupling": "vae"}, {"steps": 3, "batch": None})
    assert (resolved(params).recipe.steps, resolved(params).recipe.batch) == (3, 64)


def test_settings_of_the_recipe_win_over_its_scale(change, params_content):
    params_content["scales"] = {"smoke": {"recipe": {"steps": 7, "batch": 8}}}
    params = change(recipe={"steps": 3}, scale="smoke")
    assert (resolved(params).recipe.steps, resolved(params).recipe.batch, params.scale) == (3, 8, "smoke")


def test_dotted_keys_take_yaml_values(change):
    params = change(
        changes=["recipes.ict.mid_sigmas=[0.5, 0.1]", "train.snapshots=2", "recipes.ict.flip=true"]
    )
    recipe = resolved(params).recipe
    assert (recipe.mid_sigmas, recipe.flip, params.train.snapshots) == ((0.5, 0.1), True, 2)


def test_run_keeps_the_parameters_it_was_made_with(change, tmp_path):
    params = change({"coupling": "ot"}, {"steps": 3})
    assert read_params(tmp_path / "out" / "params.yaml") == params
    assert change({"coupling": "ot"}, {"steps": 3}) == params
    with pytest.raises(UserError, match="other parameters"):
        change({"coupling": "ot"}, {"steps": 4})
    assert read_params(tmp_path / "out" / "params.yaml") == params


@pytest.mark.parametrize("left_out", ["kernel", "seed", "threads", "train", "sample"])
def test_keys_with_a_default_may_be_left_out(change, params_content, left_out):
    del params_content[left_out]
    assert resolved(change(recipe={"steps": 3})).recipe.steps == 3


def test_empty_overrides_may_be_added_to(change, params_content):
    params_content["recipes"]["ict"]["overrides"] = None
    assert resolved(change(recipe={"steps": 3})).recipe.steps == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"names": {"coupling": "vea"}},
        {"names": {"recipe": "itc"}, "recipe": {"steps": 3}},
        {"recipe": {"steps": 0}},
        {"changes": ["recipes.ict.steps"]},
        {"changes": ["recipes.itc.steps=3"]},
        {"changes": ["recipes.ict.steps.more=3"]},
        {"changes": ["recipes.ict.stepz=3"]},
        {"changes": ["recipes.ict.steps=many"]},
        {"changes": ["recipes.ict.mid_sigmas=[0.5"]},
        {"changes": ["=3"]},
    ],
    ids=str,
)
def test_wrong_changes_are_refused_and_leave_no_file(change, tmp_path, wrong):
    with pytest.raises(UserError) as caught:
        change(**wrong)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "params.yaml").exists()


def test_steps_win_over_a_scale_that_changes_nothing(tmp_path, params_content):
    params_content |= {"scale": "small", "scales": {"small": None}}
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(params_content))
    changed = changed_params(path, None, {}, {"steps": 7, "batch": None}, [], tmp_path / "run")
    assert changed.training(changed.experiment).recipe.steps == 7
