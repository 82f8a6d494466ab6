"""The wheel, in a folder that is no checkout: a project, and its grid."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clones import REPOSITORY, Clone, tiny


def run(*command, **environment):
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the installed wheel, and nothing of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(REPOSITORY))
    files = [str(path) for path in sorted(folder.iterdir())]
    assert len(files) == 2  # a source distribution, and the wheel made from it
    run(sys.executable, "-m", "twine", "check", "--strict", *files)
    site = folder / "site"
    [wheel] = folder.glob("*.whl")
    run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *("--no-deps", "--no-index", "--target", str(site), str(wheel)),
    )
    return site


def test_init_and_the_grid(installed, tmp_path):
    modules = {"PYTHONPATH": str(installed)}
    outside = Clone(tmp_path, modules="")
    outside.run("couplet", "init", "my project", **modules)
    project = Clone(tmp_path / "my project", modules="")
    project.edit(tiny)
    where = project.run(sys.executable, "-c", "import couplet; print(couplet.__file__)", **modules).stdout
    assert Path(where.strip()).is_relative_to(installed)
    project.run("snakemake", "--cores", "2", "results/table1.csv", **modules)
    rows = list(csv.DictReader((project.root / "results/table1.csv").read_text().splitlines()))
    assert [row["coupling"] for row in rows] == ["independent"] * 2 + ["vae"] * 2
    assert [*project.root.glob("results/data/*.dvc")], "results are recorded"
    assert "Nothing to be done" in project.run("snakemake", "-n", "results/table1.csv", **modules).stdout
    project.run("dvc", "repro", "--quiet", "features", **modules)
    assert project.run("dvc", "status", "features", **modules).stdout.strip().endswith("up to date.")
