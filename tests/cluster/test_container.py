"""The container image: what goes into it, and that it builds and runs, on a base without PyTorch."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from couplet.project import create

ROOT = Path(__file__).parents[2]
CONTAINERFILE = (ROOT / "Containerfile").read_text()
BASE = os.environ.get("COUPLET_BASE") or re.search(r"^ARG BASE=(.+)$", CONTAINERFILE, re.MULTILINE)[1]

TEST_BASE = "localhost/couplet-test-base"

WITHOUT_TORCH = """\
override-dependencies = [
    "torch ; sys_platform == 'never'",
    "torchvision ; sys_platform == 'never'",
    "clean-fid ; sys_platform == 'never'",
]
"""
"""Planning needs none of these, which are nine tenths of an image."""


def podman(*arguments, input=None, ok=True):
    done = subprocess.run(["podman", *arguments], cwd=ROOT, input=input, capture_output=True, text=True)
    assert not ok or done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done


def allowed():
    """The files and folders that a build sees."""
    return [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"]


def test_both_images_are_made_from_what_the_wheel_is_made_from():
    definition = (ROOT / "workflow/envs/couplet.def").read_text()
    copied = re.findall(r"^    (\S+) /source/(\S+)$", definition, re.MULTILINE)
    assert [source for source, _ in copied] == [place for _, place in copied]
    assert sorted(allowed()) == sorted(source for source, _ in copied)
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]
    metadata = (pyproject["project"]["readme"], *pyproject["project"]["license-files"])
    for needed in (*wheel["packages"], *wheel["force-include"], *metadata):
        assert any(Path(needed).is_relative_to(path) for path in allowed()), needed


def test_both_images_have_the_extras_that_the_rules_name():
    conda = re.search(r"\[([\w,]+)\]", (ROOT / "workflow/envs/couplet.yaml").read_text())[1]
    script = re.search(r"EXTRAS:-([\w ]+)", (ROOT / "workflow/envs/install.sh").read_text())[1]
    assert script.split() == conda.split(",")


APPTAINER = """\
#!/bin/sh
[ "$1" = --version ] && echo apptainer version 1.4.5 && exit
echo "$@" | head -n 1 >> calls
while [ "$1" != couplet.sif ]; do shift; done
shift
exec "$@"
"""
"""In Apptainer's place: notes a call and runs its command without a container."""


@pytest.mark.slow
def test_jobs_run_in_the_image_that_the_snakefile_names(tmp_path):
    project = tmp_path / "project"
    create(project)
    shutil.rmtree(project / ".git")  # without which nothing is recorded with DVC
    stand_in = tmp_path / "bin/apptainer"
    stand_in.parent.mkdir()
    stand_in.write_text(APPTAINER)
    stand_in.chmod(0o755)
    path = os.pathsep.join([str(stand_in.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    modules = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    command = ("snakemake", "--sdm", "apptainer", "--cores", "1", "--until", "prepare", "results/table1.csv")

    def run():
        environment = {**os.environ, "PATH": path, "PYTHONPATH": modules, "DVC_NO_ANALYTICS": "1"}
        return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)

    missing = run()
    assert missing.returncode == 2
    assert missing.stderr.splitlines()[-1].startswith("couplet: couplet.sif: missing; `make sif`")
    assert not (project / "results/data").exists()
    (project / "couplet.sif").touch()
    done = run()
    assert done.returncode == 0, done.stderr
    [call] = (project / "calls").read_text().splitlines()
    assert re.search(r"^exec --home \S+ .*couplet\.sif bash -c .*couplet prepare digits ", call)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """The name of an image of the Containerfile on a base whose settings of uv leave PyTorch out."""
    if not shutil.which("podman"):
        pytest.skip("podman is not installed")
    if podman("image", "exists", BASE, ok=False).returncode:
        pytest.skip(f"no image {BASE} here; COUPLET_BASE names another one of Debian (docs/containers.md)")
    folder = tmp_path_factory.mktemp("base")
    (folder / "uv.toml").write_text(WITHOUT_TORCH)
    try:
        recipe = f"FROM {BASE}\nCOPY uv.toml /etc/uv/uv.toml\n"
        podman("build", "--tag", TEST_BASE, "--file", "-", str(folder), input=recipe)
        yield built("couplet-test", ROOT)
    finally:
        podman("image", "rm", "--force", "couplet-test", "couplet-test-edited", TEST_BASE, ok=False)


def built(name, root):
    podman(
        "build",
        "--build-arg",
        f"BASE={TEST_BASE}",
        "--build-arg",
        "EXTRAS=pipeline",
        "--tag",
        name,
        str(root),
    )
    return name


@pytest.mark.slow
def test_the_image_plans_a_grid_as_any_user(image, tmp_path):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert podman("run", "--rm", image, "--version").stdout == f"couplet {version}\n"
    shell = ("run", "--rm", "--entrypoint", "sh", image, "-c")
    assert podman(*shell, "id --user").stdout != "0\n"
    assert podman(*shell, "command -v cc gcc make", ok=False).stdout == ""
    tmp_path.chmod(0o777)
    mounted = ("run", "--rm", "--user", "4321:4321", "--volume", f"{tmp_path}:/project")
    podman(*mounted, image, "init", "grid")
    snakemake = (*mounted, "--workdir", "/project/grid", "--entrypoint", "snakemake", image)
    planned = podman(*snakemake, "--dry-run", "results/table1.csv", "--config", "scale=smoke").stdout
    assert re.search(r"^train +4$", planned, re.MULTILINE), planned


@pytest.mark.slow
def test_edited_code_gives_another_image(image, tmp_path):
    """No layer with former code is taken for the present one."""
    for name in ("Containerfile", *allowed()):
        place = tmp_path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile)(ROOT / name, place)
    with (tmp_path / "src/couplet/__init__.py").open("a") as module:
        module.write("edited = True\n")
    program = "import couplet; print(couplet.edited)"
    edited = built("couplet-test-edited", tmp_path)
    assert podman("run", "--rm", "--entrypoint", "python", edited, "-c", program).stdout == "True\n"
