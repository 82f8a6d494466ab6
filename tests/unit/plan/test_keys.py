"""Keys change with what they stand for and with nothing else; folders are named by them."""

import copy
import re
from pathlib import Path

import pytest

from couplet.config import Params, Training
from couplet.config.layout import Layout, checkpoint_name
from couplet.config.recipes import Recipe
from couplet.config.sources import code_of

WEIGHTS = {
    "cell.seed": 1,
    "cell.kernel": "li",
    "cell.dataset": "other",
    "cell.coupling": "other",
    "dataset.test_images": 301,
    "recipe.steps": 5,
    "recipe.batch": 5,
    "recipe.flip": True,
    "recipe.conditional": True,
    "recipe.sigma_min": 0.003,
    "recipe.sigma_max": 81.0,
    "recipe.sigma_data": 0.6,
    "recipe.boundary.training": False,
    "recipe.schedule.s1": 640,
    "recipe.schedule.p_mean": -0.8,
    "recipe.distance.c": 0.06,
    "recipe.weighting": "karras",
    "recipe.teacher": "ema",
    "recipe.network.dropout": 0.1,
    "recipe.network.model_channels": 16,
    "recipe.optimizer.lr": 2e-3,
    "recipe.optimizer.betas": [0.9, 0.99],
    "recipe.learning_rate.warmup": 5,
    "recipe.ema.beta": 0.9,
    "recipe.clip_norm": 200.0,
    "recipe.nonfinite_gradients": "zero",
    "recipe.init_from": "edm.safetensors",
    "recipe.frozen_from": "model.safetensors",
    "coupling.kl_weight": 10.0,
    "coupling.encoder.num_blocks": 2,
    "train.snapshots": 7,
    "train.precision": "bf16",
    "train.compile": True,
}
"""Settings that decide the weights, or which of them are kept, each with another value."""

REST = {
    "recipe.published_as": "iCT",
    "recipe.sources": {"steps": "Table 6"},
    "recipe.mid_sigmas": [0.5],
    "recipe.boundary.sampling": False,
    "train.log_every": 7,
    "train.save_every": 7,
    "train.microbatch": 2,
}
"""Settings that leave the weights as they are."""


def changed(training, dotted, value):
    content = copy.deepcopy(training.model_dump(mode="json"))
    *parents, last = dotted.split(".")
    place = content
    for parent in parents:
        place = place[parent]
    assert place[last] != value
    place[last] = value
    return Training.model_validate(content)


@pytest.mark.parametrize("dotted", WEIGHTS)
def test_key_changes_with_the_weights(make_training, dotted):
    training = make_training("vae")
    assert changed(training, dotted, WEIGHTS[dotted]).key != training.key


@pytest.mark.parametrize("dotted", REST)
def test_key_does_not_change_with_the_rest(make_training, dotted):
    training = make_training("vae")
    assert changed(training, dotted, REST[dotted]).key == training.key


def test_every_setting_of_a_recipe_is_in_one_of_the_lists():
    named = {dotted.split(".")[1] for dotted in (*WEIGHTS, *REST) if dotted.startswith("recipe.")}
    assert named == set(Recipe.model_fields)


def test_all_keys_differ(make_training):
    training = make_training("vae")
    keys = {changed(training, dotted, value).key for dotted, value in WEIGHTS.items()}
    assert len(keys | {training.key}) == len(WEIGHTS) + 1


def test_key_is_that_of_the_time_before_precision_could_be_chosen(make_training):
    """Defaults are left out, so that what is trained already is found again."""
    assert not {"precision", "compile", "microbatch"} & set(make_training().deciding["train"])


def test_key_does_not_depend_on_how_a_number_is_written(make_training):
    assert make_training(sigma_max=80).key == make_training(sigma_max=80.0).key


@pytest.fixture
def layout(params_content):
    """The folders of the repository's file with one dotted key changed."""

    def make(dotted=None, value=None):
        content = copy.deepcopy(params_content)
        if dotted:
            *parents, last = dotted.split(".")
            place = content
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = value
        return Layout(Params.model_validate(content), Path("results"))

    return make


