"""The commit in records is that of couplet's own files, whatever repository is about."""

import subprocess

import pytest

from couplet.provenance.record import environment, source

NO_REPOSITORY = {"commit": None, "dirty": False}


def git(folder, *arguments):
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """A repository with a commit and a package in a folder of it."""
    git(tmp_path, "init", "--quiet")
    (tmp_path / "own").mkdir()
    for name in ("__init__.py", "loss.py"):
        (tmp_path / "own" / name).write_text("")
    (tmp_path / "notes").write_text("a")
    git(tmp_path, "add", "notes")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return tmp_path


def test_repository_that_does_not_keep_the_package(repository):
    assert source(repository / "own") == NO_REPOSITORY


def test_package_outside_every_repository(tmp_path):
    assert source(tmp_path) == NO_REPOSITORY


def test_repository_of_the_package(repository):
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "--message", "own")
    commit = git(repository, "rev-parse", "HEAD")
    (repository / "notes").write_text("b")  # no code
    assert source(repository / "own") == {"commit": commit, "dirty": False}
    (repository / "own" / "new.py").write_text("")
    assert source(repository / "own") == {"commit": commit, "dirty": True}


def test_working_folder_decides_nothing(repository, monkeypatch):
    before = {name: environment()[name] for name in NO_REPOSITORY}
    monkeypatch.chdir(repository)
    monkeypatch.setenv("GIT_DIR", str(repository / ".git"))
    assert {name: environment()[name] for name in NO_REPOSITORY} == before
    assert before["commit"] != git(repository, "rev-parse", "HEAD")
