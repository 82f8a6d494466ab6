"""One experiment through DVC."""

import csv
import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from couplet.plan.stages import RUN

FROM_TRAIN = list(RUN[RUN.index("train") :])
"""Stages whose result depends on the coupling."""


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
    assert set(re.findall(r'^"(\w+)";', graph, re.M)) == set(RUN)


def test_graph_and_experiments_fit_a_screen(experiment):
    lines = experiment.run("dvc", "dag").stdout.splitlines()
    assert max(map(len, lines)) <= 110
    assert len(lines) <= 50


def test_metrics_lie_at_a_fixed_path(experiment):
    metrics = json.loads((experiment.root / "experiment/evaluation.metrics.json").read_text())
    numbers = json.loads((experiment.root / "experiment/evaluation.json").read_text())["numbers"]
    assert metrics == {f"{row['metric']}_classifier_nfe{row['nfe']}": row["value"] for row in numbers}
    assert {"fd_classifier_nfe1", "kid_classifier_nfe2"} <= metrics.keys()


def test_live_view_is_read_by_dvc(experiment):
    [shown] = json.loads(experiment.run("dvc", "metrics", "show", "--json").stdout).values()
    [live] = [about["data"] for path, about in shown["data"].items() if "live" in path]
    assert set(live) == {"step", "loss"}
    assert live["step"] == 4
    plots = json.loads(experiment.run("dvc", "plots", "show", "--json").stdout)
    assert not plots.get("errors")
    drawn = {name: found["content"] for name, [found] in plots["data"].items() if "content" in found}
    for name in ("loss and its parts", "gradient norm", "learning rate", "decay of the average"):
        assert [int(row["step"]) for row in drawn[name]["data"]["values"]][-4:] == [1, 2, 3, 4]
    for name in ("N(k), or stage", "images per second, wall clock", "distance without weights"):
        assert name in drawn
    pictures = [found["url"] for [found] in plots["data"].values() if "url" in found]
    assert len(pictures) == 2
    assert all(Path(picture).exists() for picture in pictures)


def test_experiment_is_as_recorded(experiment):
    said = experiment.run("couplet", "verify", "experiment").stdout
    assert said.endswith(f"files of {len(RUN)} records read: all as recorded\n")


def test_comments_only_check_the_parameters(experiment):
    with experiment.edited("src/couplet/losses.py") as [path]:
        path.write_text(path.read_text() + "\n# As before.\n")
        card = (experiment.root / "experiment/data/card.json").stat().st_mtime_ns
        assert ran(experiment.run("dvc", "repro")) == ["prepare"]
        assert (experiment.root / "experiment/data/card.json").stat().st_mtime_ns == card
    experiment.run("dvc", "repro")


def test_experiment_with_another_coupling_runs_from_training_to_evaluation(experiment):
    experiment.run("git", "add", "--all")
    experiment.run("git", "commit", "--quiet", "--message", "baseline")
    finished = experiment.root / "results/runs/of-the-grid"
    finished.parent.mkdir(parents=True)
    finished.write_text("hours of work")
    done = experiment.run("dvc", "exp", "run", "--name", "encoder", "-S", "coupling=vae")
    assert ran(done) == ["prepare", *FROM_TRAIN]
    assert "WARNING" not in done.stdout + done.stderr
    assert [
        path.name for path in (experiment.root / "results").rglob("[!.]*") if ".dvc" not in path.parts
    ] == [
        "runs",
        "of-the-grid",
    ]
    assert finished.read_text() == "hours of work"
    rows = list(csv.DictReader(io.StringIO(experiment.run("dvc", "exp", "show", "--csv").stdout)))
    couplings = {row["coupling"]: row for row in rows}
    assert set(couplings) == {"independent", "vae"}
    assert couplings["vae"]["fd_classifier_nfe1"] != couplings["independent"]["fd_classifier_nfe1"]
    applied = experiment.run("dvc", "exp", "apply", "encoder")
    assert "WARNING" not in applied.stdout + applied.stderr
    assert ran(experiment.run("dvc", "repro")) == []
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


def write_images(folder, seed):
    """Forty pictures of noise, in two classes."""
    draw = np.random.default_rng(seed)
    for number in range(40):
        path = folder / str(number % 2) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)


def test_replaced_images_are_prepared_again_by_both_engines(experiment):
    """A data set of images in a folder of the user's."""
    write_images(experiment.root / "mine", 0)

    def change(params):
        params["datasets"]["mine"] = {"kind": "images", "path": "mine", "resolution": 8, "test_images": 10}
        params["dataset"] = "mine"
        params["table1"].update(datasets=["mine"])

    with experiment.edited("dvc.yaml", "dvc.lock"), experiment.with_params(change):
        refused = experiment.run("couplet", "check", "--out", "experiment/plan", ok=False)
        assert refused.returncode == 2
        assert refused.stderr == (
            "couplet: dvc.yaml: stage prepare does not depend on mine, from which data set mine is made; "
            "print a new one by `python -m couplet.plan.dvc`\n"
        )
        generated = experiment.run(sys.executable, "-m", "couplet.plan.dvc").stdout
        (experiment.root / "dvc.yaml").write_text(generated)
        assert ran(experiment.run("dvc", "repro", "prepare")) == ["prepare"]
        assert ran(experiment.run("dvc", "repro", "prepare")) == []
        rules = experiment.rules("results/table1.csv")
        [prepare] = [job for job in experiment.plan("results/table1.csv") if job.rule == "prepare"]
        folder = f"results/data/{prepare.name}"
        experiment.run("snakemake", "--cores", "1", f"{folder}/card.json")
        left = experiment.rules("results/table1.csv")
        assert sorted([*left, "prepare"]) == rules

        write_images(experiment.root / "mine", 1)
        assert ran(experiment.run("dvc", "repro", "prepare")) == ["prepare"]
        assert experiment.rules("results/table1.csv") == rules
