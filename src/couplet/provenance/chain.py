"""Records read again: which file came from which, and whether they agree.

Recorded digests are compared with recorded digests, and only files of a few kilobytes are read:
`couplet verify` reads everything.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from couplet.errors import UserError
from couplet.files import read_json, sha256
from couplet.plan.code import current
from couplet.plan.stages import RECORD, RECORD_SUFFIX, STAGES, beside


@dataclass(frozen=True)
class Record:
    """A record and where it lies; paths are as the record's own path is, relative or absolute."""

    path: Path
    content: Mapping[str, Any]

    @property
    def stage(self) -> str:
        return str(self.content["stage"])

    @cached_property
    def inputs(self) -> dict[Path, str]:
        """What the stage read, with its SHA-256."""
        return self._files("inputs")

    @cached_property
    def outputs(self) -> dict[Path, str]:
        """What the stage wrote, with its SHA-256."""
        return self._files("outputs")

    def _files(self, part: str) -> dict[Path, str]:
        files: Mapping[str, str] = self.content[part]
        return {Path(os.path.normpath(self.path.parent / name)): digest for name, digest in files.items()}


PARTS = ("stage", "key", "settings", "inputs", "outputs", "code", "commit", "dirty", "seconds")


def read_record(path: Path, advice: str = "run the stage again") -> Record:
    """The record in a file.

    Raises:
        UserError: the file is missing or holds something else; the message ends with ``advice``.
    """
    if not path.exists():
        raise UserError(f"{path}: no such record; {advice}")
    content = read_json(path)
    lacks = [part for part in PARTS if not isinstance(content, Mapping) or part not in content]
    if lacks:
        raise UserError(f"{path}: not a record of this version, {lacks[0]} is missing; {advice}")
    return Record(path, content)


def maker(file: Path) -> Record | None:
    """The record of the stage that wrote ``file``, looked for beside the file and the folders above it."""
    folders = file.parents[:2]
    candidates = [
        *sorted(file.parent.glob(f"*{RECORD_SUFFIX}")),
        *(beside(folder) for folder in folders if folder.name),
        *(folder / RECORD for folder in folders),
    ]
    for path in candidates:
        if path.is_file() and file in (record := read_record(path)).outputs:
            return record
    return None


def check_linked(records: Iterable[Record]) -> None:
    """Raise UserError where a stage read something else than the stage before it wrote.

    There is one record of each stage at most. Where the stages worked in other folders than these, what
    was read must at least be the same files.
    """
    by_stage = {record.stage: record for record in records}
    for after in by_stage.values():
        for stage in STAGES[after.stage].reads:
            if before := by_stage.get(stage):
                _check_link(before, after)


def _check_link(before: Record, after: Record) -> None:
    shared = [path for path in before.outputs if path in after.inputs]
    for path in shared:
        if (made := before.outputs[path]) != (used := after.inputs[path]):
            raise UserError(
                f"{after.path}: {after.stage} used {path} with SHA-256 {used[:16]}, {before.stage} recorded "
                f"{made[:16]}; run `couplet {after.stage}` again"
            )
    if not shared and not set(before.outputs.values()) & set(after.inputs.values()):
        raise UserError(
            f"{after.path}: {after.stage} used nothing that {before.path} is the record of; "
            f"run `couplet {after.stage}` again"
        )


def check_small_files(record: Record) -> None:
    """Raise UserError if a card, a configuration or a file of numbers is not the one of the record."""
    for path, digest in record.outputs.items():
        if path.suffix in (".json", ".csv") and (found := sha256(path)) != digest:
            raise UserError(
                f"{path}: has SHA-256 {found[:16]}, {record.path} says {digest[:16]}: edited or damaged; "
                f"run `couplet {record.stage}` again"
            )


def check_key(record: Record, key: str) -> None:
    """Raise UserError if the record's cache key is not ``key``."""
    if (recorded := record.content["key"]) != key:
        raise UserError(
            f"{record.path}: key is {recorded}, the parameters give {key}; run `couplet {record.stage}` again"
        )


def changed_code(record: Record) -> list[str]:
    """The definitions in a record that are not what they were when the output was made."""
    code: Mapping[str, str] = record.content["code"]
    return [definition for definition, digest in code.items() if current(definition) != digest]


def chain(end: Record) -> Sequence[Record]:
    """``end`` and all records that it was made from, the latest stage first.

    Raises:
        UserError: a record is damaged, or what one used is not what another made.
    """
    found = {end.path: end}
    waiting = [end]
    while waiting:
        after = waiting.pop()
        for path, used in after.inputs.items():
            before = maker(path)
            if before is None:
                continue
            if before.outputs[path] != used:
                _check_link(before, after)
            if before.path not in found:
                found[before.path] = before
                waiting.append(before)
    order = list(STAGES)
    return sorted(
        found.values(),
        key=lambda record: order.index(record.stage) if record.stage in order else len(order),
        reverse=True,
    )
