"""The Slurm profile on a real Slurm: what ends well, and that nothing waits in silence."""

import os
import re
import sys
import time
from pathlib import Path

import pytest

from conftest import running
from couplet.files import read_json

pytestmark = [
    pytest.mark.slow,
    # The pool's threads outlive a test, and their exceptions are those of the tests that wait for them.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

SAME = {".json", ".csv", ".npy", ".safetensors", ".md"}


def of(run):
    """Let a test have the outcome of this function, which begins before, beside those of other tests."""

    def mark(test):
        test.begun_by = run
        return test

    return mark


def longer(steps):
    """A training of some seconds, which saves its state all the time."""

    def change(params):
        params["recipes"]["ict"].update(steps=steps)
        params["train"].update(save_every=10)

    return change


def contents(root):
    """Every result; records have times, and hidden files are of no result."""
    files = (path for path in (root / "results").rglob("*") if path.is_file())
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in files
        if path.suffix in SAME and "record" not in path.name and "/." not in path.as_posix()
    }


def whole_cell(site):
    """One cell with two threads, here and on the cluster, which is asked for one."""
    here, there = site("here"), site("there")
    for each in (here, there):
        each.clone.edit(lambda params: params.update(threads=2))
    rules = ("features", "reference", "train", "select", "sample", "evaluate")
    process = there.begin("--set-threads", *(f"{rule}=1" for rule in rules))
    here.clone.run("snakemake", "--cores", "2", "results/table1.csv")
    return here, there, there.end(process)


@of(whole_cell)
def test_a_cell_has_the_same_bytes_as_here(ended):
    here, there, done = ended
    assert done.code == 0, done.said
    mine = contents(here.root)
    assert any(name.endswith(".safetensors") for name in mine)
    assert mine == contents(there.root)
    assert read_json(done.one("results/runs/*/train/record.json"))["parallel"] == {"threads": 2}


def without_gpus(site):
    """A training on a cluster without GPUs, by the line of the profile, with a `--config` besides."""
    with running(gpus=0) as cluster:
        here = site("no-gpus", cluster)
        profile = here.root / "workflow/profiles/slurm/config.yaml"
        text = profile.read_text()
        assert text.count("\n# configfile: ") == 1
        profile.write_text(text.replace("\n# configfile: ", "\nconfigfile: "))
        done = here.run("--until", "train", "--config", "params=params.yaml")
        return done, here.jobs()


@of(without_gpus)
def test_a_cluster_without_gpus_needs_one_line_of_the_profile(ended):
    done, jobs = ended
    assert done.code == 0, done.said
    assert [(state, gpus) for _, state, _, gpus in jobs] == [("COMPLETED", "N/A")]
    record = read_json(done.one("results/runs/*/train/record.json"))
    assert (record["device"], record["processes"]) == ("cpu", 1)


def cancelled(site):
    """A training that somebody cancels."""
    here = site("cancelled")
    here.clone.edit(longer(300))
    process = here.begin("--until", "train")
    here.until("results/runs/*/train.partial/state-*")
    here.cluster.call("scancel", here.jobs()[0][0])
    return here.end(process), here.jobs()


@of(cancelled)
def test_a_cancelled_job_is_noticed_and_its_training_resumes(ended):
    done, jobs = ended
    assert done.code == 0, done.said
    assert [(state, gpus) for _, state, _, gpus in jobs] == [
        ("CANCELLED", "gres:gpu:1"),
        ("COMPLETED", "gres:gpu:1"),
    ]
    log = done.one("logs/train/*.log").read_text()
    # The log of the first attempt stays, above that of the second.
    first, second = (f"Slurm job {number}\n" for number, *_ in jobs)
    assert re.search(
        rf"^== .*{first}.*stopped after step.*^== .*{second}.*resumes after step", log, re.M | re.S
    )


def controller_away(site):
    """A training during which slurmctld is away, for longer than the plugin tries by default."""
    with running() as cluster:
        here = site("away", cluster)
        here.clone.edit(longer(150))
        process = here.begin("--until", "train")
        here.until("results/runs/*/train.partial/state-*")
        cluster.stop_controller()
        time.sleep(45)
        cluster.start_controller()
        return here.end(process)


@of(controller_away)
def test_a_controller_that_comes_back_finds_a_snakemake_that_waits_for_it(ended):
    assert ended.code == 0, ended.said


def ended_too_late(site):
    """A training that finished, and whose job then ends in a way that Slurm does not call COMPLETED."""
    here = site("too-late")
    here.instead_of_couplet('$couplet "$@" || exit\nmkdir once || exit 0\ntouch finished\nexec sleep 600')
    process = here.begin("--until", "train")
    here.until("finished")
    written = {path: path.stat().st_mtime_ns for path in here.root.glob("results/runs/*/train/checkpoints/*")}
    here.cluster.call("scancel", here.jobs()[0][0])
    return here.end(process), here.jobs(), written


