"""One table of stages, two engines: the same commands with the same options."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from couplet.cli.pipeline import commands
from couplet.config.cells import Cell
from couplet.config.resolve import resolve
from couplet.config.schema import schema
from couplet.config.yaml12 import dump_yaml
from couplet.plan.dvc import HEADER, LIVE, pipeline
from couplet.plan.stages import RUN, STAGES

REPOSITORY = Path(__file__).resolve().parents[2]
WORKFLOW = (REPOSITORY / "Snakefile", *sorted((REPOSITORY / "workflow/rules").glob("*.smk")))
TARGETS = ("results/table1.csv", "probes")
NAMES = {*Cell.model_fields, "extractor"}
"""Options that name a cell and its extractor; dvc.yaml leaves them to the parameter file."""


def test_dvc_yaml_is_generated():
    content = pipeline(resolve(REPOSITORY / "params.yaml"))
    assert (REPOSITORY / "dvc.yaml").read_text() == HEADER + dump_yaml(content), "run `make generate`"


def test_schema_is_generated():
    written = json.loads((REPOSITORY / "workflow/schemas/params.schema.json").read_text())
    assert written == schema(), "run `make generate`"


def test_every_stage_has_a_rule_and_a_command():
    rules = re.findall(r"^rule (\w+):", "".join(path.read_text() for path in WORKFLOW), re.M)
    assert len(rules) == len(set(rules))
    for names in (rules, [command.__name__ for command in commands()]):
        assert STAGES.keys() <= set(names)
    assert set(RUN) <= yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"].keys()


@pytest.fixture(scope="module")
def planned(clone):
    """A command of each stage, as Snakemake would run it."""
    jobs = clone.plan("--forceall", "--cores", "2", *TARGETS)
    return {job.rule: job.command for job in jobs}


def options(command):
    """Options and values of a command, without names of cells."""
    words = shlex.split(command.partition("; } >> ")[0])
    pairs = {word[2:]: after for word, after in zip(words, [*words[1:], ""], strict=True) if word[:2] == "--"}
    return {name: value for name, value in pairs.items() if name not in NAMES}


@pytest.mark.parametrize("stage", RUN)
def test_dvc_and_snakemake_give_the_same_options(planned, clone, stage):
    params = resolve(clone.root / "params.yaml")
    command = yaml.safe_load((clone.root / "dvc.yaml").read_text())["stages"][stage]["cmd"]
    if not isinstance(command, str):  # the first stage checks the parameters before it does its work
        command = command[-1]
    command = re.sub(r"\$\{(\w+)\}", lambda name: str(getattr(params, name[1])), command)
    dvc, grid = options(command), options(planned[stage])
    # A person looks at a live view while one experiment runs; a grid has `couplet watch`.
    assert dvc.pop("track", f"dvc={LIVE}") == f"dvc={LIVE}"
    assert dvc.keys() == grid.keys()
    paths = {STAGES[read].option for read in STAGES[stage].reads} | {"out"}
    assert {name: value for name, value in dvc.items() if name not in paths} == {
        name: value for name, value in grid.items() if name not in paths
    }


def test_a_probe_reads_what_its_stage_does(planned):
    assert {STAGES[read].option for read in STAGES["probe"].reads} <= options(planned["probe"]).keys()


def test_rules_use_documented_attributes_of_the_workflow_only():
    # The last two have options that are documented: --software-deployment-method, --default-storage-provider.
    public = {"basedir", "cores", "source_path", "deployment_settings", "storage_settings"}
    # No option turns this off; test_snakemake.py counts what that costs.
    reached = "workflow.scheduler.job_rate_limiter = None"
    files = [path for path in (REPOSITORY / "workflow").rglob("*") if path.suffix in (".smk", ".py")]
    for path in (*WORKFLOW, *files):
        code = re.sub(r'"[^"]*"', "", path.read_text()).replace(reached, "")
        used = set(re.findall(r"\bworkflow\.([a-z_]\w*)", code))
        assert used - {"rst", "yaml"} <= public, path


def test_analytics_of_dvc_are_off():
    assert "analytics = false" in (REPOSITORY / ".dvc/config").read_text()
