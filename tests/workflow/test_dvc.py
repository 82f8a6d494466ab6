"""One experiment through DVC."""

import csv
import io
import json
import re
from pathlib import Path

import pytest

STAGES = ["check", "prepare", "features", "reference", "train", "select", "sample", "evaluate"]


@pytest.fixture(scope="module")
def experiment(clone):
    clone.run("dvc", "repro")
    return clone


def ran(done):
    return re.findall(r"Running stage '(\w+)'", done.stdout)


def test_second_repro_runs_nothing(experiment):
    assert ran(experiment.run("dvc", "repro")) == []


def test_every_stage_is_in_the_graph(experiment):
    graph = experiment.run("dvc", "dag", "--dot").stdout
    for stage in (*STAGES, "workflow/dvc.yaml:table"):
        assert f'"{stage}"' in graph


def test_metrics_lie_at_a_fixed_path(experiment):
    metrics = json.loads((experiment.root / "experiment/eval/metrics.json").read_text())
    assert set(metrics) == {f"{m}_classifier_nfe{n}" for m in ("fd", "kid") for n in (1, 2)}


def test_live_view_is_read_by_dvc(experiment):
    [shown] = json.loads(experiment.run("dvc", "metrics", "show", "--json").stdout).values()
    [live] = [about["data"] for path, about in shown["data"].items() if "live" in path]
    assert set(live) == {"step", "loss", "images_per_second"}
    assert live["step"] == 4
    plots = json.loads(experiment.run("dvc", "plots", "show", "--json").stdout)
    assert not plots.get("errors")
    drawn = {name: found["content"] for name, [found] in plots["data"].items() if "content" in found}
    for name in ("loss and its parts", "gradient norm", "learning rate", "decay of the average"):
        assert [int(row["step"]) for row in drawn[name]["data"]["values"]][-4:] == [1, 2, 3, 4]
    for name in ("N(k), or stage", "images per second", "distance without weights"):
        assert name in drawn
    pictures = [found["url"] for [found] in plots["data"].values() if "url" in found]
    assert len(pictures) == 2
    assert all(Path(picture).exists() for picture in pictures)


def test_experiment_is_as_recorded(experiment):
    assert experiment.run("couplet", "verify", "experiment").stdout.endswith(
        "files of 7 records read: all as recorded\n"
    )


def test_experiment_with_another_coupling_runs_from_training_to_evaluation(experiment):
    experiment.run("git", "add", "--all")
    experiment.run("git", "commit", "--quiet", "--message", "baseline")
    finished = experiment.root / "results/runs/of-the-grid"
    finished.parent.mkdir(parents=True)
    finished.write_text("hours of work")
    done = experiment.run("dvc", "exp", "run", "-S", "coupling=vae")
    assert ran(done) == ["check", "train", "select", "sample", "evaluate"]
    assert [path.name for path in (experiment.root / "results").rglob("*")] == ["runs", "of-the-grid"]
    assert finished.read_text() == "hours of work"
    rows = list(csv.DictReader(io.StringIO(experiment.run("dvc", "exp", "show", "--csv").stdout)))
    couplings = {row["coupling"]: row for row in rows}
    assert set(couplings) == {"independent", "vae"}
    assert couplings["vae"]["fd_classifier_nfe1"] != couplings["independent"]["fd_classifier_nfe1"]
    plots = json.loads(experiment.run("dvc", "plots", "diff", "HEAD", "--json").stdout)
    [found] = plots["data"]["loss and its parts"]
    assert len(found["revisions"]) == 2


def test_wrong_coupling_ends_with_our_line(experiment):
    experiment.edit(lambda params: params.update(coupling="vea"))
    try:
        done = experiment.run("dvc", "repro", ok=False)
    finally:
        experiment.edit(lambda params: params.update(coupling="independent"))
    assert done.returncode != 0
    assert "did you mean 'vae'? allowed: generator, independent, ot, " in done.stderr
