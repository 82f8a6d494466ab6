"""`couplet init`: a project outside the checkout."""

import tomllib
from pathlib import Path

import pytest

from couplet import project
from couplet.errors import UserError
from couplet.project import FILES, create

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("existing", [False, True])
def test_a_project_has_everything_that_the_engines_read(tmp_path, existing):
    folder = tmp_path / "my project"
    if existing:
        folder.mkdir()
    assert {"Snakefile", "dvc.yaml", "params.yaml", "workflow", "README.md"} < set(create(folder))
    for name in FILES:
        assert (folder / name).exists()
    assert not [*folder.rglob("__pycache__")]
    dvc = (folder / "dvc.yaml").read_text()
    assert "- requirements.txt" in dvc
    assert "src/couplet" not in dvc
    assert (folder / ".git").is_dir()
    assert [*tmp_path.iterdir()] == [folder]


def test_in_a_repository_no_other_is_begun(tmp_path):
    create(tmp_path / "outer")
    create(tmp_path / "outer/inner")
    assert not (tmp_path / "outer/inner/.git").exists()


def test_a_folder_with_files_is_refused_and_stays_as_it_is(tmp_path):
    (tmp_path / "a.txt").write_text("mine")
    with pytest.raises(UserError, match=r"exists and is not an empty folder"):
        create(tmp_path)
    with pytest.raises(UserError, match=r"a\.txt: exists and is not"):
        create(tmp_path / "a.txt")
    with pytest.raises(UserError, match=r"cannot be written"):
        create(tmp_path / "a.txt/project")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_the_folder_at_hand_is_no_name(couplet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, stderr = couplet("init", ".")
    assert (code, stderr) == (2, "couplet: folder .: must end in the name of a folder\n")
    assert [*tmp_path.iterdir()] == []


def test_an_incomplete_installation_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(project, "origin", lambda: tmp_path)
    with pytest.raises(UserError, match=r"Snakefile: missing; this installation"):
        create(tmp_path / "new")
    assert [*tmp_path.iterdir()] == []


def test_the_wheel_holds_the_files():
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"] == {name: f"couplet/project/{name}" for name in FILES}