def folders(layout):
    cell = layout.params.experiment.model_copy(update={"coupling": "vae"})
    return {
        "data": layout.data("digits"),
        "features": layout.features("digits", "classifier"),
        "reference": layout.reference("digits", "classifier"),
        "run": layout.run(cell),
        "train": layout.train(cell),
        "evaluation": layout.evaluation(cell, "classifier"),
    }


def test_names_of_folders(layout):
    found = folders(layout())
    assert re.fullmatch(r"results/runs/digits-ict-ve-vae-s0-[0-9a-f]{8}", str(found["run"]))
    assert found["train"].parent == found["evaluation"].parent == found["run"]
    assert found["data"].parent == Path("results/data")
    assert found["data"].name.startswith("digits-")
    assert len(set(found.values())) == len(found)


@pytest.mark.parametrize(
    ("dotted", "value", "moved"),
    [
        ("datasets.digits.test_images", 100, "data features reference run train evaluation"),
        ("features.classifier.steps", 5, "features reference evaluation"),
        ("recipes.ict.steps", 5, "run train evaluation"),
        ("recipes.ict.mid_sigmas", [0.5], "evaluation"),
        ("recipes.ict.boundary.sampling", False, "evaluation"),
        ("couplings.vae.kl_weight", 5.0, "run train evaluation"),
        ("couplings.generator.mu", 0.25, ""),
        ("select.samples", 500, "evaluation"),
        ("select.split", "train", "evaluation"),
        ("raw", "originals", ""),
        ("sample.samples", 500, "evaluation"),
        ("evaluate.metrics.kid.subsets", 5, "evaluation"),
        ("train.log_every", 5, ""),
        ("threads", 2, ""),
        ("recipes.ict.published_as", "ECM", ""),
        ("table1.seeds", [5], ""),
    ],
)
def test_a_changed_setting_moves_what_depends_on_it(layout, dotted, value, moved):
    before, after = folders(layout()), folders(layout(dotted, value))
    under_run = {"train", "evaluation"}
    found = {name for name in before if before[name] != after[name]}
    own = {name for name in found if before[name].name != after[name].name}
    assert found == set(moved.split())
    assert found - own <= under_run  # a folder moves with its run, else by a new name of its own


def test_names_of_checkpoints_sort_like_steps():
    steps = [0, 5, 50, 999, 1000, 400_000]
    names = [checkpoint_name(step) for step in steps]
    assert sorted(names) == names
    assert all(str(step) in name for step, name in zip(steps, names, strict=True))


@pytest.mark.parametrize(
    ("stage", "moved"),
    [
        ("prepare", "data features reference run train evaluation"),
        ("features", "features reference evaluation"),
        ("reference", "features reference evaluation"),
        ("train", "run train evaluation"),
        ("select", "evaluation"),
        ("sample", "evaluation"),
        ("evaluate", "evaluation"),
        ("table", ""),
    ],
)
def test_edited_code_moves_what_it_makes(layout, monkeypatch, stage, moved):
    before, key = folders(layout()), layout().table_key()
    monkeypatch.setattr(
        "couplet.config.layout.code_of", lambda name: "edited" if name == stage else code_of(name)
    )
    after = folders(layout())
    assert {name for name in before if before[name] != after[name]} == set(moved.split())
    assert layout().table_key() != key


@pytest.mark.parametrize(
    ("dotted", "value", "changes"),
    [
        ("table1.seeds", [5], True),
        ("couplings.vae.kl_weight", 5.0, True),
        ("evaluate.metrics.kid.subsets", 5, True),
        ("recipes.ict.published_as", "ECT ECM", True),  # a column
        ("recipes.ecm.steps", 5, False),  # of no cell
        ("threads", 2, False),
        ("coupling", "vae", False),
    ],
)
def test_key_of_a_table(layout, dotted, value, changes):
    assert (layout(dotted, value).table_key() != layout().table_key()) == changes


def test_a_row_has_a_key_of_its_own(layout):
    made = layout()
    assert made.table_key("digits-ict-ve-vae") != made.table_key() != made.table_key("digits-ict-ve-ot")
