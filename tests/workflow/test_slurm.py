"""What the workflow passes to a scheduler and to the commands of its jobs; on a real Slurm: tests/cluster."""

import re
from pathlib import Path

import pytest
import yaml

from couplet.config.resolve import resolve
from couplet.plan.resources import minutes
from couplet.plan.stages import RUN

PROFILES = Path(__file__).parents[2] / "workflow/profiles/slurm"
PLAN = ("snakemake", "--dry-run", "--printshellcmds", "results/table1.csv")
TORCH = {*RUN, "time"} - {"prepare"}


@pytest.fixture(scope="module")
def cell(clone):
    """A clone whose table has one cell."""
    clone.edit(lambda params: params["table1"].update(couplings=["vae"]))
    return clone


def commands(cell, *options):
    """Each rule's command."""
    said = cell.run(*PLAN, *options).stdout
    return dict(re.findall(r"^Job \d+: (\w+) .*\nShell command: *(.*)", said, re.MULTILINE))


@pytest.fixture(scope="module")
def plain(cell):
    return commands(cell)


def test_commands_have_the_parallelism_of_their_file(plain):
    assert plain.keys() == {"prepare", *TORCH, "table"}
    for rule in TORCH:
        assert " --threads 1" in plain[rule]
        assert (" --processes 1" in plain[rule]) == (rule != "features")
        assert "--device" not in plain[rule]


def test_what_a_scheduler_gives_changes_no_command(cell, plain):
    threads = ("--set-threads", *(f"{rule}=4" for rule in TORCH))
    resources = ("--set-resources", *(f"{rule}:gpu=0" for rule in TORCH))
    assert commands(cell, *threads, *resources, "--cores", "64") == plain


def test_without_gpus_every_command_takes_the_cpu(cell, plain):
    here = commands(cell, "--configfile", str(PROFILES / "no-gpus.yaml"))
    with cell.with_params(lambda params: params.update(gpus=0)):
        assert commands(cell) == here
    for rule in TORCH:
        assert here[rule].replace(" --device cpu", "") == plain[rule]
        assert " --device cpu" in here[rule]


def test_several_gpus_are_several_processes_under_other_names(cell, plain):
    with cell.with_params(lambda params: params.update(gpus=2, threads=4)):
        shared = commands(cell, "--cores", "4")
    for rule in TORCH:
        assert " --threads 4" in shared[rule]
        assert (" --processes 2" in shared[rule]) == (rule != "features")
        assert re.search(r" --out (\S+)", shared[rule])[1] != re.search(r" --out (\S+)", plain[rule])[1]


def test_the_profile_has_no_gpus_in_one_line_of_its_own():
    text = (PROFILES / "config.yaml").read_text()
    [line] = re.findall(r"^# (configfile: .*)$", text, re.MULTILINE)
    assert yaml.safe_load(line) == {"configfile": "workflow/profiles/slurm/no-gpus.yaml"}


def test_training_is_told_to_end_five_minutes_before_its_estimate(cell):
    params = resolve(cell.root / "params.yaml")
    most = minutes(params, "train", params.cells()[0])
    train = commands(cell, "--workflow-profile", "workflow/profiles/slurm")["train"]
    assert f"; timeout --foreground {most - 5}m couplet train " in train


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--set-resources", "train:runtime=120", "train:save_ahead=20"), "timeout --foreground 100m "),
        (("--set-resources", "train:runtime=120", "train:save_ahead=0"), ""),
    ],
)
def test_training_is_told_to_end_before_its_time(cell, more, told):
    train = commands(cell, "--workflow-profile", "workflow/profiles/slurm", *more)["train"]
    assert f"; {told}couplet train " in train


def test_gpus_of_a_config_are_none_or_those_of_the_file(cell):
    done = cell.run(*PLAN, "--config", "gpus=2", ok=False)
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if line.startswith("couplet: ")] == [
        "couplet: --config gpus=2: give 0, for a cluster without GPUs, or edit `gpus` of the parameter file"
    ]


def test_fewer_cores_than_threads_stop_before_the_first_job(cell):
    with cell.with_params(lambda params: params.update(threads=2)):
        done = cell.run("snakemake", "--cores", "1", "results/table1.csv", ok=False)
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if line.startswith("couplet: ")] == [
        "couplet: --cores 1: params.yaml: threads = 2, which decides numbers; "
        "give --cores 2, or edit the file"
    ]
    assert not (cell.root / "results/data").exists()
    assert "Nothing to be done" not in cell.run(*PLAN).stdout  # no lock is left
