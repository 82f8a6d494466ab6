"""The Slurm profile: what it asks the scheduler for, with commands in Slurm's place that run jobs here."""

import json
import os
import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from couplet.plan.stages import RUN

CONFIG = Path(__file__).parents[2] / "workflow/profiles/slurm/config.yaml"
PROFILE = ("snakemake", "--workflow-profile", "workflow/profiles/slurm", "results/table1.csv")
GPU_RULES = {*RUN, "time"} - {"prepare"}
COMMANDS = ("sbatch", "srun", "sacct", "squeue", "sinfo", "sacctmgr", "sshare", "scontrol", "scancel")


@pytest.fixture(scope="module")
def cell(clone):
    """A clone whose table has one cell."""
    clone.edit(lambda params: params["table1"].update(couplings=["vae"]))
    return clone


@pytest.fixture(scope="module")
def commands(cell):
    """Each rule's command."""
    # Threads are shown only as far as there are cores here.
    said = cell.run(*PROFILE, "--dry-run", "--printshellcmds", "--cores", "64").stdout
    return dict(re.findall(r"^Job \d+: (\w+) .*\nShell command: *(.*)", said, re.MULTILINE))


def resources(rule):
    """What the profile asks for a rule."""
    profile = yaml.safe_load(CONFIG.read_text())
    return {**profile["default-resources"], **profile["set-resources"].get(rule, {})}


def test_every_rule_has_resources(commands):
    assert commands.keys() == {"prepare", *GPU_RULES, "table"}
    for rule in ("prepare", *GPU_RULES):
        asked = resources(rule)
        assert (" --processes 1 " in commands[rule] or "gpu" in asked) == (rule in GPU_RULES), rule
        assert asked["nodes"] == 1
        assert asked["mem_mb"] >= 8000
        assert asked["runtime"] >= 60


def test_training_has_threads_and_is_told_to_end_before_its_time(commands):
    assert " --threads 8 " in commands["train"]
    told = re.match(r"timeout --foreground (\d+)m couplet train ", commands["train"])
    assert resources("train")["runtime"] - 10 <= int(told[1]) <= resources("train")["runtime"] - 3


@pytest.mark.slow
def test_training_is_submitted_with_its_resources_and_runs(cell, tmp_path):
    fake = Path(__file__).with_name("fake_slurm.py")
    for name in COMMANDS:
        called = shlex.join([sys.executable, str(fake), str(tmp_path), name])
        (tmp_path / name).write_text(f'#!/bin/sh\nexec {called} "$@"\n')
        (tmp_path / name).chmod(0o755)
    path = os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]])
    here = ("--set-threads", "train=1", "--slurm-init-seconds-before-status-checks", "1")
    cell.run(*PROFILE, "--until", "train", *here, PATH=path)
    calls = [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text().splitlines()]
    prepare, train = calls
    assert prepare["--comment"].startswith("rule_prepare")
    assert "--gpus" not in prepare
    # A retry is a new job: Snakemake on the node would run the command again in the time that is left.
    retries = yaml.safe_load(CONFIG.read_text())["retries"]
    assert retries > 0
    assert re.search(r"--retries\W+0\b", train["--wrap"])
    wanted = {"--gpus": "1", "--nodes": "1", "--cpus-per-task": "1", "--mem": "32000", "-t": "1440"}
    assert train["--comment"].startswith("rule_train")
    assert {name: train[name] for name in wanted} == wanted
    assert len(list(cell.root.glob("results/runs/*/train/record.json"))) == 1
