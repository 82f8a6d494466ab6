"""`couplet verify`: every recorded file read again and compared with its record."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from couplet.errors import UserError
from couplet.plan.stages import RECORD, RECORD_SUFFIX
from couplet.provenance.chain import Record, changed_code, read_record

CHUNK = 1 << 22
"""Bytes that are read at a time."""

UNFINISHED = (".partial", ".replaced")
"""Endings of folders that a training works in; its states carry digests of their own."""


@dataclass(frozen=True)
class Inventory:
    """What lies below a folder, by its records."""

    root: Path
    records: Sequence[Record]
    damaged: Sequence[str]
    """What is wrong with records that cannot be read."""
    files: Mapping[Path, Mapping[str, Counter[str]]]
    """Every recorded file, with how many records of which stage name each digest of it."""

    @property
    def size(self) -> int:
        """Bytes to read."""
        return sum(path.stat().st_size for path in self.files if path.is_file())


@dataclass(frozen=True)
class Findings:
    """Lines to print."""

    problems: Sequence[str]
    """Files that are missing or are not what a record says."""
    notes: Sequence[str]
    """What is worth knowing and may well be right."""


def inventory(root: Path) -> Inventory:
    """The records below ``root``, and the files that they name, inside it and outside.

    Raises:
        UserError: there is no record below ``root``.
    """
    records: list[Record] = []
    damaged = []
    for path in sorted(_walk(root)):
        if path.name == RECORD or path.name.endswith(RECORD_SUFFIX):
            try:
                records.append(read_record(path))
            except UserError as error:
                damaged.append(str(error))
    if not records and not damaged:
        raise UserError(f"{root}: holds no record of a stage; give the folder of a grid or of a run")
    files: dict[Path, dict[str, Counter[str]]] = {}
    for record in records:
        for part in (record.outputs, record.inputs):
            for path, digest in part.items():
                files.setdefault(path, {}).setdefault(digest, Counter())[record.stage] += 1
    return Inventory(root, records, damaged, dict(sorted(files.items())))


def verify(found: Inventory, advance: Callable[[int], None]) -> Findings:
    """Reads every recorded file once; ``advance`` is called with numbers of bytes.

    A file outside the folder that is not there is a note: it may lie where this folder came from.
    """
    problems, notes = list(found.damaged), list[str]()
    written = {path for record in found.records for path in record.outputs}
    for path, recorded in found.files.items():
        who = {digest: _stages(stages) for digest, stages in recorded.items()}
        if not path.is_file():
            inside = path in written or not os.path.relpath(path, found.root).startswith("..")
            line = f"{path}: missing, recorded by {', '.join(who.values())}"
            (problems if inside else notes).append(line)
            continue
        try:
            digest = _sha256(path, advance)
        except OSError as error:
            problems.append(f"{path}: cannot be read ({error.strerror or error})")
            continue
        problems += [
            f"{path}: SHA-256 recorded by {stages} {other[:16]}, found {digest[:16]}"
            for other, stages in who.items()
            if other != digest
        ]
    return Findings(problems, [*notes, *_extra(found, written), *_other_code(found.records)])


def _walk(root: Path) -> Iterator[Path]:
    """All files below ``root`` but hidden ones and those of unfinished trainings."""
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if name[0] != "." and not name.endswith(UNFINISHED)]
        yield from (Path(folder, name) for name in names if name[0] != ".")


def _extra(found: Inventory, written: set[Path]) -> Iterator[str]:
    """Files that lie among a stage's outputs and are in no record."""
    records = {record.path for record in found.records}
    # These two write a file of their own name beside what others wrote.
    stages = (record for record in found.records if record.stage not in ("table", "probe"))
    folders = {path.parent for record in stages for path in record.outputs}
    for path in sorted(_walk(found.root)):
        if path.parent in folders and path not in written and path not in records:
            yield f"{path}: in no record"


def _other_code(records: Sequence[Record]) -> Iterator[str]:
    """A line for each stage of which results were made by other code than is installed."""
    made: Counter[tuple[str, str]] = Counter()
    for record in records:
        if changed := changed_code(record):
            made[record.stage, changed[0]] += 1
    for (stage, definition), count in sorted(made.items()):
        records_ = "1 record" if count == 1 else f"{count} records"
        yield f"{stage}: {records_} made by other code than is installed, first in {definition}"


def _stages(stages: Counter[str]) -> str:
    return ", ".join(stage if count == 1 else f"{stage} ({count} times)" for stage, count in stages.items())


def _sha256(path: Path, advance: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            advance(len(chunk))
    return digest.hexdigest()
