"""Files over a base, recipes like another, predictors from another training, and the repository's studies."""

from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from couplet.config import Invalid, Layout, read_params
from couplet.config.params import knows_scale
from couplet.config.schema import schema
from couplet.errors import UserError

ROOT = Path(__file__).parents[3]
STUDIES = sorted((ROOT / "workflow/studies").glob("[!_]*.yaml"))


@pytest.fixture
def write(tmp_path, params_content):
    """Writes files beside a base.yaml, which is the repository's parameters; returns the path of the last."""

    def make(**files):
        for name, content in {"base": params_content, **files}.items():
            path = tmp_path / f"{name}.yaml"
            path.parent.mkdir(exist_ok=True)
            path.write_text(yaml.safe_dump(content))
        return path

    return make


def training(params, **names):
    return params.training(params.experiment.model_copy(update=names))


def test_file_lies_over_its_base(write):
    over = {"base": "base.yaml", "recipes": {"ict": {"steps": 7}}, "table1": {"seeds": [5]}}
    params = read_params(write(over=over))
    assert training(params).recipe.steps == 7
    assert training(params).recipe.batch == 64
    assert [cell.seed for cell in params.cells()] == [5] * len(params.cells())


def test_base_of_a_base_and_its_place_beside_the_file(write, tmp_path, monkeypatch):
    middle = {"base": "base.yaml", "recipes": {"ict": {"steps": 7, "batch": 8}}}
    path = write(middle=middle, over={"base": "middle.yaml", "recipes": {"ict": {"steps": 9}}})
    monkeypatch.chdir("/")
    recipe = training(read_params(path)).recipe
    assert (recipe.steps, recipe.batch) == (9, 8)


def test_scale_names_another_base_and_changes_recipes_and_couplings_by_name(write):
    other = {"base": "base.yaml", "recipes": {"ict": {"batch": 16}}}
    scales = {
        "large": {
            "base": "other.yaml",
            "recipes": {"ict": {"steps": 99}},
            "couplings": {"generator": {"mu": 0.25}},
        }
    }
    path = write(other=other, over={"base": "base.yaml", "scales": scales})
    small, large = training(read_params(path)).recipe, read_params(path, "large")
    assert (small.steps, small.batch) == (1500, 64)
    assert (training(large).recipe.steps, training(large).recipe.batch) == (99, 16)
    assert training(large, coupling="generator").coupling.mu == 0.25
    assert knows_scale(path, "large")
    assert not knows_scale(path, "huge")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"over": {"base": 3}}, "base = 3: must be the path"),
        ({"over": {"base": "gone.yaml"}}, "gone.yaml: cannot be read"),
        ({"over": {"base": "over.yaml"}}, "leads back to"),
        ({"middle": {"base": "over.yaml"}, "over": {"base": "middle.yaml"}}, "leads back to"),
    ],
)
def test_wrong_base_is_named(write, files, message):
    with pytest.raises(UserError, match=message) as caught:
        read_params(write(**files))
    assert "\n" not in str(caught.value)


def test_recipe_like_another_lies_over_its_overrides_and_has_none_of_its_sources(write, params_content):
    params_content["recipes"]["ict"] |= {
        "sources": {"steps": "a paper"},
        "overrides": [{"when": {"coupling": "vae"}, "network": {"dropout": 0.5}, "batch": 8}],
    }
    params_content["recipes"]["mine"] = {"like": "ict", "network": {"dropout": 0.1}}
    params_content["recipes"]["next"] = {"like": "mine", "steps": 5}
    params = read_params(write())
    mine = training(params, recipe="mine", coupling="vae").recipe
    assert (mine.network.dropout, mine.batch, mine.steps) == (0.1, 8, 1500)
    assert (mine.published_as, mine.sources) == ("", {})
    assert training(params).recipe.published_as == "iCT iCT"
    following = training(params, recipe="next", coupling="vae").recipe
    assert (following.network.dropout, following.steps) == (0.1, 5)


@pytest.mark.parametrize("like", ["itc", "mine", 3])
def test_recipe_like_none_or_itself_is_refused(write, params_content, like):
    params_content["recipes"]["mine"] = {"like": like}
    with pytest.raises(UserError, match=r"recipes\.mine\.like = ") as caught:
        read_params(write())
    assert "allowed: " in str(caught.value)


FROZEN = {"kind": "generator", "predictor": "frozen", "mu": 1.0}


