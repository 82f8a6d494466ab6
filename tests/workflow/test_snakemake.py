"""The grid, complete and tiny, through Snakemake."""

import csv
import json
import re
from pathlib import Path

import pytest

from couplet.config import Layout, read_params
from couplet.config.layout import record_of

TABLE = ("snakemake", "--cores", "2", "results/table1.csv")
PLAN = ("snakemake", "--dry-run", "results/table1.csv")


def planned(done):
    """Rule names and the cells they are planned for."""
    jobs = re.findall(r"^(?:local)?rule (\w+):", done.stdout + done.stderr, re.M)
    runs = set(re.findall(r"wildcards: run=([\w-]+?)(?:,|$)", done.stdout + done.stderr, re.M))
    return jobs, runs


@pytest.fixture(scope="module")
def grid(clone):
    clone.run(*TABLE)
    return clone


def test_table_has_a_row_per_coupling_and_nfe_with_its_runs(grid):
    rows = list(csv.DictReader((grid.root / "results/table1.csv").read_text().splitlines()))
    assert [(row["coupling"], row["nfe"]) for row in rows] == [
        ("independent", "1"),
        ("independent", "2"),
        ("vae", "1"),
        ("vae", "2"),
    ]
    for row in rows:
        (run,) = row["runs"].split()
        about = json.loads(
            next((grid.root / "results/runs" / run).glob("eval-*/evaluation.json")).read_text()
        )
        assert float(row["fd_classifier_mean"]) == pytest.approx(
            about["metrics"][f"fd_classifier_nfe{row['nfe']}"], abs=1e-3
        )
        assert row["extractor"] == about["extractor"]
        assert row["fd_classifier_std"] == ""
        assert not any(name.startswith("published") for name in row)
    assert (grid.root / "results/table1.md").read_text().count("\n") == 6


def test_figures_are_pictures(grid):
    names = {path.name for path in (grid.root / "results/table1.figures").glob("*.png")}
    assert names == {"digits-ict-ve-classifier-samples.png", "digits-ict-ve-classifier-distance.png"}
    for path in (grid.root / "results/table1.figures").glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_results_are_as_recorded_and_a_number_has_its_chain(grid):
    assert re.search(
        r"files of 12 records read: all as recorded$", grid.run("couplet", "verify", "results").stdout
    )
    done = grid.run("couplet", "why", "results/table1.csv", "--row", "vae,nfe=2")
    (chosen,) = grid.root.glob("results/runs/*-vae-*/eval-*/selection.json")
    assert json.loads(chosen.read_text())["selected"]["checkpoint"] in done.stdout
    commit = grid.run("git", "rev-parse", "HEAD").stdout[:10]
    assert set(re.findall(r"commit \w+[^,]*", done.stdout)) == {f"commit {commit}"}


def test_selection_keeps_every_score_and_uses_the_other_split(grid):
    for path in grid.root.glob("results/runs/*/eval-*/selection.json"):
        selection = json.loads(path.read_text())
        assert [score["step"] for score in selection["scores"]] == [2, 4]
        best = min(selection["scores"], key=lambda score: score["fd_nfe1"])
        assert selection["selected"]["step"] == best["step"]
        assert selection["split"] == "test"
        about = json.loads(path.with_name("evaluation.json").read_text())
        assert about["reference"]["split"] == "train"


def test_second_call_has_nothing_to_do(grid):
    done = grid.run(*TABLE)
    assert "Nothing to be done" in done.stdout + done.stderr


def test_changed_coupling_runs_its_cells_and_the_table_only(grid):
    grid.edit(lambda params: params["couplings"]["vae"].update(kl_weight=11.0))
    try:
        jobs, runs = planned(grid.run(*PLAN))
    finally:
        grid.edit(lambda params: params["couplings"]["vae"].update(kl_weight=10.0))
    assert sorted(jobs) == ["evaluate", "sample", "select", "table", "train"]
    assert {run.split("-")[3] for run in runs} == {"vae"}


def test_changed_evaluation_trains_nothing(grid):
    grid.edit(lambda params: params["evaluate"]["metrics"]["kid"].update(subsets=3))
    try:
        jobs, _ = planned(grid.run(*PLAN))
    finally:
        grid.edit(lambda params: params["evaluate"]["metrics"]["kid"].update(subsets=2))
    assert set(jobs) == {"select", "sample", "evaluate", "table"}


def test_edited_mathematics_trains_again(grid):
    path = grid.root / "src/couplet/losses/distance.py"
    before = path.read_text()
    path.write_text(before + "\n# An edit.\n")
    try:
        jobs, _ = planned(grid.run(*PLAN))
    finally:
        path.write_text(before)
    assert jobs.count("train") == 2
    assert "prepare" not in jobs
    assert "Nothing to be done" in grid.run(*PLAN).stdout + grid.run(*PLAN).stderr


