"""Keeps the small files of a finished table below docs/evidence/, and shows the table in its README.md.

    python workflow/scripts/keep_evidence.py results/table1.csv mnist16

Records, scores, curves and pictures lie as they do below results/, so that `couplet why` follows them there
as well. Arrays and checkpoints stay where they are; the records have their digests.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from update_readme import UNREAD, between, narrowed

from couplet.plan.stages import beside
from couplet.provenance.record import read_record

EVIDENCE = Path("docs/evidence")
KEPT = (".csv", ".json", ".png")


def main(table: Path, name: str) -> None:
    record = read_record(beside(table))
    records = [record, *(read_record(path) for path in record.inputs if path.name.endswith("record.json"))]
    files = {file for each in records for file in (each.path, *each.outputs)}
    folder = EVIDENCE / name
    shutil.rmtree(folder, ignore_errors=True)
    for file in sorted(file for file in files if file.suffix in KEPT):
        copy = folder / file.relative_to(table.parent)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    runs = [each.content for each in records if each.stage == "train"]
    facts = {
        "commit": {run["commit"][:10] for run in runs},
        "processor": {f"{run['cpu']}, threads: {run['threads']}" for run in runs},
        "torch": {run["packages"]["torch"] for run in runs},
    }
    made = [f"{fact} {', '.join(sorted(values))}" for fact, values in facts.items()]
    hours = sum(run["seconds"] for run in runs) / 3600
    made_by = f"{len(runs)} runs, {hours:.1f} hours of training: {'; '.join(made)}."
    figures = [path.relative_to(EVIDENCE) for path in sorted(folder.glob("*.figures/*.png"))]
    distance, samples = (f"![{path.stem}]({path})" for path in figures)
    numbers = narrowed(table.with_suffix(".md").read_text(), (*UNREAD, "missing", "training (s)"))
    shown = "\n\n".join([samples, made_by, numbers, distance])
    page = EVIDENCE / "README.md"
    page.write_text(between(page.read_text(), name, f"{shown}\n"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