def test_frozen_predictor_from_another_training_is_part_of_the_folder_s_name(write, params_content, tmp_path):
    params_content["couplings"]["lent"] = {
        **FROZEN,
        "pretrained": {"coupling": "independent", "progress": 0.5},
    }
    params = read_params(write())
    cell = params.experiment.model_copy(update={"coupling": "lent", "seed": 3})
    lender, progress = params.pretrained(cell)
    assert (str(lender), progress) == ("digits-ict-ve-independent-s3", 0.5)
    assert params.pretrained(lender) is None
    before = Layout(params, tmp_path).run(cell)
    assert params.training(cell).key == read_params(write()).training(cell).key
    params_content["couplings"]["independent"] = {"kind": "ot"}
    after = read_params(write())
    # The same settings of its own, but another lender.
    assert after.training(cell).key == params.training(cell).key
    assert Layout(after, tmp_path).run(cell) != before


@pytest.mark.parametrize(
    ("coupling", "where"),
    [
        ({**FROZEN, "pretrained": {"coupling": "nobody"}}, "coupling"),
        ({**FROZEN, "pretrained": {"coupling": "independent", "recipe": "itc"}}, "recipe"),
        ({**FROZEN, "pretrained": {"coupling": "lent"}}, "coupling"),
    ],
)
def test_lender_that_is_none_is_refused(write, params_content, coupling, where):
    params_content["couplings"]["lent"] = coupling
    params = read_params(write())
    with pytest.raises(Invalid) as caught:
        params.pretrained(params.experiment.model_copy(update={"coupling": "lent"}))
    assert caught.value.at == ("couplings", "lent", "pretrained", where)


def test_pretrained_wants_a_frozen_predictor(write, params_content):
    params_content["couplings"]["lent"] = {**FROZEN, "predictor": "ema", "pretrained": {"coupling": "ot"}}
    with pytest.raises(UserError, match=r"couplings\.lent\.predictor = \"ema\": must be frozen"):
        read_params(write())


STUDY = {
    "paper": "couplet",
    "result": "none",
    "title": "Nothing",
    "claim": "Nothing.",
    "source": "nobody",
    "order": 1,
    "figure": {"kind": "dots"},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"figure": {"kind": "dotz"}}, r"study\.figure\.kind = \"dotz\": did you mean 'dots'"),
        ({"claim": " "}, r"study\.claim = \" \": must say something"),
        ({"paper": "CM"}, r"study\.paper = \"CM\""),
        (
            {"compare": [{"lower": "vea", "than": "ot"}]},
            r"study\.compare\.0\.lower = \"vea\": did you mean 'vae'",
        ),
        ({"compare": [{"lower": "vae", "than": "nobody"}]}, r"study\.compare\.0\.than = \"nobody\""),
        (
            {"compare": [{"of": "recipe", "lower": "ict", "than": "ecm"}]},
            r"study\.compare\.0\.than = \"ecm\"",
        ),
    ],
)
def test_wrong_study_is_one_line(write, params_content, change, message):
    params_content["study"] = STUDY | change
    with pytest.raises(UserError, match=message):
        read_params(write())


@pytest.mark.parametrize("scale", [None, "smoke", "paper"])
@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_of_the_repository_is_right_at_every_scale(path, scale):
    params = read_params(path, scale)
    files = Layout(params, Path("results")).figure_files()
    assert len(set(files)) == len(files)
    needs = params.study.needs
    if needs not in ("select", "evaluate"):
        for cell in params.cells():
            assert needs in params.probes(cell)
    elif needs == "evaluate":
        assert any(file.name == "evaluation.json" for file in files)
    datasets = {cell.dataset for cell in params.cells()}
    assert (
        datasets == {"mixture"} if path.stem == "vct-fig1" else {"cifar10" if scale == "paper" else "digits"}
    )


def test_study_s_statements_have_three_seeds_at_the_default_scale():
    for path in STUDIES:
        params = read_params(path)
        if params.study.compare:
            assert {cell.seed for cell in params.cells()} == {0, 1, 2}, path


def test_places_in_the_page_are_different():
    orders = [read_params(path).study.order for path in STUDIES]
    assert len(set(orders)) == len(orders)


def test_index_of_results_names_every_study_and_its_figure():
    index = (ROOT / "docs/results.md").read_text()
    for path in STUDIES:
        study = read_params(path).study
        line = next(line for line in index.splitlines() if f"`results/paper/{path.stem}.csv`" in line)
        assert study.title in line
        assert study.result in line
        assert study.figure.kind in line


def test_a_file_without_a_study_has_no_figure(write):
    with pytest.raises(Invalid, match="figure"):
        Layout(read_params(write()), Path("results")).figure_files()


def test_editors_schema_knows_the_studies():
    validator = Draft202012Validator(schema())
    for path in STUDIES:
        assert list(validator.iter_errors(yaml.safe_load(path.read_text()))) == [], path
