"""The lists of files that count as a stage's code."""

import shutil
from pathlib import Path

import pytest

from couplet.config.sources import PACKAGE, STAGE_SOURCES, code_digest, source_files

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


def test_digest_changes_with_names_and_bytes_of_the_stage_and_nothing_else(tmp_path):
    package = tmp_path / "couplet"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))

    def digests():
        return {stage: code_digest.__wrapped__(stage, package) for stage in STAGE_SOURCES}

    def changed(before):
        return {stage for stage, digest in digests().items() if digest != before[stage]}

    before = digests()
    assert before == {stage: code_digest(stage) for stage in STAGE_SOURCES}
    assert len(set(before.values())) == len(before)
    (package / "cli.py").write_text("")
    assert changed(before) == set()
    (package / "losses/distance.py").write_text("")
    assert changed(before) == {"train"}
    before = digests()
    (package / "losses/distance.py").rename(package / "losses/distances.py")
    assert changed(before) == {"train"}


def test_printing_and_moving_files_retrains_nothing():
    for name in ("cli.py", "progress.py", "files.py", "config/layout.py"):
        assert f"src/couplet/{name}" not in source_files("train")
