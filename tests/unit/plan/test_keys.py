"""Cache keys change with what they stand for and with nothing else; folders are named by them."""

import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from couplet.config.cells import TrainConfig, Training
from couplet.config.datasets import ImagesConfig
from couplet.config.params import Params
from couplet.config.recipes import Recipe
from couplet.config.yaml12 import dump_yaml
from couplet.plan.layout import Layout, checkpoint_name
from couplet.plan.stages import STAGES, Settings, key_of, parallel
from couplet.plan.summaries import figure_key, table_key

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
    "recipe.teacher_mu0": 0.95,
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
    "kernel": "li",
    "coupling.kl_weight": 10.0,
    "coupling.encoder.num_blocks": 2,
    "train.snapshots": 3,
    "train.precision": "bf16",
    "train.compile": True,
}
"""Settings that decide the weights, or which of them are saved, each with another value."""

REST = {
    "recipe.sources": {"steps": "Table 6"},
    "recipe.mid_sigmas": [0.5],
    "recipe.boundary.sampling": False,
    "train.log_every": 7,
    "train.save_every": 7,
    "train.microbatch": 2,
    "train.recompute": True,
    "train.shard": True,
}
"""Settings that leave the weights as they are."""


def changed(training, dotted, value):
    content = copy.deepcopy(training.model_dump(mode="json"))
    *parents, last = dotted.split(".")
    place = content
    for parent in parents:
        place = place[parent]
    assert place.get(last) != value  # excluded settings are absent
    place[last] = value
    return Training.model_validate(content)


def key(training):
    return key_of("train", Settings.of(training))


@pytest.mark.parametrize("dotted", WEIGHTS)
def test_key_of_a_run_changes_with_the_weights(make_training, dotted):
    training = make_training("vae")
    assert key(changed(training, dotted, WEIGHTS[dotted])) != key(training)


@pytest.mark.parametrize("dotted", REST)
def test_key_of_a_run_does_not_change_with_the_rest(make_training, dotted):
    training = make_training("vae")
    assert key(changed(training, dotted, REST[dotted])) == key(training)


@pytest.mark.parametrize(("section", "model"), [("recipe", Recipe), ("train", TrainConfig)])
def test_every_setting_is_in_one_of_the_lists(section, model):
    named = {dotted.split(".")[1] for dotted in (*WEIGHTS, *REST) if dotted.startswith(f"{section}.")}
    assert named == set(model.model_fields)


