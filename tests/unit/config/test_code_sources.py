"""The lists of files that count as a stage's code."""

from pathlib import Path

import pytest

from couplet.config.sources import PACKAGE, STAGE_SOURCES, source_files

ROOT = Path(__file__).parents[3]
TRAINING = ("couplings", "kernels", "losses", "networks", "schedules", "training")


@pytest.fixture(autouse=True)
def repository(monkeypatch):
    """Paths are relative to the repository's root."""
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("stage", STAGE_SOURCES)
def test_listed_files_exist(stage):
    for name in STAGE_SOURCES[stage]:
        assert (PACKAGE / name).exists(), name
    files = source_files(stage)
    assert files
    assert files == sorted(set(files))
    assert all(Path(file).is_file() for file in files)


@pytest.mark.parametrize("stage", STAGE_SOURCES)
def test_a_stage_depends_on_its_own_file(stage):
    assert f"src/couplet/stages/{stage}.py" in source_files(stage)


@pytest.mark.parametrize("room", TRAINING)
def test_training_depends_on_every_file_of_its_rooms(room):
    files = {str(path) for path in (PACKAGE / room).rglob("*.py")}
    assert files
    assert files <= set(source_files("train"))


def test_table_depends_on_the_published_numbers():
    assert "src/couplet/reporting/published.csv" in source_files("table")


def test_printing_and_moving_files_retrains_nothing():
    for name in ("cli.py", "progress.py", "files.py", "config/layout.py"):
        assert f"src/couplet/{name}" not in source_files("train")
