"""The command line as a whole: help, groups, options of generated commands, usage errors."""

import json
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.main import get_command

from couplet.cli.app import EXAMPLES, app
from couplet.plan.stages import STAGES

PARAMS = Path(__file__).parents[3] / "params.yaml"
GENERATED = ("features", "reference", "select", "sample", "evaluate")
COMMANDS = get_command(app).commands
HEAVY = ("torch", "numpy", "pandas", "scipy", "matplotlib", "sklearn")

HELP = """
import io, json, sys, time
from contextlib import redirect_stdout

from couplet.cli import main

ended = {}
for arguments in json.load(sys.stdin):
    sys.argv, code = ["couplet", *arguments], None
    with redirect_stdout(io.StringIO()) as printed:
        try:
            main()
        except SystemExit as end:
            code = end.code
    ended[" ".join(arguments)] = code, printed.getvalue()
print(json.dumps([ended, time.process_time(), list(sys.modules)]))
"""


def helped(*commands):
    """Exit codes and texts of commands in a new process, its CPU seconds and its modules."""
    done = subprocess.run(
        [sys.executable, "-c", HELP], input=json.dumps(commands), capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_help_is_quick_and_shows_commands_in_groups():
    ended, seconds, modules = helped(["--help"])
    [(code, text)] = ended.values()
    assert code == 0
    assert seconds < 0.7
    assert not {*HEAVY} & {*modules}
    groups = [line.strip("╭╮─ ") for line in text.splitlines() if line.startswith("╭")]
    assert groups == ["Options", "Pipeline", "Everyday", "Inspection"]
    for name in COMMANDS:
        assert f"│ {name} " in text
    assert "--install-completion" in text


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_of_a_command_is_one(name, tmp_path, monkeypatch):
    """It parses, for the command that it stands below."""
    monkeypatch.chdir(tmp_path)
    program, called, *arguments = shlex.split(EXAMPLES[name])
    assert (program, called) == ("couplet", name)
    COMMANDS[name].make_context(name, arguments)


def test_help_of_every_command_imports_no_torch():
    ended, _, modules = helped(*([name, "--help"] for name in COMMANDS))
    assert len(ended) == len(COMMANDS)
    for command, (code, text) in ended.items():
        assert code == 0, command
        assert f"Usage: couplet {command.split()[0]}" in " ".join(text.split()), command
    assert not {*HEAVY} & {*modules}


def options(command):
    return {option for each in COMMANDS[command].params for option in each.opts}


@pytest.mark.parametrize("stage", STAGES)
def test_stage_has_an_option_for_each_output_that_it_reads(stage):
    expected = {f"--{STAGES[read].option}" for read in STAGES[stage].reads}
    assert expected | {"--out", "--params", "--scale"} <= options(stage)
    if stage in GENERATED:
        others = {"--out", "-o", "--params", "--scale", "--threads", "--device", "--processes"}
        own = {"--extractor"} if stage == "features" else set()
        assert options(stage) == expected | others | own
        needed = {option for each in COMMANDS[stage].params if each.required for option in each.opts}
        assert needed == expected | {"--out", "-o"}


def test_summary_of_a_stage_is_that_of_the_table_of_stages():
    for stage in STAGES:
        assert COMMANDS[stage].help.startswith(STAGES[stage].summary), stage


def test_version(couplet):
    assert couplet("--version") == (0, f"couplet {version('couplet-cm')}\n", "")


def test_no_command_prints_the_help(couplet):
    code, out, err = couplet()
    assert (code, err) == (0, "")
    assert "Pipeline" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "No such command 'trian'."),
        (["train", "--couplng", "vae"], "No such option: --couplng"),
        (["reference", "--data", "d"], "Missing option '--features'. Output of `couplet features`."),
        (["train", "--data", "d", "--out", "o", "--seed", "one"], "Invalid value for '--seed'"),
        (["select", "--train", "t", "--processes", "-1"], "Invalid value for '--processes'"),
        (["show"], "Missing argument 'path'. Folder of a run, or"),
        (["show", "a", "b"], "Got unexpected extra argument"),
        (["train", "--data"], "Option '--data' requires an argument."),
    ],
)
def test_usage_error_is_one_line(couplet, arguments, message):
    code, out, err = couplet(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"couplet: {message}")
    assert err.count("\n") == 1


def test_scale_without_params_is_refused(couplet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in (
        ("select", "--features", "f", "--reference", "r"),
        ("sample", "--selection", "s"),
        ("probe", "gradient", "--data", "d"),
    ):
        assert couplet(*command, "--train", "t", "--out", "o", "--scale", "smoke") == (
            2,
            "",
            "couplet: --scale smoke: belongs to --params FILE\n",
        )


def test_settings_name_the_layer_of_each_value(couplet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes = ("--set", "recipes.ict.steps=7", "--coupling", "vae", "--scale", "smoke")
    code, out, err = couplet("settings", "--params", PARAMS, *changes)
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert rows["recipe.steps"] == ["7", "--set"]
    assert rows["recipe.batch"] == ["16", *f"{PARAMS}, scale smoke".split()]
    assert rows["coupling.kl_weight"] == ["10.0", str(PARAMS)]
    assert rows["recipe.sigma_data"] == ["0.5", "default"]


def test_check_summarises_the_file(couplet):
    code, out, _ = couplet("check", "--params", PARAMS, "--scale", "smoke")
    assert (code, out.startswith(f"{PARAMS} at scale smoke: experiment ")) == (0, True)
    assert out.endswith("table1 has 4 cells\n")
