"""`couplet verify`: every recorded file read again and compared with its record."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

from couplet.errors import UserError
from couplet.files import sha256
from couplet.plan.stages import RECORD, RECORD_SUFFIX
from couplet.provenance.record import Record, changed_code, read_record

UNFINISHED = (".partial", ".replaced")
"""Endings of the working folders of a run, whose states carry digests of their own."""


Advance = Callable[[int], None]
"""Called with numbers of bytes that were read."""


class Findings(NamedTuple):
    """Lines to print, and what was read."""

    problems: Sequence[str]
    """Files that are missing or differ from a record."""
    notes: Sequence[str]
    """Observations that may well be right."""
    files: int
    records: int


def verify(
    root: Path,
    counting: Callable[[int], AbstractContextManager[Advance]] = lambda size: nullcontext(lambda count: None),
) -> Findings:
    """Read every file once that a record below ``root`` names, inside it and outside, and compare it.

    A missing file outside the folder is a note: it may lie where this folder was copied from.

    Args:
        root: folder of a grid, an experiment or a run.
        counting: called with the number of bytes to read; a context that shows progress.

    Raises:
        UserError: there is no record below ``root``.
    """
    records: list[Record] = []
    problems: list[str] = []
    notes: list[str] = []
    for path in sorted(_walk(root)):
        if path.name == RECORD or path.name.endswith(RECORD_SUFFIX):
            try:
                records.append(read_record(path))
            except UserError as error:
                problems.append(str(error))
    if not records and not problems:
        raise UserError(f"{root}: holds no record of a stage; give the folder of a grid or of a run")
    # Every recorded file; for each digest of it, the number of records that name it, by stage.
    files: dict[Path, dict[str, Counter[str]]] = {}
    for record in records:
        for path, digest in (*record.outputs.items(), *record.inputs.items()):
            files.setdefault(path, {}).setdefault(digest, Counter())[record.stage] += 1
    written = {path for record in records for path in record.outputs}
    with counting(sum(path.stat().st_size for path in files if path.is_file())) as advance:
        for path, digests in sorted(files.items()):
            stages = {digest: _listed(counts) for digest, counts in digests.items()}
            if not path.is_file():
                inside = path in written or not os.path.relpath(path, root).startswith("..")
                line = f"{path}: missing, recorded by {', '.join(stages.values())}"
                (problems if inside else notes).append(line)
                continue
            try:
                present = sha256(path)
            except UserError as error:
                problems.append(str(error))
                continue
            advance(path.stat().st_size)
            problems += [
                f"{path}: SHA-256 recorded by {by} {digest[:16]}, found {present[:16]}"
                for digest, by in stages.items()
                if digest != present
            ]
    notes += [*_unrecorded(root, records, written), *_other_code(records)]
    return Findings(problems, notes, files=len(files), records=len(records))


def _walk(root: Path) -> Iterator[Path]:
    """All files below ``root`` except hidden ones and those of unfinished runs."""
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if name[0] != "." and not name.endswith(UNFINISHED)]
        yield from (Path(folder, name) for name in names if name[0] != ".")


def _unrecorded(root: Path, records: Sequence[Record], written: set[Path]) -> Iterator[str]:
    """A line for each file in a folder of outputs that no record names."""
    known = written | {record.path for record in records}
    # A table and a probe are files beside outputs of other stages.
    stages = (record for record in records if record.stage not in ("table", "published", "probe"))
    folders = {path.parent for record in stages for path in record.outputs}
    for path in sorted(_walk(root)):
        if path.parent in folders and path not in known and not path.is_symlink():
            yield f"{path}: in no record"


def _other_code(records: Sequence[Record]) -> Iterator[str]:
    """A line for each stage with results of other code than is installed."""
    changed = ((record.stage, code[0]) for record in records if (code := changed_code(record)))
    for (stage, definition), count in sorted(Counter(changed).items()):
        number = "1 record" if count == 1 else f"{count} records"
        yield f"{stage}: {number} made by other code than is installed, first in {definition}"


def _listed(stages: Counter[str]) -> str:
    return ", ".join(stage if count == 1 else f"{stage} ({count} times)" for stage, count in stages.items())
