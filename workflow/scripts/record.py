"""Tells DVC what of the grid is finished; the Snakefile runs it after each run, `make record` by hand.

Every finished folder gets a .dvc file beside it, to be committed with git. A folder's name carries the
settings and the code that made it, so its content stays as it is, and going back to what DVC knows, as
`dvc exp run` and `dvc checkout` do, takes nothing away. The table is recorded as the output of its stage.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from couplet.config import Layout, read_params
from couplet.config.layout import record_of

RESULTS = Path("results")
LAST_FILES = (
    "data/*/card.json",
    "features/*/card.json",
    "reference/*/train.safetensors",
    "runs/*/train/record.json",
    "runs/*/eval-*/evaluation.json",
)
"""By stage, the file that shows a folder to be whole."""

STAGE = "workflow/dvc.yaml"


def unrecorded(root: Path) -> Iterator[Path]:
    """Whole folders, and their records beside them, whose .dvc file is missing or older than they are."""
    for pattern in LAST_FILES:
        for last in sorted(root.glob(pattern)):
            folder = last.parent
            record = record_of(folder)
            for made in (folder, record) if record.exists() else (folder,):
                about = made.with_name(f"{made.name}.dvc")
                if not about.exists() or about.stat().st_mtime < last.stat().st_mtime:
                    yield made


def dvc(*arguments: str) -> None:
    """Runs DVC, which waits for another process of its own."""
    done = subprocess.run(
        ["dvc", "--wait-for-lock", *arguments, "--quiet"], check=False, capture_output=True, text=True
    )
    if done.returncode:
        lines = "\n".join([done.stdout.strip(), done.stderr.strip()]).strip()
        sys.exit(f"{lines}\ncouplet: results/ is whole, but not recorded with DVC; run `make record`")


def table_is_current() -> bool:
    """Whether the table is whole and what params.yaml and the code would give."""
    layout = Layout(read_params(Path("params.yaml")), RESULTS)
    key, table = RESULTS / "table1.key", RESULTS / "table1.csv"
    return key.exists() and table.exists() and key.read_text().strip() == layout.table_key()


def main() -> None:
    if not (shutil.which("dvc") and Path(".dvc").exists() and Path(".git").exists()):
        print("couplet: results/ is not recorded: no DVC is installed, or this is no clone", file=sys.stderr)
        return
    if folders := list(unrecorded(RESULTS)):
        dvc("add", *map(str, folders))
        for folder in folders:
            folder.with_name(f"{folder.name}.dvc").touch()
    # Run by DVC itself, which then records the outputs of its stage.
    if "DVC_STAGE" not in os.environ and table_is_current():
        dvc("commit", "--force", STAGE)


if __name__ == "__main__":
    main()
