"""What Snakemake plans for the papers' tables; nothing is run."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from couplet.provenance.record import PARTS

REPOSITORY = Path(__file__).parents[2]

DATASETS = {
    "ict": {"cifar10", "imagenet64"},
    "vct": {"mnist", "fashion_mnist", "cifar10", "ffhq64", "imagenet64"},
    "gc": {"cifar10", "imagenet32", "celeba64", "church64"},
    "ect": {"cifar10", "imagenet64"},
}
CELLS = {
    # Data sets × recipes × kernels × couplings of each table.
    "ict": 2 * 2 * 1 * 1,
    # The rows of its commands and their like; MNIST.
    "vct": 4 * 2 * 2 * 3 + 1 * 1 * 1 * 3,
    # Table 1, figure 5, table 2.
    "gc": 4 * 1 * 1 * 3 + 1 * 1 * 1 * 6 + 1 * 2 * 1 * 2,
    "ect": 1 * 4 * 1 * 1 + 1 * 5 * 1 * 1,
}
GC_SEEDS = {"paper": 3, "small": 1, "smoke": 1}
"""The other papers' tables have one seed at every scale."""


def plan(tmp_path, *targets, config=None, ok=True, commands=False):
    """The planned jobs as (rule, name), or their commands, with an empty folder of results."""
    for name in ("Snakefile", "workflow", "src", "params.yaml"):
        if not (tmp_path / name).exists():
            (tmp_path / name).symlink_to(REPOSITORY / name)
    command = [
        Path(sys.executable).with_name("snakemake"),
        "--dry-run",
        "--printshellcmds",
    ]
    command += [*targets, *(["--config", config] if config else [])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ok == (done.returncode == 0), done.stdout + done.stderr
    if not ok:
        return done.returncode, done.stderr.strip().splitlines()[-1]
    text = done.stdout + done.stderr
    if commands:
        return re.findall(r"^Shell command: *(.*)$", text, re.M)
    return re.findall(r"^Job \d+: (\w+) (.*)", text, re.M)


@pytest.mark.parametrize("scale", ["paper", "small", "smoke"])
def test_all_tables_plan_a_job_per_rule_and_cell(tmp_path, scale):
    jobs = plan(tmp_path, *(f"results/{table}-{scale}.csv" for table in CELLS))
    cells = {table: count * (GC_SEEDS[scale] if table == "gc" else 1) for table, count in CELLS.items()}
    each = sum(cells.values())
    datasets = len(set.union(*DATASETS.values()))
    # Data sets and their statistics are shared between the papers, trainings are not.
    assert Counter(rule for rule, _ in jobs) == {
        "prepare": datasets,
        "features": 2 * datasets,
        "reference": 2 * (datasets + 1),  # on CIFAR-10, GC asks for 50,000 images and the others for all
        "train": each,
        "select": each,
        "sample": each,
        "evaluate": 2 * each,
        "time": sum(map(len, DATASETS.values())),  # a table and a data set each
        "table": len(CELLS),
    }
    assert len(set(jobs)) == len(jobs)
    runs = [name for rule, name in jobs if rule == "train"]
    assert sum("-gc-" in run for run in runs) == cells["gc"]
    assert sum("-vct-" in run for run in runs) == cells["vct"]
    assert sum(bool(re.search("(10|64)-ict-", run)) for run in runs) == cells["ict"]


def test_row_plans_exactly_its_own(tmp_path):
    jobs = plan(tmp_path, "results/gc-paper/cifar10-gc-ict-ve-ot.csv")
    assert Counter(rule for rule, _ in jobs) == {
        "prepare": 1,
        "features": 2,
        "reference": 2,
        "train": 3,
        "select": 3,
        "sample": 3,
        "evaluate": 6,
        "time": 1,
        "table": 1,
    }
    runs = {re.match(r"(.*)-\w{8}$", name)[1] for rule, name in jobs if rule == "train"}
    assert runs == {f"cifar10-gc-ict-ve-ot-s{seed}" for seed in range(3)}
    assert ("table", "gc-paper/cifar10-gc-ict-ve-ot") in jobs


def test_a_job_on_a_node_is_the_job_of_the_plan(tmp_path):
    """On a cluster, a Snakemake of its own plans each job, from its rule and wildcards alone."""
    table = "results/vct-smoke/cifar10-vct-ecm-ve-vae.csv"
    planned, jobs = set(plan(tmp_path, table, commands=True)), dict(plan(tmp_path, table))
    run, evaluation = jobs["evaluate"].split()
    for rule, wildcards in (("evaluate", f"run={run},evaluation={evaluation}"), ("train", f"run={run}")):
        options = ("--allowed-rules", rule, "--force", "--mode", "remote")
        [own] = plan(tmp_path, "--target-jobs", f"{rule}:{wildcards}", *options, commands=True)
        assert own in planned


@pytest.mark.parametrize(
    ("target", "config", "message"),
    [
        ("results/gc-paper/cifar10-gc-ict-ve-to.csv", None, "did you mean 'cifar10-gc-ict-ve-ot'? allowed: "),
        ("results/gc-paprika.csv", None, "gc.yaml: scale = \"paprika\": did you mean 'paper'? allowed: "),
        ("results/ict.csv", "parms=x", "parms: did you mean 'params'? allowed: gpus, params"),
        ("results/ict.csv", "scale=smal", "ict.yaml: scale = \"smal\": did you mean 'small'? allowed: "),
    ],
)
def test_wrong_names_are_one_line(tmp_path, target, config, message):
    code, line = plan(tmp_path, target, config=config, ok=False)
    assert code == 2
    assert message in line


def test_a_scale_of_the_command_is_that_of_names_without_one(tmp_path):
    """The same jobs but for the table, which has the name that was asked for."""
    plain, named = "results/gc/cifar10-gc-ict-ve-ot.csv", "results/gc-smoke/cifar10-gc-ict-ve-ot.csv"
    (*jobs, table), (*wanted, _) = plan(tmp_path, plain, config="scale=smoke"), plan(tmp_path, named)
    assert table == ("table", "gc/cifar10-gc-ict-ve-ot")
    assert sorted(jobs) == sorted(wanted)
    (tmp_path / "results/gc-smoke").mkdir(parents=True)
    (tmp_path / named).write_text("of another scale by its name")
    assert len(plan(tmp_path, named, config="scale=paper")) == len(wanted) + 1


def test_a_scale_of_the_command_replaces_no_table_of_another(tmp_path):
    def of(scale):
        return json.dumps({**{part: {} for part in PARTS}, "settings": {"scale": scale}})

    (tmp_path / "results").mkdir()
    table, record = (tmp_path / f"results/table1{suffix}" for suffix in (".csv", ".record.json"))
    recorded = table.with_name("table1.csv.dvc")
    for path in (table, recorded):
        path.write_text("mine")
        code, line = plan(tmp_path, "results/table1.csv", config="scale=smoke", ok=False)
        assert code == 2
        assert line == (
            "couplet: results/table1.csv: is not of scale smoke, and is kept; ask for a name with the scale, "
            "such as results/table1-smoke.csv"
        )
        assert path.read_text() == "mine"
        path.unlink()
    table.write_text("of smoke, with other settings")
    record.write_text(of("smoke"))
    assert ("table", "table1") in plan(tmp_path, "results/table1.csv", config="scale=smoke")
    record.write_text(of("small"))
    assert plan(tmp_path, "results/table1.csv", config="scale=smoke", ok=False)[0] == 2


def test_paper_file_that_cannot_name_a_table_is_refused(tmp_path):
    (tmp_path / "workflow/papers").mkdir(parents=True)
    (tmp_path / "workflow/rules").symlink_to(REPOSITORY / "workflow/rules")
    (tmp_path / "workflow/papers/my paper.yaml").write_text("{}")
    code, line = plan(tmp_path, "results/table1.csv", ok=False)
    assert code == 2
    assert "workflow/papers/my paper.yaml: a table cannot be called 'my paper'; rename the file" in line


def test_extractors_of_a_file_reach_their_stages_with_its_scale(tmp_path):
    """Two names of one kind, of a file whose scale is in the target's name."""
    commands = plan(tmp_path, "results/gc-paper/cifar10-gc-ict-ve-ot.csv", commands=True)
    features = [command for command in commands if " couplet features " in command]
    assert len(features) == 2
    for name in ("inception-legacy", "inception"):
        assert any(f"--extractor {name} " in command for command in features)
    assert all(" --scale paper " in command for command in features)
    references = [command for command in commands if " couplet reference " in command]
    assert all("--params workflow/papers/gc.yaml --scale paper" in command for command in references)


@pytest.mark.parametrize("paper", CELLS)
def test_papers_select_in_their_protocol_and_measure_clean_fid_of_the_same_samples(tmp_path, paper):
    jobs = plan(tmp_path, f"results/{paper}.csv")
    names = {rule: [name for each, name in jobs if each == rule] for rule in ("select", "sample", "evaluate")}
    for rule in ("select", "sample"):
        assert all(re.search(rf" {rule}-inception-legacy-\w{{8}}$", name) for name in names[rule])
    measured = Counter(re.search(r" evaluate-(.*)-\w{8}$", name)[1] for name in names["evaluate"])
    assert measured == dict.fromkeys(("inception-legacy", "inception"), len(names["select"]))


STUDIES = sorted(path.stem for path in (REPOSITORY / "workflow/studies").glob("[!_]*.yaml"))


@pytest.mark.parametrize("scale", [None, "paper"])
def test_page_plans_every_study_and_trains_what_they_share_once(tmp_path, scale):
    at = f"-{scale}" if scale else ""
    jobs = plan(tmp_path, f"results/paper{at}.html")
    assert len(set(jobs)) == len(jobs)
    counts = Counter(rule for rule, _ in jobs)
    assert counts["paper"] == 1
    assert sorted(name for rule, name in jobs if rule == "figure") == sorted(
        f"{study}{at}" for study in STUDIES
    )
    trained = [name for rule, name in jobs if rule == "train"]
    datasets = {"cifar10", "imagenet32", "celeba64"} if scale == "paper" else {"digits"}
    assert {run.split("-")[0] for run in trained} == datasets | {"mixture"}
    # Denoisers and nothing else are trained without being measured, but for the points of the plane.
    measured = {name.split()[0] for rule, name in jobs if rule in ("select", "probe")}
    assert set(trained) == measured


def test_single_study_plans_its_own_figure(tmp_path):
    jobs = plan(tmp_path, "results/paper/gc-frozen.csv")
    counts = Counter(rule for rule, _ in jobs)
    # Independent pairs, which also lend the predictor, and two couplings with it.
    assert counts == {
        "prepare": 1,
        "features": 1,
        "reference": 1,
        "train": 15,
        "select": 15,
        "figure": 1,
    }
