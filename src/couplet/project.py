"""A project of one's own: the files of the workflow in a new folder, without couplet's code."""

from __future__ import annotations

import shutil
import subprocess
from importlib import metadata
from pathlib import Path

from couplet.errors import UserError
from couplet.files import replacing
from couplet.plan.dvc import text

FILES = (
    "Snakefile",
    "params.yaml",
    "profiles",
    "workflow/papers",
    "workflow/studies",
    "workflow/rules",
    "workflow/report",
    "workflow/profiles",
    "workflow/schemas",
    "workflow/published.yaml",
    "workflow/scripts/download.py",
    "workflow/scripts/record.py",
    ".gitignore",
    ".dvcignore",
    ".dvc/config",
    ".dvc/.gitignore",
    "results/.dvc/config",
    "results/.dvcignore",
)
"""Files and folders that a project has from the checkout; a wheel holds them in ``couplet/project``."""

REQUIREMENTS = """\
# Another version of couplet may make other numbers: after a change of this line, `dvc repro` and Snakemake
# run again what depends on the code that changed.
couplet-cm[pipeline]=={version}
"""

ENVIRONMENT = """\
# For `snakemake --software-deployment-method conda`; without it, the active environment is used.
# The relative path is the project's root from here and from where Snakemake copies this file.
channels:
  - conda-forge
dependencies:
  - python=3.12
  - pip
  - pip:
      - -r ../../requirements.txt
"""

README = """\
# {name}

Consistency models, trained and compared with [couplet](https://pypi.org/project/couplet-cm/) {version}.

    snakemake --cores all results/table1-smoke.csv    # does everything work: two minutes on two cores
    snakemake --cores all results/table1.csv          # the grid of params.yaml: under ten minutes
    couplet show results/table1.csv                   # the table again; its page is results/index.html
    couplet why results/table1.csv --row 1            # from a number to its checkpoint, settings and data

| file | content |
| --- | --- |
| `params.yaml` | one experiment, the grid `table1`, and all settings: change these |
| `workflow/papers/`, `workflow/studies/` | the papers' rows and figures: `snakemake -n results/gc.csv` |
| `dvc.yaml` | one experiment as DVC stages: `dvc repro`, `dvc exp run -S coupling=vae` |
| `Snakefile`, `workflow/rules/` | the grid as a workflow |
| `results/` | every result with a record beside it; DVC keeps the files, git their digests |

Images of your own: `couplet prepare my-set --from FOLDER --resolution 32`, then
`couplet run --dataset my-set --out runs/first`. A coupling, metric or data set of your own is a module that a
package announces under the entry point `couplet.plugins`.
"""


def origin() -> Path:
    """The folder that holds :data:`FILES`: inside an installed package, or the checkout."""
    inside = Path(__file__).parent / "project"
    return inside if inside.is_dir() else Path(__file__).parents[2]


def create(folder: Path) -> list[str]:
    """Write a project to the new or empty ``folder``, as a git repository where git is; return its entries.

    Raises:
        UserError: ``folder`` is a file, or holds something, or couplet's own files are missing.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: exists and is not an empty folder; give another name")
    source, version = origin(), metadata.version("couplet-cm")
    if absent := [name for name in FILES if not (source / name).exists()]:
        raise UserError(f"{source / absent[0]}: missing; this installation of couplet-cm is incomplete")
    with replacing(folder) as new:
        for name in FILES:
            target = new / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (source / name).is_dir():
                shutil.copytree(source / name, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(source / name, target)
        written = {
            "README.md": README.format(name=folder.absolute().name, version=version),
            "requirements.txt": REQUIREMENTS.format(version=version),
            "workflow/envs/couplet.yaml": ENVIRONMENT,
        }
        for name, content in written.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            (new / name).write_text(content)
        (new / "dvc.yaml").write_text(text(new))
        if shutil.which("git"):
            _begin_repository(new, folder)
    return sorted(path.name for path in folder.iterdir())


def _begin_repository(new: Path, folder: Path) -> None:
    """Make a git repository, which DVC needs, unless the project lies in one."""
    inside = subprocess.run(
        ["git", "rev-parse", "--git-dir"], cwd=folder.absolute().parent, capture_output=True, check=False
    )
    if inside.returncode:
        subprocess.run(["git", "init", "--quiet"], cwd=new, check=True)
