"""Records read again: the file from which each file came, and whether the records agree.

Only digests in records are compared, and only files of a few kilobytes are read; `couplet verify` reads all.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from couplet.config.cells import Cell
from couplet.errors import UserError
from couplet.files import read_json, sha256
from couplet.plan.code import current
from couplet.plan.content import content_of
from couplet.plan.layout import Layout
from couplet.plan.stages import RECORD, RECORD_SUFFIX, STAGES, beside, keys_of, record_of


@dataclass(frozen=True)
class Record:
    """A record and its path; the paths in it are relative if its own is."""

    path: Path
    content: Mapping[str, Any]

    @property
    def stage(self) -> str:
        return str(self.content["stage"])

    @cached_property
    def inputs(self) -> dict[Path, str]:
        """The files that the stage read, with their SHA-256."""
        return self._files("inputs")

    @cached_property
    def outputs(self) -> dict[Path, str]:
        """The files that the stage wrote, with their SHA-256."""
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
    """The record of the stage that wrote ``file``, beside the file or one of two folders above it."""
    folders = file.parents[:2]
    candidates = [
        *sorted(file.parent.glob(f"*{RECORD_SUFFIX}")),
        *(beside(folder) for folder in folders if folder.name),
        *(folder / RECORD for folder in folders),
    ]
    records = (read_record(path) for path in candidates if path.is_file())
    return next((record for record in records if file in record.outputs), None)


def check_linked(records: Iterable[Record]) -> None:
    """Raise UserError if a stage read other files than the stage before it wrote.

    Each stage has one record at most. If the stages worked in other folders than these, the digests must
    still agree.
    """
    by_stage = {record.stage: record for record in records}
    for after in by_stage.values():
        for stage in STAGES[after.stage].reads:
            if before := by_stage.get(stage):
                _check_link(before, after)


def _check_link(before: Record, after: Record) -> None:
    shared = [path for path in before.outputs if path in after.inputs]
    for path in shared:
        if (written := before.outputs[path]) != (read := after.inputs[path]):
            raise UserError(
                f"{after.path}: {after.stage} used {path} with SHA-256 {read[:16]}, {before.stage} recorded "
                f"{written[:16]}; run `couplet {after.stage}` again"
            )
    if not shared and not set(before.outputs.values()) & set(after.inputs.values()):
        raise UserError(
            f"{after.path}: {after.stage} used nothing that {before.path} is the record of; "
            f"run `couplet {after.stage}` again"
        )


def check_small_files(record: Record) -> None:
    """Raise UserError if a card, a configuration or a file of numbers has another digest than recorded."""
    for path, digest in record.outputs.items():
        if path.suffix in (".json", ".csv") and (present := sha256(path)) != digest:
            raise UserError(
                f"{path}: has SHA-256 {present[:16]}, {record.path} says {digest[:16]}: edited or damaged; "
                f"run `couplet {record.stage}` again"
            )


def is_intact(record: Record) -> bool:
    """Whether all outputs in a record are there as written; files seen before are not read again."""
    return all(content_of(path) == digest for path, digest in record.outputs.items())


def check_key(record: Record, key: str) -> None:
    """Raise UserError if the record's cache key is not ``key``."""
    if (recorded := record.content["key"]) != key:
        raise UserError(
            f"{record.path}: key is {recorded}, the parameters give {key}; run `couplet {record.stage}` again"
        )


def changed_code(record: Record) -> list[str]:
    """The definitions in a record that have changed since the output was made."""
    code: Mapping[str, str] = record.content["code"]
    return [definition for definition, digest in code.items() if current(definition) != digest]


def chain(end: Record) -> Sequence[Record]:
    """``end`` and the records of its direct and indirect inputs, the latest stage first.

    Raises:
        UserError: a record is damaged, a small file was edited, or a stage read other files than the stage
            before it wrote.
    """
    records, waiting = {end.path: end}, [end]
    while waiting:
        after = waiting.pop()
        for path, used in after.inputs.items():
            before = maker(path)
            if before is None:
                continue
            if before.outputs[path] != used:
                _check_link(before, after)
            if before.path not in records:
                records[before.path] = before
                waiting.append(before)
    for record in records.values():
        check_small_files(record)
    order = [*STAGES, *(record.stage for record in records.values())]
    return sorted(records.values(), key=lambda record: order.index(record.stage), reverse=True)


class Chains:
    """Checks cells with all their records; files that cells share are read once."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._records: dict[Path, Record] = {}
        self._numbers: dict[Path, str] = {}

    def run(self, cell: Cell, name: str, stage: str) -> Mapping[str, Any]:
        """Check the records from which the output of ``stage`` comes; return the content of the run's record.

        Args:
            cell: the cell.
            name: an extractor, or for the stage `probe` a probe.
            stage: a stage that measures a run.

        Raises:
            UserError: a record does not fit the parameters, the others, or the small files of its stage.
        """
        measured_by = {"probe" if stage == "probe" else "extractor": name}
        keys = keys_of(self.layout.settings(cell, **measured_by), stage)
        records = {}
        for each, key in keys.items():
            path = record_of(each, self.layout.output(each, cell, name))
            if path not in self._records:
                self._records[path] = read_record(path)
                check_small_files(self._records[path])
            records[each] = self._records[path]
            check_key(records[each], key)
            if "train" in STAGES[each].reads:
                self._numbers |= records[each].outputs
        check_linked(records.values())
        return records["train"].content

    @property
    def inputs(self) -> dict[Path, str]:
        """SHA-256 of all files of numbers that were checked, and of all records."""
        return {**self._numbers, **{path: sha256(path) for path in self._records}}
