"""The lists of files that count as a stage's code, and the digest of it in folders' names."""

import json
import re
import shutil
import tomllib

import pytest

from couplet.config.sources import (
    ACCEPTED,
    PACKAGE,
    STAGE_SOURCES,
    check_running,
    code_of,
    digest_of_sources,
    source_files,
)
from couplet.errors import UserError

TRAINING = ("couplings", "kernels", "losses", "networks", "schedules", "training")


@pytest.fixture
def copy(tmp_path):
    """A working copy's package; `code_of` is asked once for each."""
    place = tmp_path / "src/couplet"
    shutil.copytree(PACKAGE, place, ignore=shutil.ignore_patterns("__pycache__"))
    return place


@pytest.mark.parametrize("stage", STAGE_SOURCES)
def test_listed_files_exist(stage):
    for name in STAGE_SOURCES[stage]:
        assert (PACKAGE / name).exists(), name
    files = source_files(stage)
    assert files
    assert files == sorted(set(files))
    assert all(file.is_file() for file in files)


@pytest.mark.parametrize("stage", STAGE_SOURCES)
def test_a_stage_depends_on_its_own_file(stage):
    assert PACKAGE / f"stages/{stage}.py" in source_files(stage)


@pytest.mark.parametrize("room", TRAINING)
def test_training_depends_on_every_file_of_its_rooms(room):
    files = set((PACKAGE / room).rglob("*.py"))
    assert files
    assert files <= set(source_files("train"))


def test_table_depends_on_the_published_numbers():
    assert PACKAGE / "reporting/published.csv" in source_files("table")


def test_wheel_has_what_stages_read_beside_code():
    project = tomllib.loads((PACKAGE.parents[1] / "pyproject.toml").read_text())
    shipped = {PACKAGE / name for name in project["tool"]["setuptools"]["package-data"]["couplet"]}
    read = {path for stage in STAGE_SOURCES for path in source_files(stage) if path.suffix != ".py"}
    assert read
    assert read <= shipped


def test_printing_and_moving_files_retrains_nothing():
    for name in ("cli.py", "progress.py", "files.py", "config/layout.py"):
        assert PACKAGE / name not in source_files("train")


@pytest.mark.parametrize(
    ("edited", "stages"),
    [
        ("losses.py", {"train", "probe"}),
        ("data/crops.py", {"prepare"}),
        ("couplings/variational.py", {"train", "select", "sample", "probe"}),
        ("reporting/published.csv", {"table"}),
        ("reporting/couplet.mplstyle", {"figure", "table"}),
        ("reporting/page.html.j2", {"paper", "table"}),
        ("reporting/statements.py", {"figure"}),
        ("cli.py", set()),
    ],
)
def test_an_edit_changes_the_code_of_its_stages(copy, edited, stages):
    assert (copy / edited).exists()
    with (copy / edited).open("a") as file:
        file.write("\n")
    assert {stage for stage in STAGE_SOURCES if code_of(stage, copy) != code_of(stage)} == stages


def test_digest_does_not_depend_on_where_the_package_lies(copy):
    assert all(digest_of_sources(stage, copy) == digest_of_sources(stage) for stage in STAGE_SOURCES)


@pytest.mark.parametrize("digest", ["as it is", "of another edit"])
def test_accepted_edit_keeps_the_former_code_until_the_next(copy, digest):
    found = digest_of_sources("train", copy)
    accepted = {"digest": found if digest == "as it is" else "00000000", "stands_for": "abcdef01"}
    (copy / ACCEPTED).write_text(json.dumps({"train": accepted}))
    assert code_of("train", copy) == ("abcdef01" if digest == "as it is" else found)


def test_a_copy_with_other_code_than_runs_is_refused(copy, tmp_path):
    check_running(tmp_path)
    check_running(tmp_path / "without a package")
    other = tmp_path / "other"
    shutil.copytree(copy, other / "src/couplet")
    (other / "src/couplet/losses/distance.py").write_text("")
    message = f"src/couplet: stage train differs from the code that runs, {PACKAGE}; set PYTHONPATH=src"
    with pytest.raises(UserError, match=re.escape(message)):
        check_running(other)
