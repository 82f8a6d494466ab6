"""Tells DVC what of the grid is finished; the Snakefile runs it after each run, `make record` by hand.

Every finished folder gets a .dvc file beside it, to be committed with git. A folder's name carries the
settings and the code that made it, so its content stays as it is, and going back to what DVC knows, as
`dvc exp run` and `dvc checkout` do, takes nothing away. The table is recorded as the output of its stage, the
papers' figures and their page as they are once all of them are current.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from couplet.config import Layout, read_params
from couplet.config.layout import RECORD_SUFFIX, TRAINING_RECORD

RESULTS = Path("results")
STAGE = "workflow/dvc.yaml"
PAGE = ("results/paper", "results/paper.html", "results/paper.record.json")


def finished(root: Path) -> Iterator[tuple[Path, Path]]:
    """Whole folders, files of probes, and records that lie beside theirs, each with the record, which a stage
    writes last."""
    for kind in ("data", "features", "reference"):
        for record in sorted((root / kind).glob(f"*{RECORD_SUFFIX}")):
            yield record.with_name(record.name.removesuffix(RECORD_SUFFIX)), record
            yield record, record
    for record in sorted(root.glob(f"runs/*/train/{TRAINING_RECORD}")):
        yield record.parent, record
    for selected in sorted(root.glob(f"runs/*/eval-*/selection{RECORD_SUFFIX}")):
        # A study that draws what `select` found has no evaluation, and may get one later for a table.
        evaluated = selected.with_name(f"evaluation{RECORD_SUFFIX}")
        yield selected.parent, evaluated if evaluated.exists() else selected
    for record in sorted(root.glob(f"runs/*/probe-*{RECORD_SUFFIX}")):
        yield record.with_name(record.name.removesuffix(RECORD_SUFFIX) + ".csv"), record
        yield record, record


def unrecorded(root: Path) -> Iterator[Path]:
    """What is whole and has no .dvc file, or one that is older."""
    for made, record in finished(root):
        about = made.with_name(f"{made.name}.dvc")
        if not about.exists() or about.stat().st_mtime < record.stat().st_mtime:
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


def page_is_current() -> bool:
    """Whether the papers' page is whole and each of its figures what its study and the code would give."""
    if not (RESULTS / "paper.html").exists():
        return False
    for study in Path("workflow/studies").glob("[!_]*.yaml"):
        layout = Layout(read_params(study), RESULTS)
        key = layout.figure(study.stem).with_suffix(".key")
        if not (key.exists() and key.read_text().strip() == layout.figure_key()):
            return False
    return True


def main() -> None:
    if not (shutil.which("dvc") and Path(".dvc").exists() and Path(".git").exists()):
        print("couplet: results/ is not recorded: no DVC is installed, or this is no clone", file=sys.stderr)
        return
    if whole := list(unrecorded(RESULTS)):
        dvc("add", *map(str, whole))
        for made in whole:
            made.with_name(f"{made.name}.dvc").touch()
    # Run by DVC itself, which then records the outputs of its stage.
    if "DVC_STAGE" not in os.environ and table_is_current():
        dvc("commit", "--force", STAGE)
    if page_is_current():
        dvc("add", *PAGE)


if __name__ == "__main__":
    main()