@of(ended_too_late)
def test_a_finished_training_is_kept_whatever_slurm_calls_its_job(ended):
    done, jobs, written = ended
    assert done.code == 0, done.said
    assert [state for _, state, *_ in jobs] == ["CANCELLED", "COMPLETED"]
    assert "finished before" in done.one("logs/train/*.log").read_text()
    assert len(written) == 2
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert done.one("results/runs/*/train/record.json").exists()


def refused(site):
    return site("refused").run("--until", "train", "--default-resources", "slurm_partition=nosuch", "nodes=1")


@of(refused)
def test_the_last_screen_says_why_a_job_was_not_submitted(ended):
    assert ended.code == 1
    first, *rest = ended.last_screen.splitlines()
    assert re.fullmatch(
        r"couplet: train digits-\S+ was not submitted: .*invalid partition specified: nosuch.*", first
    )
    assert not rest or "logs/" not in rest[0]


def out_of_memory(site):
    """A training that needs more than its rule asks for, without and with retries."""
    here = site("memory")
    rules = here.root / "workflow/rules/common.smk"
    text, estimate = rules.read_text(), "return processes * memory_mb(params, stage, cell), "
    assert text.count(estimate) == 1
    rules.write_text(text.replace(estimate, "return 600, "))
    first = here.run("--until", "train", "--retries", "0")
    return first, here.run("--until", "train"), here.jobs()


@of(out_of_memory)
def test_a_job_that_was_killed_for_its_memory_says_so_and_asks_for_more(ended):
    first, second, jobs = ended
    assert first.code == 1
    name, *lines = first.last_screen.splitlines()
    assert re.fullmatch(r"couplet: train digits-\S+ failed, Slurm says FAILED", name)
    assert any("exceeded memory limit" in line for line in lines)
    assert any(re.fullmatch(r"  \.snakemake/slurm_logs/rule_train/.*\.log", line) for line in lines)
    assert second.code == 0, second.said
    asked = [int(memory.removesuffix("M")) for _, _, memory, _ in jobs]
    assert asked[:3] == [600, 600, 1200]
    assert jobs[-1][1] == "COMPLETED"


def always_failing(site):
    here = site("failing")
    here.instead_of_couplet('echo "no luck" >&2; exit 3')
    return here.run("--until", "train")


@of(always_failing)
def test_retries_of_the_profile_reach_the_training_and_all_logs_stay(ended):
    assert ended.code == 1
    log = ended.one("logs/train/*.log").read_text()
    assert len(re.findall(r"^== .*\nno luck$", log, re.M)) == 4
    name, path, line, *_ = ended.last_screen.splitlines()
    assert re.fullmatch(r"couplet: train digits-\S+ failed, Slurm says FAILED", name)
    assert path.strip() == str(ended.one("logs/train/*.log").relative_to(ended.root))
    assert line.strip() == "no luck"


def nothing_answers(site):
    """Where Slurm's commands, its controller or its memory for ended jobs are missing."""
    without = site("no-slurm")
    names = ("sbatch", "squeue", "scontrol", "sinfo", "sacct", "srun", "scancel", "sacctmgr", "sshare")
    (without.root / "bin").mkdir()
    # An environment in which all programs are, but those of Slurm.
    for folder in os.environ["PATH"].split(os.pathsep):
        for program in Path(folder).iterdir() if Path(folder).is_dir() else ():
            link = without.root / "bin" / program.name
            if program.name not in names and not link.exists():
                link.symlink_to(program)
    alone = f"{Path(sys.executable).parent}:{without.root / 'bin'}"
    absent = without.run("--until", "train", slurm=False, PATH=alone)
    with running(min_job_age=60) as cluster:
        forgetful = site("forgetful", cluster)
        forgets = forgetful.run("--until", "train")
        cluster.stop_controller()
        silent = forgetful.run("--until", "train")
    return absent, forgets, silent


@of(nothing_answers)
def test_a_slurm_that_cannot_be_asked_is_said_in_one_line(ended):
    absent, forgets, silent = ended
    for done, problem in (
        (absent, r"Slurm: no command sbatch; .*"),
        (forgets, r"Slurm: MinJobAge = 60: .*at least 240.*"),
        (silent, r"Slurm: `squeue --noheader --name couplet` fails, no job was submitted: .*"),
    ):
        assert done.code == 2, done.said
        assert re.fullmatch(f"couplet: {problem}", done.last_screen.splitlines()[0]), done.said
        assert not (done.root / "logs/train").exists()
        assert not [*done.root.glob(".snakemake/locks/*")]
