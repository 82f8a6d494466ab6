"""Cells read with the records of all their stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from couplet.config import Cell
from couplet.config.cells import digest
from couplet.config.layout import Layout
from couplet.files import read_json
from couplet.reporting.table import Result
from couplet.stages.provenance import (
    Record,
    check_linked,
    check_settings,
    check_small_files,
    read_record,
)
from couplet.stages.sample import samples_name


class Chains:
    """Reads cells with all their records; what cells share is read and checked once."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.records: dict[Path, Record] = {}
        self.read: dict[Path, str] = {}
        """The files that were read, with their recorded SHA-256."""

    def result(self, cell: Cell, extractor: str) -> Result:
        """A cell's numbers.

        Raises:
            UserError: its records do not fit the parameters, each other, or the small files of their stages.
        """
        params, folder = self.layout.params, self.layout.evaluation(cell, extractor)
        records = self._chain(cell, extractor, ("select", "sample", "evaluate"))
        files = {
            folder / "evaluation.json": records["evaluate"],
            folder / "selection.json": records["select"],
            **{
                folder / "samples" / samples_name(nfe): records["sample"]
                for nfe in params.measurement(cell, extractor).sample.nfe
            },
        }
        evaluation = read_json(folder / "evaluation.json")
        self.read |= {path: record.outputs[path] for path, record in files.items()}
        return Result(
            run=self.layout.run(cell).name,
            training=params.training(cell),
            extractor=extractor,
            features=params.features[extractor],
            evaluation=evaluation,
            record=records["train"].content,
            scale=params.scale or "",
        )

    def selection(self, cell: Cell, extractor: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Content of a cell's selection.json, and the record of its training.

        Raises:
            UserError: as for :meth:`result`, of the stages up to `select`.
        """
        path = self.layout.evaluation(cell, extractor) / "selection.json"
        records = self._chain(cell, extractor, ("select",))
        self.read |= {path: records["select"].outputs[path]}
        return read_json(path), records["train"].content

    def _chain(self, cell: Cell, extractor: str, measured: Sequence[str]) -> dict[str, Record]:
        """A cell's records by stage, of ``measured`` and the stages before, checked against each other."""
        params = self.layout.params
        training, measurement = params.training(cell), params.measurement(cell, extractor)
        keys = {
            "prepare": digest(training.dataset),
            "features": digest(measurement.features),
            "train": training.key,
        }
        records = {
            stage: self._record(path)
            for stage, path in self.layout.records(cell, extractor).items()
            if stage in (*keys, "reference", *measured)
        }
        for stage, key in keys.items():
            check_settings(records[stage], key=key)
        for stage in measured:
            check_settings(records[stage], run=f"{cell}-{training.key}", key=measurement.key)
        check_linked(records.values())
        return records

    def _record(self, path: Path) -> Record:
        if path not in self.records:
            self.records[path] = read_record(path)
            check_small_files(self.records[path])
        return self.records[path]
