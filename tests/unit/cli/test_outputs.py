"""An output that cannot be made is refused by every command before any work, in one line."""

import os
from pathlib import Path

import pytest
import typer

from couplet.cli.app import app

COMMANDS = typer.main.get_command(app).commands
OUTPUTS = [
    (name, option) for name, command in COMMANDS.items() for option in command.params if option.name == "out"
]
FOLDERS = [
    (name, option, kind)
    for name, command in COMMANDS.items()
    for option in command.params
    if option.name == "track"
    for kind in ("dvc=", "tensorboard=")
]


def required(command, besides):
    """A text for everything that the command cannot do without."""
    for each in command.params:
        if each.required and each is not besides:
            yield from (["x.csv"] if each.param_type_name == "argument" else [each.opts[0], "x.csv"])


@pytest.fixture
def refused(couplet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()

    def run(name, option, value):
        before = sorted(tmp_path.rglob("*"))
        code, out, err = couplet(name, *required(COMMANDS[name], option), option.opts[0], value)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert sorted(tmp_path.rglob("*")) == before
        return err

    return run


@pytest.mark.parametrize("value", ["/", "", ".", "..", "a/..", "./"])
@pytest.mark.parametrize(("name", "option"), OUTPUTS, ids=lambda each: getattr(each, "name", each))
def test_output_without_a_name(refused, name, option, value):
    err = refused(name, option, value)
    assert err.startswith(f"couplet: {option.opts[0]} ")
    assert "must end in the name of a f" in err


@pytest.mark.parametrize(("name", "option"), OUTPUTS, ids=lambda each: getattr(each, "name", each))
def test_output_below_a_file_or_with_a_name_too_long(refused, name, option):
    assert "file is no folder that can be written" in refused(name, option, "file/a/b")
    assert "File name too long" in refused(name, option, "x" * 300)


@pytest.mark.parametrize(("name", "option"), OUTPUTS, ids=lambda each: getattr(each, "name", each))
def test_file_for_a_folder_and_the_reverse(refused, name, option):
    errors = []
    for value, found in (
        ("file", "is a file; give another folder"),
        ("folder", "is a folder; give another file"),
    ):
        try:
            errors.append(found in refused(name, option, value))
        except AssertionError:  # allowed, so the command met something else
            continue
    assert any(errors)


def test_a_name_of_any_bytes_is_printed(couplet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(b"caf\xe9\nno")
    code, _, err = couplet("check", "--params", name)
    assert (code, err.count("\n")) == (2, 1)
    assert "caf\\udce9 no: cannot be read" in err


@pytest.mark.parametrize(
    ("option", "hint"),
    [("--config", "here --params FILE, --scale NAME, --set KEY=VALUE"), ("-S", "here --set KEY=VALUE")],
)
def test_options_of_the_engines_are_pointed_to_ours(couplet, option, hint):
    code, _, err = couplet("run", "--out", "x", option, "scale=smoke")
    assert code == 2
    assert err.startswith(f"couplet: No such option: {option}")
    assert err.endswith(f"{hint}\n")


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        ("scale=smoke", "give --scale NAME"),
        ("threads=2", "give --threads N"),
        ("table1.seeds=[0]", "no table"),
    ],
)
def test_keys_that_are_options_are_no_changes(couplet, change, advice):
    code, _, err = couplet("settings", "--set", change)
    assert code == 2
    assert err.startswith(f"couplet: --set {change}: ")
    assert advice in err


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("/", "must end in the name of a folder"),
        ("a/..", "must end in the name of a folder"),
        ("", "must be one of dvc=FOLDER, "),
        ("file/a/b", "file is no folder that can be written"),
        ("file", "is a file; give another folder"),
        ("x" * 300, "File name too long"),
    ],
)
@pytest.mark.parametrize(("name", "option", "kind"), FOLDERS, ids=lambda each: getattr(each, "name", each))
def test_folder_of_a_tracker(refused, name, option, kind, value, why):
    assert why in refused(name, option, f"{kind}{value}")


@pytest.mark.parametrize("value", ["", "dvc", "tensorboard", "wandb=", "mlflow=", "wandb ", "comet=x", "=x"])
def test_tracker_that_is_none(refused, value):
    [option] = {option for name, option, _ in FOLDERS if name == "train"}
    forms = "dvc=FOLDER, tensorboard=FOLDER, wandb[=PROJECT], mlflow[=URI or EXPERIMENT]"
    assert refused("train", option, value) == f"couplet: --track {value}: must be one of {forms}\n"


@pytest.mark.parametrize("value", ["nan", "inf", "1e300"])
def test_time_between_updates(couplet, grid, value):
    code, _, err = couplet("watch", grid.train, "--track", "tensorboard=events", "--every", value)
    assert (code, err.count("\n")) == (2, 1)
    assert not Path("events").exists()
