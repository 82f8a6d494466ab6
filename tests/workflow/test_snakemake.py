"""The grid, complete and tiny, through Snakemake."""

import csv
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from couplet.config.couplings import CouplingConfig
from couplet.config.resolve import resolve
from couplet.plan.layout import Layout
from couplet.plan.stages import RUN, STAGES, beside

TABLE = "results/table1.csv"
OF_RUN = list(RUN[RUN.index("train") :])
"""Stages of which each cell has a job of its own."""


@pytest.fixture(scope="module")
def grid(clone):
    clone.said = clone.run("snakemake", "--cores", "2", "--verbose", TABLE).stderr
    return clone


def cells(jobs):
    """The couplings of the cells for which jobs are planned."""
    return {
        job.name.split("-")[3]
        for job in jobs
        if job.rule in ("train", "select", "sample", "evaluate", "probe")
    }


def source(implementation):
    """The file of the package that holds an implementation."""
    return Path("src", *implementation.partition(":")[0].split(".")).with_suffix(".py")


def compute_otherwise(path):
    """Another syntax in every function that returns something."""
    path.write_text(re.sub(r"(\n +)return ", r"\1assert True\1return ", path.read_text()))


def test_table_has_a_row_per_coupling_and_nfe_with_its_runs(grid):
    rows = list(csv.DictReader((grid.root / TABLE).read_text().splitlines()))
    assert [(row["coupling"], row["nfe"]) for row in rows] == [
        ("independent", "1"),
        ("independent", "2"),
        ("vae", "1"),
        ("vae", "2"),
    ]
    for row in rows:
        (run,) = row["runs"].split()
        [path] = (grid.root / "results/runs" / run).glob("evaluate-*/evaluation.json")
        metrics = json.loads(path.with_name("evaluation.metrics.json").read_text())
        measured = metrics[f"fd_classifier_nfe{row['nfe']}"]
        assert float(row["fd_classifier_mean"]) == pytest.approx(measured, abs=1e-3)
        assert row["extractor"] == json.loads(path.read_text())["extractor"]
        assert row["fd_classifier_std"] == ""
        assert not any(name.startswith("published") for name in row)
    assert (grid.root / "results/table1.md").read_text().count("\n") == 6


def test_figures_are_pictures(grid):
    names = {path.name for path in (grid.root / "results/table1.figures").glob("*.png")}
    assert names == {"digits-ict-ve-classifier-samples.png", "digits-ict-ve-classifier-distance.png"}
    for path in (grid.root / "results/table1.figures").glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_results_are_as_recorded_and_a_number_has_its_chain(grid):
    records = 3 + 2 * len(OF_RUN) + len(["time", "table"])
    verified = grid.run("couplet", "verify", "results").stdout
    assert re.search(rf"files of {records} records read: all as recorded$", verified)
    done = grid.run("couplet", "why", TABLE, "--row", "vae,nfe=2")
    (chosen,) = grid.root.glob("results/runs/*-vae-*/select-*/selection.json")
    assert json.loads(chosen.read_text())["selected"]["checkpoint"] in done.stdout
    commit = grid.run("git", "rev-parse", "HEAD").stdout[:10]
    assert set(re.findall(r"commit \w+[^,]*", done.stdout)) == {f"commit {commit}"}


def test_selection_keeps_every_score_and_uses_the_other_split(grid):
    for path in grid.root.glob("results/runs/*/select-*/selection.json"):
        selection = json.loads(path.read_text())
        assert [score["step"] for score in selection["scores"]] == [2, 4]
        best = min(selection["scores"], key=lambda score: score["fd_nfe1"])
        assert selection["selected"]["step"] == best["step"]
        assert selection["split"] == "test"
        [evaluation] = path.parents[1].glob("evaluate-*/evaluation.json")
        assert json.loads(evaluation.read_text())["reference"]["split"] == "train"


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")
def test_jobs_run_in_copies_of_a_warm_process(grid):
    """Their own processes wait, without PyTorch in their memory."""
    heads, rows = zip(
        *(path.read_text().splitlines() for path in grid.root.glob("logs/train/*.tsv")), strict=True
    )
    memory = [float(row.split()[heads[0].split().index("max_rss")]) for row in rows]
    assert len(memory) == 2
    assert max(memory) < 100  # MB


