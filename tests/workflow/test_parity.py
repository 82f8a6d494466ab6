"""One set of stages, two engines: the same commands on the same code."""

import re
from pathlib import Path

import yaml

from couplet.config import Cell, Params, read_params
from couplet.config.layout import Layout
from couplet.config.schema import schema
from couplet.config.sources import STAGE_SOURCES, source_files

REPOSITORY = Path(__file__).resolve().parents[2]
STAGES = ["prepare", "features", "reference", "train", "select", "sample", "evaluate"]


def dvc_stages():
    return yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]


def test_every_stage_is_a_dvc_stage_a_rule_and_a_subcommand(clone):
    assert list(dvc_stages()) == ["check", *STAGES]
    rules = re.findall(
        r"^rule (\w+):",
        "".join(path.read_text() for path in (REPOSITORY / "workflow/rules").glob("*.smk")),
        re.M,
    )
    assert rules == list(dict.fromkeys(rules))
    assert set(rules) == {*STAGES, "table", "probe", "probes", "figure", "paper"}
    assert list(yaml.safe_load((REPOSITORY / "workflow/dvc.yaml").read_text())["stages"]) == ["table"]
    listed = clone.run("couplet", "--help").stdout
    for stage in (*STAGES, "table", "probe", "figure", "paper"):
        assert re.search(rf"\b{stage}\b", listed)


def test_commands_differ_only_in_the_output_root(clone):
    params = read_params(clone.root / "params.yaml")
    cell, layout = params.experiment, Layout(params, Path("results"))
    done = clone.run(
        "snakemake", "--dry-run", "--printshellcmds", "--forceall", "--cores", "2", "results/table1.csv"
    )
    roots = {
        layout.evaluation(cell, params.extractor): "experiment/eval",
        layout.train(cell): "experiment/train",
        layout.data(cell.dataset): "experiment/data",
        layout.features(cell.dataset, params.extractor): "experiment/features",
        layout.reference(cell.dataset, params.extractor): "experiment/reference",
    }
    snakemake = set()
    for line in re.findall(r"(couplet .*) > \S+ 2>&1$", done.stdout + done.stderr, re.M):
        for folder, fixed in roots.items():
            line = line.replace(str(folder), fixed)
        snakemake.add(line)
    values = {
        **params.model_dump(include={*type(params.experiment).model_fields, "extractor", "threads", "gpus"})
    }
    for name in STAGES:
        stage = dvc_stages()[name]
        command = re.sub(r"\$\{(\w+)\}", lambda found: str(values[found[1]]), stage["cmd"])
        if name == "train":
            # The one folder that a person looks at while it is written; the grid has `couplet watch`.
            command, live = command.split(" --live ")
            assert stage["outs"][1:] == [live] == ["experiment/live"]
        assert command in snakemake, f"{name}: {command}"


def test_grid_depends_on_every_parameter_but_the_experiment_and_the_threads():
    stage = yaml.safe_load((REPOSITORY / "workflow/dvc.yaml").read_text())["stages"]["table"]
    others = {*Cell.model_fields, "threads", "gpus", "raw", "probe", "study"}
    assert set(stage["params"]) == set(Params.model_fields) - others
    assert set(yaml.safe_load((REPOSITORY / "params.yaml").read_text())) == set(stage["params"]) | others - {
        "raw",
        "study",
    }


def test_both_engines_depend_on_the_same_code():
    for name in STAGES:
        code = [dep for dep in dvc_stages()[name]["deps"] if dep.startswith("src/")]
        assert code == [f"src/couplet/{source}" for source in STAGE_SOURCES[name]]


def test_listed_sources_cover_every_module_that_a_stage_imports_for_its_numbers():
    """All rooms with mathematics are the code of some stage."""
    listed = {file for stage in STAGE_SOURCES for file in source_files(stage)}
    rooms = (
        "couplings",
        "kernels",
        "schedules",
        "losses",
        "networks",
        "training",
        "probes",
        "sampling",
        "metrics",
    )
    for room in rooms:
        for file in (REPOSITORY / "src/couplet" / room).rglob("*.py"):
            assert file in listed


def test_schema_is_in_step_with_the_configuration():
    import json

    written = json.loads((REPOSITORY / "workflow/schemas/params.schema.json").read_text())
    assert written == schema(), "run `make schema`"


def test_analytics_of_dvc_are_off():
    assert "analytics = false" in (REPOSITORY / ".dvc/config").read_text()
