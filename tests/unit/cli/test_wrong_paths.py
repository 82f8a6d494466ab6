"""Every command with a path, given a missing one, an empty folder, a file, or the output of another stage."""

from itertools import product

import pytest
import yaml

from couplet.plan.stages import STAGES

READS = {name: stage.reads for name, stage in STAGES.items() if stage.reads} | {"adopt": ("prepare",)}
"""Commands and the stages of which they are given outputs."""

WRONG = ("missing", "empty", "file", "another stage")


@pytest.fixture
def wrong(grid, tmp_path):
    """A path of each kind, besides the outputs of stages."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("{}")
    return {"missing": "missing", "empty": "empty", "file": "file"}


@pytest.fixture
def refused(couplet, tmp_path, grid_content):
    """Runs a command that must fail with one line and write nothing."""
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(grid_content))

    def run(*command):
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
        code, out, err = couplet(*command)
        assert (code, out) == (2, ""), err
        assert err.startswith("couplet: ")
        assert err.count("\n") == 1
        after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
        assert after == before
        assert not (tmp_path / "out").exists()
        return err

    return run


@pytest.mark.parametrize(
    ("command", "read", "kind"),
    [(command, read, kind) for command, reads in READS.items() for read, kind in product(reads, WRONG)],
)
def test_wrong_path_is_named_in_one_line(grid, wrong, refused, command, read, kind):
    path = wrong.get(kind, grid.outputs["features" if read != "features" else "prepare"])
    outputs = {**grid.outputs, read: path}
    options = [value for each in READS[command] for value in (f"--{STAGES[each].option}", outputs[each])]
    more = {"probe": ("gradient",), "adopt": (grid.train,)}.get(command, ())
    if command != "adopt":
        more += ("--params", "params.yaml")
    assert str(path) in refused(command, *more, *options, "--out", "out", "--device", "cpu")


@pytest.mark.parametrize("kind", WRONG)
def test_other_commands_name_a_wrong_path(grid, wrong, refused, kind):
    path = wrong.get(kind, grid.features)
    for command in (
        ("adopt", path, "--data", grid.data),
        ("watch", path, "--tensorboard", "events"),
        ("show", path),
        *([("verify", path), ("why", path)] if kind != "another stage" else ()),
        ("train", "--data", grid.data, "--params", path, "--out", "out"),
        ("sample", "--train", grid.train, "--selection", grid.selection, "--params", path, "--out", "out"),
        ("run", "--params", path, "--out", "out"),
        ("prepare", "digits", "--params", path, "--out", "out"),
        ("check", "--params", path),
        ("settings", "--params", path),
        ("table", "--root", path, "--out", "out"),
        ("import", path, "--out", "out"),
    ):
        assert str(path) in refused(*command), command