def test_all_keys_differ(make_training, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("edm.safetensors", "model.safetensors"):
        Path(name).write_text(name)
    training = make_training("vae")
    keys = {key(changed(training, dotted, value)) for dotted, value in WEIGHTS.items()}
    assert len(keys | {key(training)}) == len(WEIGHTS) + 1


def test_key_does_not_depend_on_how_a_number_is_written(make_training):
    assert key(make_training(sigma_max=80)) == key(make_training(sigma_max=80.0))


def test_snapshots_count_by_their_steps(make_training):
    """Six snapshots of four steps are four: the same ones."""
    of = [key(make_training(train={"snapshots": count}, steps=4)) for count in (3, 4, 6)]
    assert of[0] != of[1] == of[2]


@pytest.mark.parametrize("setting", ["init_from", "frozen_from"])
class TestFilesOfWeights:
    """They count by their content, wherever they lie."""

    @pytest.fixture
    def key_with(self, setting, make_training):
        return lambda path: key(make_training(**{setting: str(path)}))

    def test_rewritten_file_is_another(self, key_with, tmp_path):
        """Of the same size too, and with its times put back."""
        path = tmp_path / "weights.safetensors"
        path.write_bytes(b"first")
        before, times = key_with(path), path.stat()
        path.write_bytes(b"other")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        after = key_with(path)
        assert after != before
        path.write_bytes(b"first")
        assert key_with(path) == before

    def test_path_and_times_do_not_count(self, key_with, tmp_path, monkeypatch):
        path, moved = tmp_path / "a" / "weights.safetensors", tmp_path / "other"
        path.parent.mkdir()
        path.write_bytes(b"first")
        before = key_with(path)
        os.utime(path, (0, 0))
        assert key_with(path) == before
        path.rename(moved)
        assert key_with(moved) == before
        monkeypatch.chdir(tmp_path)
        assert key_with("other") == before

    def test_absent_file_has_a_key_of_its_own(self, key_with, tmp_path):
        path = tmp_path / "weights.safetensors"
        before = key_with(path)
        assert before == key_with(tmp_path / "elsewhere")
        path.write_bytes(b"first")
        assert key_with(path) != before


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


def keys(layout, coupling="vae"):
    """The keys of a cell's outputs by stage, with the cell's probe."""
    cell = layout.params.experiment.model_copy(update={"coupling": coupling})
    probe = key_of("probe", layout.settings(cell, probe="gradient"))
    return {**layout.keys(cell, "classifier"), "probe": probe}


def difference(before, after):
    return {stage for stage in before if before[stage] != after[stage]}


ALL = set(STAGES) - {"time"}
MEASURED = {"select", "sample", "evaluate"}
RUN = {"train", "probe", *MEASURED}


@pytest.mark.parametrize(
    ("dotted", "value", "stages"),
    [
        ("datasets.digits.test_images", 100, ALL),
        ("features.classifier.steps", 5, {"features", "reference", *MEASURED}),
        ("recipes.ict.steps", 5, RUN),
        ("recipes.ict.mid_sigmas", [0.5], MEASURED),
        ("recipes.ict.boundary.sampling", False, MEASURED),
        ("recipes.ecm.steps", 5, set()),
        ("couplings.vae.kl_weight", 5.0, RUN),
        ("couplings.generator.mu", 0.25, set()),
        ("every_recipe", {"steps": 5}, RUN),
        ("select.samples", 500, MEASURED),
        ("select.split", "train", MEASURED),
        ("raw", "originals", set()),
        ("sample.samples", 500, {"sample", "evaluate"}),
        ("sample.nfe", [1], MEASURED),
        ("sample.batch", 50, set()),
        ("sample.quantise", "truncate", MEASURED),
        ("evaluate.metrics.kid.subsets", 5, {"evaluate"}),
        ("evaluate.metrics.precision_recall", {}, {"evaluate"}),
        ("probes.gradient.batches", 5, {"probe"}),
        ("train.log_every", 5, set()),
        ("train.snapshots", 5, RUN),
        ("threads", 2, {"features", "reference", *RUN}),
        ("gpus", 2, RUN),
        ("gpus", 0, set()),
        ("nodes", 2, RUN),
        ("table1.seeds", [5], set()),
        ("table1.couplings", ["vae"], set()),
        ("study", None, set()),
    ],
)
def test_a_changed_setting_changes_the_keys_of_what_depends_on_it(layout, dotted, value, stages):
    assert difference(keys(layout()), keys(layout(dotted, value))) == stages


@pytest.mark.parametrize(
    ("stage", "threads", "gpus", "expected"),
    [
        ("train", 1, 1, {}),
        ("train", 1, 0, {}),
        ("train", 8, 0, {"threads": 8}),
        ("train", 8, 4, {"threads": 2, "processes": 4}),
        ("train", 2, 4, {"processes": 4}),
        ("features", 8, 4, {"threads": 8}),
        ("sample", 8, 4, {"threads": 2}),
        ("prepare", 8, 4, {}),
    ],
)
def test_threads_and_processes_count_where_there_are_several(stage, threads, gpus, expected):
    assert parallel(stage, threads, gpus) == expected


def test_processes_of_a_training_are_those_of_all_its_nodes():
    assert parallel("train", 8, 4, nodes=2) == parallel("train", 16, 8) == {"threads": 2, "processes": 8}
    assert parallel("sample", 8, 4, nodes=2) == {"threads": 2}


@pytest.mark.parametrize(
    ("dotted", "value", "changes"),
    [
        ("datasets.digits.test_images", 100, True),
        ("recipes.ict.batch", 32, True),
        ("couplings.vae.kl_weight", 5.0, True),
        ("table1.couplings", ["vae"], True),
        ("time", {"rounds": 7}, True),
        ("table1.seeds", [5, 6, 7], False),
        ("recipes.ecm.batch", 32, False),
        ("select.samples", 500, False),
        ("train.save_every", 5, False),
        ("threads", 2, True),
        ("gpus", 0, False),
    ],
)
def test_trainings_that_are_timed_together_have_one_key(layout, dotted, value, changes):
    before, after = layout().times("digits"), layout(dotted, value).times("digits")
    assert re.fullmatch(r"results/times/digits-[0-9a-f]{8}\.json", before.as_posix())
    assert (before != after) == changes


def test_a_measurement_of_time_has_a_cell_of_each_row_on_its_data_set(layout):
    grids = [
        {"datasets": ["digits", "mnist"], "recipes": ["ict"], "couplings": ["ot", "vae"], "seeds": [3, 4]},
        {"datasets": ["mnist"], "recipes": ["ecm"], "couplings": ["vae"], "seeds": [3]},
    ]
    made = layout("table1", grids)
    timed = {name: [str(cell) for cell in cells] for name, cells in made.timed().items()}
    assert timed == {
        "digits": ["digits-ict-ve-ot-s0", "digits-ict-ve-vae-s0"],
        "mnist": ["mnist-ict-ve-ot-s0", "mnist-ict-ve-vae-s0", "mnist-ecm-ve-vae-s0"],
    }
    # The name of a measurement is a part of the table that means it.
    for part in ("digits", "mnist", "mnist-ict", "mnist-ict-ve-vae"):
        assert list(made.timed(part)) == [part]
    assert [str(cell) for cell in made.timed("mnist-ict-ve-vae")["mnist-ict-ve-vae"]] == [
        "mnist-ict-ve-vae-s0"
    ]
    assert layout("time", {"rounds": 0}).timed() == {}


def test_a_coupling_s_settings_leave_other_couplings_alone(layout):
    before, after = layout(), layout("couplings.vae.kl_weight", 5.0)
    assert difference(keys(before, "vae"), keys(after, "vae")) == RUN
    for coupling in {*before.params.couplings} - {"vae"}:
        assert difference(keys(before, coupling), keys(after, coupling)) == set()


def test_names_of_folders(layout):
    made = layout()
    cell = made.params.experiment.model_copy(update={"coupling": "vae"})
    of, outputs = keys(made), made.outputs(cell, "classifier")
    run = Path(f"results/runs/digits-ict-ve-vae-s0-{of['train']}")
    assert outputs == {
        "prepare": Path(f"results/data/digits-{of['prepare']}"),
        "features": Path(f"results/features/digits-classifier-{of['features']}"),
        "reference": Path(f"results/reference/digits-classifier-{of['reference']}"),
        "train": run / "train",
        "select": run / f"select-classifier-{of['select']}/selection.json",
        "sample": run / f"sample-classifier-{of['sample']}/samples",
        "evaluate": run / f"evaluate-classifier-{of['evaluate']}/evaluation.json",
    }
    assert made.output("probe", cell, "gradient") == run / f"probe-gradient-{of['probe']}/probe.csv"
    assert all(re.fullmatch("[0-9a-f]{8}", each) for each in of.values())
    assert len(set(of.values())) == len(of)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_labels_beside_an_idx_file_count(tmp_path, ending):
    images, labels = tmp_path / "train-images-idx3-ubyte", tmp_path / f"train-labels-idx1-ubyte{ending}"
    images.write_bytes(b"1")
    settings = Settings(ImagesConfig(path=str(images), resolution=8))
    without = key_of("prepare", settings)
    labels.write_bytes(b"1")
    before = key_of("prepare", settings)
    labels.write_bytes(b"2")
    assert len({without, before, key_of("prepare", settings)}) == 3


def test_images_at_a_path_count_by_their_content(layout, tmp_path):
    folder, moved = tmp_path / "images", tmp_path / "moved"
    (folder / "a").mkdir(parents=True)
    image = folder / "a" / "1.png"
    image.write_bytes(b"first")

    def of(path):
        return keys(
            layout(
                "datasets.digits", {"kind": "images", "path": str(path), "resolution": 8, "test_images": 2}
            )
        )

    before, times = of(folder), image.stat()
    image.write_bytes(b"other")
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert difference(before, of(folder)) == ALL
    image.write_bytes(b"first")
    assert of(folder) == before
    image.rename(folder / "a" / "2.png")
    assert difference(before, of(folder)) == ALL
    (folder / "a" / "2.png").rename(image)
    folder.rename(moved)
    assert of(moved) == before


FROZEN = {"kind": "generator", "predictor": "frozen", "pretrained": {"coupling": "independent"}}


def test_run_with_a_frozen_predictor_follows_the_run_that_it_is(layout):
    before = keys(layout("couplings.lent", FROZEN), "lent")
    other = copy.deepcopy(FROZEN)
    other["pretrained"]["progress"] = 0.5
    assert difference(before, keys(layout("couplings.lent", other), "lent")) == RUN
    made = layout("couplings", {"lent": FROZEN, "independent": {"kind": "ot"}})
    assert difference(before, keys(made, "lent")) == RUN


def test_frozen_run_has_the_seed_of_its_cell(layout):
    params = layout("couplings.lent", FROZEN).params
    cells = [params.experiment.model_copy(update={"coupling": "lent", "seed": seed}) for seed in (0, 1)]
    frozen = [STAGES["train"].settings(Settings.of(params.training(cell)))["frozen_run"] for cell in cells]
    assert frozen[0] != frozen[1]
    assert frozen[1] == key(params.training(cells[1].model_copy(update={"coupling": "independent"})))


@pytest.mark.parametrize(
    ("dotted", "value", "changes"),
    [
        ("table1.seeds", [5], True),
        ("couplings.vae.kl_weight", 5.0, True),
        ("evaluate.metrics.kid.subsets", 5, True),
        ("recipes.ict.sources", {"steps": "a paper"}, False),
        ("recipes.ecm.steps", 5, False),  # of no cell
        ("threads", 2, True),
        ("gpus", 0, False),
        ("coupling", "vae", False),
    ],
)
def test_key_of_a_table(layout, dotted, value, changes):
    assert (table_key(layout(dotted, value)) != table_key(layout())) == changes


def test_a_row_has_a_key_of_its_own(layout):
    made = layout()
    rows = [table_key(made, f"digits-ict-ve-{coupling}") for coupling in ("vae", "ot")]
    assert len({*rows, table_key(made)}) == 3


def test_key_of_a_figure(layout, study):
    made = layout("study", study)
    assert figure_key(made) == figure_key(layout("study", study))
    for change in ({"title": "Something"}, {"figure": {"kind": "evaluations"}}, {"numbers": "select"}):
        assert figure_key(layout("study", study | change)) != figure_key(made)


def test_names_of_checkpoints_sort_like_steps():
    steps = [0, 5, 50, 999, 1000, 400_000]
    names = [checkpoint_name(step) for step in steps]
    assert sorted(names) == names
    assert all(str(step) in name for step, name in zip(steps, names, strict=True))


PROGRAM = """
import sys
from pathlib import Path
from couplet.config.resolve import resolve
from couplet.plan.layout import Layout
layout = Layout(resolve(Path(sys.argv[1])), Path("results"))
print([layout.keys(*measured) for measured in layout.params.measured()])
"""


def test_keys_depend_on_nothing_else(params_content, tmp_path):
    """Neither on the seed of hashes, nor on the working directory, nor on the environment."""
    path = tmp_path / "params.yaml"
    path.write_text(dump_yaml(params_content))
    printed = set()
    for seed, folder, locale in (("1", "/", "C"), ("2", tmp_path, "C.UTF-8")):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "LC_ALL": locale, "HOME": str(folder)}
        environment["PYTHONPATH"] = str(Path(__file__).parents[3] / "src")
        command = [sys.executable, "-c", PROGRAM, str(path)]
        printed.add(subprocess.check_output(command, cwd=folder, env=environment))
    assert len(printed) == 1
