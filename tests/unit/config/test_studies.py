"""Files over a base, recipes like another, predictors from another training, and the repository's studies."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from couplet.config.base import Invalid
from couplet.config.resolve import resolve, scales
from couplet.errors import UserError
from couplet.plan.layout import Layout
from couplet.plan.stages import Settings, key_of
from couplet.plan.summaries import figure_files

ROOT = Path(__file__).parents[3]
STUDIES = sorted((ROOT / "workflow/studies").glob("[!_]*.yaml"))
FILES = [ROOT / "params.yaml", *sorted((ROOT / "workflow/papers").glob("*.yaml")), *STUDIES]


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
    params = resolve(write(over=over))
    assert training(params).recipe.steps == 7
    assert training(params).recipe.batch == 64
    assert [cell.seed for cell in params.cells()] == [5] * len(params.cells())


def test_base_of_a_base_and_its_place_beside_the_file(write, tmp_path, monkeypatch):
    middle = {"base": "base.yaml", "recipes": {"ict": {"steps": 7, "batch": 8}}}
    path = write(middle=middle, over={"base": "middle.yaml", "recipes": {"ict": {"steps": 9}}})
    monkeypatch.chdir("/")
    recipe = training(resolve(path)).recipe
    assert (recipe.steps, recipe.batch) == (9, 8)


def test_scale_names_another_base_and_changes_recipes_and_couplings_by_name(write):
    other = {"base": "base.yaml", "recipes": {"ict": {"batch": 16}}}
    layers = {
        "large": {
            "base": "other.yaml",
            "recipes": {"ict": {"steps": 99}},
            "couplings": {"generator": {"mu": 0.25}},
        }
    }
    path = write(other=other, over={"base": "base.yaml", "scales": layers})
    small, large = training(resolve(path)).recipe, resolve(path, "large")
    assert (small.steps, small.batch) == (1500, 64)
    assert (training(large).recipe.steps, training(large).recipe.batch) == (99, 16)
    assert training(large, coupling="generator").coupling.mu == 0.25
    assert scales(path) == ["large"]


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
        resolve(write(**files))
    assert "\n" not in str(caught.value)


def test_recipe_over_another_lies_over_its_overrides_and_has_none_of_its_sources(write, params_content):
    params_content["recipes"]["ict"] |= {
        "sources": {"steps": "a paper"},
        "overrides": [{"when": {"coupling": "vae"}, "network": {"dropout": 0.5}, "batch": 8}],
    }
    params_content["recipes"]["mine"] = {"base": "ict", "network": {"dropout": 0.1}}
    params_content["recipes"]["next"] = {"base": "mine", "steps": 5}
    params = resolve(write())
    mine = training(params, recipe="mine", coupling="vae").recipe
    assert (mine.network.dropout, mine.batch, mine.steps) == (0.1, 8, 1500)
    assert mine.sources == {}
    assert training(params).recipe.sources == {"steps": "a paper"}
    following = training(params, recipe="next", coupling="vae").recipe
    assert (following.network.dropout, following.steps) == (0.1, 5)


@pytest.mark.parametrize("name", ["itc", "mine", 3])
def test_recipe_over_none_or_itself_is_refused(write, params_content, name):
    params_content["recipes"]["mine"] = {"base": name}
    with pytest.raises(UserError, match=r"recipes\.mine\.base = ") as caught:
        resolve(write())
    assert "allowed: " in str(caught.value)


def test_recipes_that_lead_back_are_refused(write, params_content):
    params_content["recipes"] |= {"mine": {"base": "other"}, "other": {"base": "mine"}}
    with pytest.raises(UserError, match=r"recipes\.\w+\.base = .*allowed: ecm, ict$"):
        resolve(write())


FROZEN = {"kind": "generator", "predictor": "frozen", "mu": 1.0}


def test_frozen_predictor_of_another_run_is_part_of_the_settings_and_of_the_key(write, params_content):
    params_content["couplings"]["lent"] = {
        **FROZEN,
        "pretrained": {"coupling": "independent", "progress": 0.5},
    }
    params = resolve(write())
    cell = params.experiment.model_copy(update={"coupling": "lent", "seed": 3})
    frozen = params.training(cell).frozen_run
    assert str(frozen.cell) == "digits-ict-ve-independent-s3"
    assert params.training(cell).frozen_step == 750
    assert frozen.frozen_run is None
    before = key_of("train", Settings.of(params.training(cell)))
    params_content["couplings"]["independent"] = {"kind": "ot"}
    after = resolve(write()).training(cell)
    # The same settings of its own, but another frozen run.
    assert after.model_copy(update={"frozen_run": frozen}) == params.training(cell)
    assert key_of("train", Settings.of(after)) != before


@pytest.mark.parametrize(
    ("coupling", "where"),
    [
        ({**FROZEN, "pretrained": {"coupling": "nobody"}}, "coupling"),
        ({**FROZEN, "pretrained": {"coupling": "independent", "recipe": "itc"}}, "recipe"),
        ({**FROZEN, "pretrained": {"coupling": "lent"}}, "coupling"),
    ],
)
def test_frozen_run_that_is_none_is_refused(write, params_content, coupling, where):
    params_content["couplings"]["lent"] = coupling
    params = resolve(write())
    with pytest.raises(Invalid) as caught:
        params.training(params.experiment.model_copy(update={"coupling": "lent"}))
    assert caught.value.at == ("couplings", "lent", "pretrained", where)


def test_pretrained_wants_a_frozen_predictor(write, params_content):
    params_content["couplings"]["lent"] = {**FROZEN, "predictor": "ema", "pretrained": {"coupling": "ot"}}
    with pytest.raises(UserError, match=r"couplings\.lent\.predictor = \"ema\": must be frozen"):
        resolve(write())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"figure": {"kind": "dotz"}}, r"study\.figure\.kind = \"dotz\": did you mean 'dots'"),
        ({"claim": " "}, r"study\.claim = \" \": must say something"),
        ({"paper": "CM"}, r"study\.paper = \"CM\""),
        (
            {"samples": True, "numbers": "select"},
            r"study\.samples = true: must be false for a figure of select",
        ),
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
def test_wrong_study_is_one_line(write, params_content, study, change, message):
    params_content["study"] = study | change
    with pytest.raises(UserError, match=message):
        resolve(write())


OF_OTHER_DATA = {
    **{(name, paper): {"mixture"} for name in ("vct-fig1", "gc-fig1") for paper in (False, True)},
    ("gc-mu-datasets", False): {"mixture"},
    ("gc-mu-datasets", True): {"imagenet32", "celeba64"},
}


@pytest.mark.parametrize("scale", [None, "smoke", "paper"])
@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_of_the_repository_is_right_at_every_scale(path, scale):
    params = resolve(path, scale)
    files = figure_files(Layout(params, Path("results")))
    assert len(set(files)) == len(files)
    needs = params.study.needs
    if needs not in ("select", "evaluate"):
        for cell in params.cells():
            assert needs in params.probes_of(cell)
    elif needs == "evaluate":
        assert any(file.name == "evaluation.json" for file in files)
    usual = {"cifar10"} if scale == "paper" else {"digits"}
    assert {cell.dataset for cell in params.cells()} == OF_OTHER_DATA.get(
        (path.stem, scale == "paper"), usual
    )


def runs(path, scale):
    """The settings of every run of a file, those of frozen predictors included, with one seed."""
    params = resolve(path, scale)
    cells = dict.fromkeys(cell.model_copy(update={"seed": 0}) for cell in params.cells())
    found = [params.training(cell) for cell in cells]
    return [*found, *(run.frozen_run for run in found if run.frozen_run is not None)]


WITH_DROPOUT = {
    "gc-ect": "ECT's hyper-parameters, as the paper says",
    "gc-ect-1hour": "the same",
    "ict-dropout": "what study gc-dropout varies",
    "vct-ict": "the same for all couplings, whose variances vct-gradient compares",
}
"""Recipes whose generator-induced pairs have dropout on purpose."""


def test_generator_induced_pairs_inherit_no_dropout_from_independent_ones():
    """GC's configurations with generator-induced pairs have none, whatever the coupling's name in a file."""
    found = set()
    for path in FILES:
        for scale in [None, *scales(path)]:
            for run in runs(path, scale):
                dropout = np.max(run.recipe.network.dropout)
                if run.coupling.kind in ("generator", "vae_generator") and dropout > 0:
                    found.add(run.cell.recipe)
    assert found == set(WITH_DROPOUT)


def test_variational_couplings_are_clipped_at_paper_scale_whatever_their_name():
    found = [
        run
        for path in FILES
        if "paper" in scales(path)
        for run in runs(path, "paper")
        if run.coupling.kind in ("vae", "vae_generator") and run.cell.dataset != "mixture"
    ]
    assert len(found) > 20
    assert {run.recipe.clip_norm for run in found} == {200.0}


@pytest.mark.parametrize("scale", [None, "smoke", "paper"])
def test_denoisers_that_are_compared_differ_in_their_coupling_alone(scale):
    params = resolve(ROOT / "workflow/studies/gc-regulariser.yaml", scale)
    recipes = {params.training(cell).recipe.model_dump_json(exclude={"sources"}) for cell in params.cells()}
    assert len(recipes) == 1


ABLATIONS = [path for path in STUDIES if path.stem.startswith("ict-") and path.stem != "ict-nfe"]
"""Studies of iCT other than of its tables."""


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_ablations_of_ict_have_the_setting_of_its_section_3(path):
    for run in runs(path, "paper"):
        assert (run.recipe.batch, run.recipe.ema.beta) == (512, 0.9999)
        assert "assumed" in run.recipe.sources["batch"]


def test_figure_5_compares_with_minibatch_ot():
    for scale in (None, "paper"):
        params = resolve(ROOT / "workflow/studies/gc-mu.yaml", scale)
        assert "ot" in {cell.coupling for cell in params.cells()}
        lower = {each.lower for each in params.study.compare if each.than == "ot"}
        assert lower == {"generator-mu0.3", "generator", "generator-mu0.7"}


def test_teacher_s_ablation_is_cm_s_average_of_its_own():
    for scale in (None, "paper"):
        found = {
            run.cell.recipe: run.recipe for run in runs(ROOT / "workflow/studies/ict-teacher.yaml", scale)
        }
        teachers = {name: (recipe.teacher, recipe.teacher_mu0) for name, recipe in found.items()}
        assert teachers == {"ict": ("online", 0.9), "ict-ema-teacher": ("target", 0.9)}


def test_curriculum_s_ablation_has_cm_s_ends():
    for scale in (None, "paper"):
        found = {run.cell.recipe: run for run in runs(ROOT / "workflow/studies/ict-curriculum.yaml", scale)}
        schedule = found["ict-square-root-cm"].recipe.schedule
        assert (schedule.curriculum, schedule.s0, schedule.s1) == ("square_root", 2, 150)


def test_statements_of_studies_have_at_least_five_pairs_of_the_first_seeds_at_the_default_scale():
    for path in STUDIES:
        params = resolve(path)
        if params.study.compare:
            seeds = {}
            for cell in params.cells():
                seeds.setdefault(cell.name, []).append(cell.seed)
            assert all(len(each) >= 5 and each == [*range(len(each))] for each in seeds.values()), path


def test_studies_of_couplings_share_the_runs_of_the_table():
    """They train nothing that the table has trained, and the headlines of both papers nothing else on VE."""
    table = Layout(resolve(ROOT / "params.yaml"), Path("results"))
    trained = {table.run(cell) for cell in table.params.cells()}
    for name in ("gc-couplings", "vct-couplings", "vct-gradient", "gc-transport", "ict-nfe"):
        study = Layout(resolve(ROOT / f"workflow/studies/{name}.yaml"), Path("results"))
        same = [cell for cell in study.params.cells() if cell in table.params.cells()]
        assert len(same) >= 3
        assert {study.run(cell) for cell in same} <= trained, name
    for name in ("gc-couplings", "vct-couplings"):
        study = Layout(resolve(ROOT / f"workflow/studies/{name}.yaml"), Path("results"))
        for cell in set(study.params.cells()) & set(table.params.cells()):
            assert study.output("evaluate", cell, "classifier") == table.output(
                "evaluate", cell, "classifier"
            )


def test_places_in_the_page_are_different():
    orders = [resolve(path).study.order for path in STUDIES]
    assert len(set(orders)) == len(orders)


def test_a_file_without_a_study_has_no_figure(write):
    with pytest.raises(Invalid, match="figure"):
        figure_files(Layout(resolve(write()), Path("results")))