def test_snakemake_looks_for_jobs_when_one_has_ended_and_not_once_a_second(grid):
    ended = len(re.findall(r"^Finished jobid: ", grid.said, re.MULTILINE))
    assert 0 < grid.said.count("Resources before job selection: ") <= ended


def test_a_second_call_has_nothing_to_do(grid):
    assert grid.plan(TABLE) == []
    assert "Nothing to be done" in grid.run("snakemake", "--cores", "1", TABLE).stderr


def test_a_dry_run_writes_nothing_but_its_triggers(grid):
    before = snapshot(grid.root)
    grid.plan("results/gc-paper.csv")
    changed = {path for path, stamp in snapshot(grid.root).items() if before.get(path) != stamp}
    assert changed == {"results/.keys/gc-paper.csv"}
    assert grid.run("git", "check-ignore", "results/.keys/gc.csv").stdout


def snapshot(root):
    """Size and time of every file, those of git, Snakemake and bytecode apart."""
    apart = {".git", ".snakemake", "__pycache__", "logs"}
    files = (path for path in root.rglob("*") if path.is_file() and not apart & {*path.parts})
    return {str(path.relative_to(root)): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def test_a_changed_coupling_plans_its_cells_and_the_table(grid):
    with grid.with_params(lambda params: params["couplings"]["vae"].update(kl_weight=11.0)):
        jobs = grid.plan(TABLE)
    assert sorted(job.rule for job in jobs) == sorted([*OF_RUN, "time", "table"])
    assert cells(jobs) == {"vae"}


def test_a_changed_metric_plans_evaluations_and_the_table(grid):
    with grid.with_params(lambda params: params["evaluate"]["metrics"]["kid"].update(subsets=3)):
        assert grid.rules(TABLE) == ["evaluate", "evaluate", "table"]


def test_edited_mathematics_trains_again(grid):
    with grid.edited("src/couplet/losses.py") as [path]:
        compute_otherwise(path)
        rules = grid.rules(TABLE)
    assert rules == sorted([*OF_RUN, *OF_RUN, "time", "table"])
    assert grid.plan(TABLE) == []


def test_an_edited_coupling_plans_its_cells_and_the_table(grid):
    with grid.edited(source(CouplingConfig.family["vae"].implementation)) as [path]:
        compute_otherwise(path)
        jobs = grid.plan(TABLE)
    assert sorted(job.rule for job in jobs) == sorted([*OF_RUN, "time", "table"])
    assert cells(jobs) == {"vae"}


def test_comments_docstrings_and_new_files_plan_nothing(grid):
    files = [path.relative_to(grid.root) for path in (grid.root / "src/couplet").rglob("*.py")]
    with grid.edited(*files, "src/couplet/couplings/unused.py") as paths:
        for path in paths[:-1]:
            path.write_text(path.read_text().replace('"""', '"""In other words: ', 1) + "\n# As before.\n")
        paths[-1].write_text('"""Nobody asks for this."""\n\nNOTHING = 0\n')
        assert grid.plan(TABLE) == []


def test_a_new_coupling_plans_its_cells_and_the_table(grid):
    """Two files and its name in the grid."""
    with grid.edited("src/couplet/config/couplings.py", "src/couplet/couplings/mirrored.py") as (
        config,
        code,
    ):
        config.write_text(config.read_text() + MIRRORED_CONFIG)
        code.write_text(MIRRORED)
        with grid.with_params(lambda params: params["table1"]["couplings"].append("mirrored")):
            jobs = grid.plan(TABLE)
    assert sorted(job.rule for job in jobs) == sorted([*OF_RUN, "time", "table"])
    assert cells(jobs) == {"mirrored"}


def test_a_new_study_plans_nothing_of_the_cells_that_it_shares(grid):
    with grid.edited("workflow/studies/shared.yaml") as [path]:
        path.write_text(yaml.safe_dump(STUDY))
        assert grid.plan(TABLE) == []
        assert grid.rules("results/paper/shared.csv") == ["figure"]


STUDY = {
    "base": "../../params.yaml",
    "study": {
        "paper": "couplet",
        "result": "toy",
        "title": "Two couplings",
        "claim": "None.",
        "source": "a test",
        "order": 99,
        "figure": "dots",
    },
}


@pytest.fixture(scope="module")
def tables(grid):
    """The bytes of the table at the settings of the grid, A, and at others, B; both were made, B last."""
    first = (grid.root / TABLE).read_bytes()
    with grid.with_params(other_metric):
        grid.run("snakemake", "--cores", "2", TABLE)
        second = (grid.root / TABLE).read_bytes()
    assert first != second
    return first, second


def other_metric(params):
    params["evaluate"]["metrics"]["kid"].update(subsets=3)


@pytest.mark.parametrize("records", [True, False], ids=["records", "no records"])
@pytest.mark.parametrize("time", [None, 1, 2_000_000_000], ids=["as written", "old", "new"])
def test_the_table_follows_the_settings(grid, tables, records, time):
    """Snakemake has records of its own, or has lost them; files have any times."""
    memory, aside = grid.root / ".snakemake", grid.root / ".snakemake-aside"
    times = {path: path.stat().st_mtime for path in grid.root.glob("results/table1*")}
    if not records:
        memory.rename(aside)
    for path in times if time is not None else ():
        os.utime(path, (time, time))
    try:
        assert grid.rules(TABLE) == ["table"]
        with grid.with_params(other_metric):
            assert grid.plan(TABLE) == []
    finally:
        for path, before in times.items():
            os.utime(path, (before, before))
        if not records:
            shutil.rmtree(memory, ignore_errors=True)
            aside.rename(memory)


def test_a_table_with_a_missing_or_damaged_file_is_made_again(grid, tables):
    for name in ("table1.csv", "table1.md", "table1.figures/digits-ict-ve-classifier-samples.png"):
        with grid.with_params(other_metric), grid.edited(f"results/{name}") as [path]:
            path.write_bytes(path.read_bytes() + b"\n")
            assert grid.rules(TABLE) == ["table"], name
            path.unlink()
            assert grid.rules(TABLE) == ["table"], f"no {name}"


def test_former_settings_find_former_results(grid, tables):
    first, _ = tables
    grid.run("snakemake", "--cores", "1", TABLE)
    assert (grid.root / TABLE).read_bytes() == first
    assert grid.plan(TABLE) == []


def test_wrong_parameter_is_one_line_before_anything_runs(grid):
    with grid.with_params(lambda params: params["table1"].update(couplings=["vea"])):
        done = grid.run("snakemake", "-n", TABLE, ok=False)
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert [line for line in lines if not line.startswith("Using workflow specific profile")] == [
        "couplet: params.yaml: table1.couplings.0 = \"vea\": did you mean 'vae'? "
        f"allowed: {', '.join(sorted(CouplingConfig.family))}"
    ]


def test_a_parameter_file_may_have_a_space_in_its_name(grid):
    own = grid.root / "my params.yaml"
    own.write_text((grid.root / "params.yaml").read_text().replace("subsets: 2", "subsets: 4"))
    try:
        grid.run("snakemake", "--cores", "1", TABLE, "--config", f"params={own.name}")
        assert grid.plan(TABLE, "--config", f"params={own.name}") == []
    finally:
        own.unlink()
        grid.run("snakemake", "--cores", "1", TABLE)


def test_same_seed_gives_the_same_bytes(grid, tmp_path):
    """`couplet run` of a cell of the grid, elsewhere, repeats its metrics to the byte."""
    grid.run("couplet", "run", "--coupling", "vae", "--out", str(tmp_path / "again"))
    layout = Layout(resolve(grid.root / "params.yaml"), grid.root / "results")
    [cell] = [cell for cell in layout.params.cells() if cell.coupling == "vae"]
    metrics = layout.output("evaluate", cell, "classifier").with_suffix(".metrics.json")
    assert (tmp_path / "again" / metrics.name).read_bytes() == metrics.read_bytes()


def test_a_probe_of_a_finished_run_is_a_target(grid):
    layout = Layout(resolve(grid.root / "params.yaml"), Path("results"))
    [cell] = [cell for cell in layout.params.cells() if cell.coupling == "vae"]
    target = layout.output("probe", cell, "gradient")
    assert grid.rules(str(target)) == ["probe"]
    grid.run("snakemake", "--cores", "1", str(target))
    lines = (grid.root / target).read_text().splitlines()
    assert lines[0] == "step,grad_variance,x_grad_variance,grad_norm,covariance_trace,mean_norm2,ratio"
    assert len(lines) == 3
    assert (grid.root / beside(target)).exists()
    assert (grid.root / f"{target.parent}.dvc").exists()
    done = grid.run("couplet", "verify", "results").stdout
    assert re.search(r"records read: all as recorded$", done)
    assert grid.plan(TABLE) == []
    wrong = f"{target.parent.parent}/probe-gradient-00000000/probe.csv"
    done = grid.run("snakemake", "--dry-run", wrong, ok=False)
    assert done.stderr.strip().splitlines()[-1] == f"couplet: {wrong}: no parameter file leads to this name"
    possible = sum(len(layout.params.probes_of(cell)) for cell in layout.params.cells())
    assert grid.rules("probes") == ["probe"] * (possible - 1) + ["probes"]


def test_steps_of_all_rows_are_timed_together_or_of_a_row_alone(grid):
    layout = Layout(resolve(grid.root / "params.yaml"), Path("results"))
    together, alone = layout.times("digits"), layout.times("digits-ict-ve-vae")
    rows = list(csv.DictReader((grid.root / TABLE).read_text().splitlines()))
    measured = json.loads((grid.root / together).read_text())["milliseconds"]
    for row in rows:
        name = "-".join(row[key] for key in ("dataset", "recipe", "kernel", "coupling"))
        assert float(row["step_ms"]) == pytest.approx(measured[name]["median"], rel=1e-3)
    assert len({row["step_ms"] for row in rows}) == len(measured) == 2
    assert (grid.root / f"{together}.dvc").exists()
    assert grid.plan(str(together)) == []
    assert grid.rules(f"results/table1/{alone.name[:17]}.csv") == ["table", "time"]
    # A job on a node has nothing but the path.
    assert grid.rules(str(alone)) == ["time"]
    wrong = "results/times/digits-00000000.json"
    done = grid.run("snakemake", "--dry-run", wrong, ok=False)
    assert done.stderr.strip().splitlines()[-1] == f"couplet: {wrong}: no parameter file leads to this name"


def test_lint_is_clean(grid):
    assert "good condition" in grid.run("snakemake", "--lint").stderr


def test_coupling_of_another_package_is_as_good_as_a_built_in_one(grid, tmp_path):
    """A module named in the entry-point group `couplet.plugins`, and nothing else."""
    (tmp_path / "mirrored.py").write_text(PLUGIN)
    about = tmp_path / "mirrored-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mirrored\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[couplet.plugins]\nmirrored = mirrored\n")
    command = ("couplet", "run", "--coupling", "mirrored", "--out", "adhoc/plugin")
    assert "allowed: generator, independent, ot, " in grid.run(*command, ok=False).stderr
    with grid.with_params(lambda params: params["couplings"].update(mirrored={"sign": -1})):
        grid.run(*command, PYTHONPATH=str(tmp_path))
        wrong = (*command, "--set", "couplings.mirrored.sign=2")
        wrong = grid.run(*wrong, PYTHONPATH=str(tmp_path), ok=False)
    config = json.loads((grid.root / "adhoc/plugin/train/config.json").read_text())
    assert config["coupling"] == {"kind": "mirrored", "sign": -1}
    assert (grid.root / f"adhoc/plugin/{STAGES['evaluate'].output}").exists()
    assert wrong.returncode == 2
    assert "couplings.mirrored.sign = 2" in wrong.stderr


MIRRORED_CONFIG = """

class MirroredConfig(CouplingConfig):
    implementation: ClassVar[str] = "couplet.couplings.mirrored:Mirrored"
    kind: Literal["mirrored"] = "mirrored"
    sign: Literal[-1, 1] = 1
"""
MIRRORED = """
from couplet.couplings.base import Coupling, Pair

class Mirrored(Coupling):
    def __init__(self, config, setting):
        super().__init__()
        self.sign = config.sign

    def forward(self, images, noise, labels, **context):
        return Pair(images, self.sign * noise, labels, images.new_zeros(len(images)))
"""
PLUGIN = f"""
from typing import ClassVar, Literal
from couplet.config.couplings import CouplingConfig
{MIRRORED}{MIRRORED_CONFIG.replace("couplet.couplings.mirrored:", "mirrored:")}
"""
