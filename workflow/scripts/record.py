"""Record finished results of the grid with DVC: after each run of Snakemake, or by `make record`.

Every finished folder gets a .dvc file next to it, to be committed with git. A folder's name carries the
settings and the code of its content, so its content never changes, and restoring what DVC knows, as
`dvc exp run` and `dvc checkout` do, removes nothing. The table is recorded as the output of its stage; the
figures of the papers and their page are recorded once all of them are current.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from couplet.config.resolve import resolve
from couplet.plan import summaries
from couplet.plan.layout import Layout
from couplet.plan.stages import RECORD, RECORD_SUFFIX

RESULTS = Path("results")
STUDIES = Path("workflow/studies")
STAGE = "workflow/dvc.yaml"
PAGE = ("results/paper", "results/paper.html", "results/paper.record.json")


def finished(root: Path) -> Iterator[tuple[Path, Path]]:
    """Finished folders, and records beside theirs, each with the record, which a stage writes last."""
    for kind in ("data", "features", "reference"):
        for record in sorted((root / kind).glob(f"*{RECORD_SUFFIX}")):
            yield record.with_name(record.name.removesuffix(RECORD_SUFFIX)), record
            yield record, record
    for record in sorted(root.glob(f"runs/*/train/{RECORD}")):
        yield record.parent, record
    for record in sorted(root.glob(f"runs/*/*/*{RECORD_SUFFIX}")):
        yield record.parent, record


def unrecorded(root: Path) -> Iterator[Path]:
    """Finished outputs that have no .dvc file, or an older one."""
    for output, record in finished(root):
        tracked = output.with_name(f"{output.name}.dvc")
        if not tracked.exists() or tracked.stat().st_mtime < record.stat().st_mtime:
            yield output


def dvc(*arguments: str) -> None:
    """Run DVC, which waits for another process of its own."""
    done = subprocess.run(
        ["dvc", "--wait-for-lock", *arguments, "--quiet"], check=False, capture_output=True, text=True
    )
    if done.returncode:
        lines = "\n".join([done.stdout.strip(), done.stderr.strip()]).strip()
        sys.exit(f"{lines}\ncouplet: results/ is complete, but not recorded with DVC; run `make record`")


def table_is_current() -> bool:
    """Whether the table is the one that params.yaml and the code give."""
    layout = Layout(resolve(Path("params.yaml")), RESULTS)
    return summaries.is_current(RESULTS / "table1.csv", summaries.table_key(layout))


def page_is_current() -> bool:
    """Whether there is a page, and each of its figures is the one that its study and the code give."""
    if not (RESULTS / "paper.html").exists():
        return False
    layouts = {path.stem: Layout(resolve(path), RESULTS) for path in STUDIES.glob("[!_]*.yaml")}
    keys = {name: summaries.figure_key(layout) for name, layout in layouts.items()}
    expected = {RESULTS / "paper" / f"{name}.csv": key for name, key in keys.items()}
    expected[RESULTS / "paper.html"] = summaries.page_key(keys.values())
    return all(summaries.is_current(path, key) for path, key in expected.items())


def main() -> None:
    if not (shutil.which("dvc") and Path(".dvc").exists() and Path(".git").exists()):
        print("couplet: results/ is not recorded: no DVC is installed, or this is no clone", file=sys.stderr)
        return
    if outputs := list(unrecorded(RESULTS)):
        dvc("add", *map(str, outputs))
        for output in outputs:
            output.with_name(f"{output.name}.dvc").touch()
    # Run by DVC itself, which then records the outputs of its stage.
    if "DVC_STAGE" not in os.environ and table_is_current():
        dvc("commit", "--force", STAGE)
    if page_is_current():
        dvc("add", *PAGE)


if __name__ == "__main__":
    main()
