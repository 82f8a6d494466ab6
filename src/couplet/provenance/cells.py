"""Cells read with the records of all their stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from couplet.config.cells import Cell
from couplet.files import read_json
from couplet.plan.layout import Layout
from couplet.plan.stages import STAGES
from couplet.provenance.chain import Record, check_key, check_linked, check_small_files, read_record


class Read(NamedTuple):
    """A file of numbers, and the record of the run that they are of."""

    content: Mapping[str, Any]
    run: Mapping[str, Any]


class Chains:
    """Reads cells with all their records; what cells share is read and checked once."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.records: dict[Path, Record] = {}
        self.read: dict[Path, str] = {}
        """The files that were read, with their recorded SHA-256."""

    def evaluation(self, cell: Cell, extractor: str) -> Read:
        """A cell's evaluation; its selection and samples are checked as well.

        Raises:
            UserError: its records do not fit the parameters, each other, or the small files of their stages.
        """
        return self._numbers(cell, extractor, ("select", "sample", "evaluate"))

    def selection(self, cell: Cell, extractor: str) -> Read:
        """A cell's selection.

        Raises:
            UserError: as for :meth:`evaluation`, of the stages up to `select`.
        """
        return self._numbers(cell, extractor, ("select",))

    def _numbers(self, cell: Cell, extractor: str, measured: Sequence[str]) -> Read:
        """The output of the last stage of ``measured``, after all records before it have been checked."""
        outputs = self.layout.outputs(cell, extractor)
        needed = [s for s in STAGES if s in measured or (s in outputs and not _measures(s))]
        keys = self.layout.keys(cell, extractor)
        paths = self.layout.records(cell, extractor)
        records = {stage: self._record(paths[stage]) for stage in needed}
        for stage, record in records.items():
            check_key(record, keys[stage])
        check_linked(records.values())
        for stage in measured:
            self.read |= records[stage].outputs
        return Read(read_json(outputs[measured[-1]]), records["train"].content)

    def _record(self, path: Path) -> Record:
        if path not in self.records:
            self.records[path] = read_record(path)
            check_small_files(self.records[path])
        return self.records[path]


def _measures(stage: str) -> bool:
    """Whether a stage measures a trained model."""
    return "train" in STAGES[stage].reads
