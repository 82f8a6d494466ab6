"""Record finished results with DVC: after each run of Snakemake, or by `make record`.

results/ is a DVC repository of its own, so that `dvc repro`, `dvc exp run` and `dvc checkout` of the
experiment neither read nor restore anything in it. Every finished output gets a .dvc file next to it, to be
committed with git.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from couplet.files import read_json

RESULTS = Path("results")
KEYED = ("data", "features", "reference", "times")
"""Folders of outputs that each have a record of their own; `runs` has a level more."""


def finished(root: Path) -> Iterator[tuple[Path, Path]]:
    """Finished outputs, each with the record that was written last."""
    for record in sorted(root.glob("runs/*/*/*record.json")):
        yield record.parent, record
    for record in sorted([*root.glob("*.record.json"), *root.glob("*/*.record.json")]):
        folder = record.parent
        if folder == root or folder.name in KEYED:
            names = {Path(name).parts[0] for name in read_json(record)["outputs"]}
            yield from ((folder / name, record) for name in (*sorted(names), record.name))
        else:  # figures of studies, or rows of a table
            yield folder, record


def unrecorded(root: Path) -> list[Path]:
    """Finished outputs that have no .dvc file, or an older one."""
    outputs: dict[Path, None] = {}
    for output, record in finished(root):
        tracked = output.with_name(f"{output.name}.dvc")
        partial = any(".partial" in part for part in output.parts)
        if not partial and not (tracked.exists() and tracked.stat().st_mtime >= record.stat().st_mtime):
            outputs[output] = None
    return list(outputs)


def main() -> None:
    if not (shutil.which("dvc") and (RESULTS / ".dvc").exists() and Path(".git").exists()):
        print("couplet: results/ is not recorded: no DVC is installed, or this is no clone", file=sys.stderr)
        return
    if outputs := unrecorded(RESULTS):
        names = [output.relative_to(RESULTS).as_posix() for output in outputs]
        done = subprocess.run(
            ["dvc", "--cd", str(RESULTS), "--wait-for-lock", "add", "--quiet", *names],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            lines = "\n".join([done.stdout.strip(), done.stderr.strip()]).strip()
            sys.exit(f"{lines}\ncouplet: results/ is complete, but not recorded with DVC; run `make record`")
        for output in outputs:
            output.with_name(f"{output.name}.dvc").touch()


if __name__ == "__main__":
    main()