def test_wrong_parameter_is_one_line_before_anything_runs(grid):
    grid.edit(lambda params: params["table1"].update(couplings=["vea"]))
    try:
        done = grid.run(*PLAN, ok=False)
    finally:
        grid.edit(lambda params: params["table1"].update(couplings=["independent", "vae"]))
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert [line for line in lines if not line.startswith("Using workflow specific profile")] == [
        "couplet: params.yaml: table1.couplings.0 = \"vea\": did you mean 'vae'? "
        "allowed: generator, independent, ot, projected, sinkhorn, swaps, vae, vae_generator"
    ]


def test_same_seed_gives_the_same_bytes(grid, tmp_path):
    """`couplet run` of a cell of the grid, elsewhere, repeats its metrics to the byte."""
    grid.run("couplet", "run", "--coupling", "vae", "--out", str(tmp_path / "again"))
    (first,) = grid.root.glob("results/runs/*-vae-*/eval-*/metrics.json")
    assert (tmp_path / "again/eval/metrics.json").read_bytes() == first.read_bytes()


def test_probe_of_a_cell_is_a_target_and_is_kept_with_dvc(grid):
    """Of a finished training, by the name that its layout gives it; the table is as it was."""
    grid.edit(lambda params: params["probe"].update(images=8, batches=2))
    layout = Layout(read_params(grid.root / "params.yaml"), Path("results"))
    cell = next(cell for cell in layout.params.cells() if cell.coupling == "vae")
    target = layout.probe(cell, "gradient")
    jobs, _ = planned(grid.run("snakemake", "--dry-run", str(target)))
    assert jobs == ["probe"]
    grid.run("snakemake", "--cores", "1", str(target))
    lines = (grid.root / target).read_text().splitlines()
    assert lines[0] == "step,variance,mean_norm2,ratio"
    assert len(lines) == 3
    for path in (target, record_of(target)):
        assert (grid.root / f"{path}.dvc").exists()
    done = grid.run("couplet", "verify", "results").stdout
    assert re.search(r"files of 13 records read: all as recorded$", done)
    assert "note:" not in done
    assert "Nothing to be done" in grid.run(*PLAN).stdout
    wrong = grid.run("snakemake", "--dry-run", f"{target.parent}/probe-gradient-00000000.csv", ok=False)
    assert wrong.stderr.strip().splitlines()[-1] == (
        f"couplet: {target.parent.name}/probe-gradient-00000000.csv: "
        "no parameter file leads to this name in results/"
    )
    jobs, _ = planned(grid.run("snakemake", "--dry-run", "probes"))
    assert sorted(jobs) == ["probe", "probe", "probe", "probes"]


def test_lint_is_clean(grid):
    assert "good condition" in grid.run("snakemake", "--lint").stderr


def test_coupling_of_another_package_is_as_good_as_a_built_in_one(grid, tmp_path):
    """A module named in the entry-point group `couplet.plugins`, and nothing else."""
    (tmp_path / "mirrored.py").write_text(PLUGIN)
    about = tmp_path / "mirrored-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mirrored\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[couplet.plugins]\nmirrored = mirrored\n")
    assert "allowed: generator, independent, ot, " in grid.run(*RUN_PLUGIN, ok=False).stderr
    grid.edit(lambda params: params["couplings"].update(mirrored={"sign": -1}))
    try:
        done = grid.run(*RUN_PLUGIN, PYTHONPATH=str(tmp_path))
        wrong = grid.run(
            *RUN_PLUGIN, "--set", "couplings.mirrored.sign=2", PYTHONPATH=str(tmp_path), ok=False
        )
    finally:
        grid.edit(lambda params: params["couplings"].pop("mirrored"))
    assert "mirrored sign=-1" in done.stdout
    assert (grid.root / "adhoc/plugin/eval/metrics.json").exists()
    assert wrong.returncode == 2
    assert "couplings.mirrored.sign = 2" in wrong.stderr


WRONG_SIGN = ("--set", "couplings.mirrored.sign=2")
RUN_PLUGIN = ("couplet", "run", "--coupling", "mirrored", "--out", "adhoc/plugin")
PLUGIN = """
from typing import Literal
from couplet.config.couplings import CouplingConfig
from couplet.couplings import Coupling, Pair, implements

class MirroredConfig(CouplingConfig):
    kind: Literal["mirrored"] = "mirrored"
    sign: Literal[-1, 1] = 1

@implements(MirroredConfig)
class Mirrored(Coupling):
    def __init__(self, config, setting):
        super().__init__()
        self.sign = config.sign

    def forward(self, images, noise, labels, **context):
        return Pair(images, self.sign * noise, labels, images.new_zeros(len(images)))
"""
