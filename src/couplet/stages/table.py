"""Stage `table`: every cell of the grid in one table, with its figures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from couplet import reporting
from couplet.config import Cell, Invalid, Params
from couplet.config.cells import digest
from couplet.config.layout import Layout, record_of
from couplet.data.archive import Archive, read_array
from couplet.errors import UserError
from couplet.files import read_json, replacing
from couplet.reporting import Missing, Result
from couplet.reporting.figures import distance_curves, panel_size, sample_grids
from couplet.stages.provenance import (
    Record,
    check_linked,
    check_settings,
    check_small_files,
    read_record,
)
from couplet.stages.record import Recorder, digests
from couplet.stages.sample import samples_name

UNDONE = {
    "prepare": "no data set",
    "features": "no extractor",
    "reference": "no reference statistics",
    "train": "not trained",
    "select": "nothing selected",
    "sample": "no samples",
    "evaluate": "not evaluated",
}
"""What is said of a cell by the first stage that has not left its record."""


def table(
    params: Params, root: Path, out: Path, part: str = "", *, partial: bool = False
) -> Sequence[Mapping[str, str]]:
    """Writes ``out`` (CSV), the same as .md and .html, a record, and pictures in the folder .figures.

    Every number's record must fit the parameters and the records of what it was made from.

    Args:
        params: say which cells there are.
        root: folder of the grid's results.
        out: the file to write.
        part: keeps the cells whose names begin with it: ``cifar10`` or ``cifar10-ict-ve-vae``.
        partial: make the table of the cells that are there; it names the others.

    Raises:
        UserError: a cell's results are missing, without ``partial`` or all of them, or were made with other
            settings than ``params`` or from other files than lie there now, or no cell's name begins with
            ``part``.
    """
    record = Recorder("table", record_of(out), torch.device("cpu"))
    layout = Layout(params, Path(os.path.normpath(root)))
    try:
        measured = params.measured(part)
    except Invalid as error:
        raise UserError(str(error)) from None
    lacking = {pair: stage for pair in measured if (stage := _lacking(layout, *pair))}
    there = [pair for pair in measured if pair not in lacking]
    if lacking and not (partial and there):
        raise UserError(_incomplete(layout, lacking, len(measured), partial))
    chains = Chains(layout)
    results = {pair: chains.result(*pair) for pair in there}
    missing = {pair: _missing(params, *pair, stage) for pair, stage in lacking.items()}
    made = reporting.rows(results.get(pair) or missing[pair] for pair in measured)
    texts = {
        out: reporting.to_csv(made),
        out.with_suffix(".md"): reporting.to_markdown(made),
        out.with_suffix(".html"): reporting.to_html(made, out.stem),
    }
    for path, text in texts.items():
        with replacing(path) as temporary:
            temporary.write_text(text)
    figures = []
    for group, members in _groups(there).items():
        folder = out.with_suffix(".figures")
        figures += [folder / f"{group}-samples.png", folder / f"{group}-distance.png"]
        _samples(layout, members, figures[-2])
        _curves(layout, members, figures[-1])
    record.write(
        settings={"scale": params.scale, "part": part, "partial": partial},
        inputs={**chains.read, **digests(*chains.records)},
        outputs=digests(*texts, *figures),
        evaluations={
            f"{result.run} {result.evaluation['extractor']}": os.path.relpath(
                layout.evaluation(*pair) / "evaluation.json", out.parent
            )
            for pair, result in results.items()
        },
    )
    return made


Measured = tuple[Cell, str]
"""A cell, and the extractor that it is measured with."""


def _groups(measured: Sequence[Measured]) -> dict[str, list[Measured]]:
    """What shares a picture: couplings and seeds of one data set, recipe, kernel and extractor."""
    groups: dict[str, list[Measured]] = {}
    for cell, extractor in measured:
        groups.setdefault(f"{cell.dataset}-{cell.recipe}-{cell.kernel}-{extractor}", []).append(
            (cell, extractor)
        )
    return groups


def _lacking(layout: Layout, cell: Cell, extractor: str) -> str | None:
    """The first stage of a cell that has not left its record, if any."""
    return next((stage for stage, path in layout.records(cell, extractor).items() if not path.exists()), None)


def _incomplete(layout: Layout, lacking: Mapping[Measured, str], count: int, partial: bool) -> str:
    (cell, extractor), stage = next(iter(lacking.items()))
    path = layout.records(cell, extractor)[stage]
    others = "no cell is there" if partial else "`couplet table --partial` makes the table of the others"
    return (
        f"{layout.root}: {len(lacking)} of {count} cells are missing, first {cell}: {UNDONE[stage]}, "
        f"{path} is not there; {others}"
    )


def _missing(params: Params, cell: Cell, extractor: str, stage: str) -> Missing:
    nfe = params.measurement(cell, extractor).sample.nfe
    return Missing(params.training(cell), extractor, nfe, UNDONE[stage], params.scale or "")


class Chains:
    """Reads cells with all their records; what cells share is read and checked once."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.records: dict[Path, Record] = {}
        self.read: dict[Path, str] = {}
        """What the table is made from, as it is recorded."""

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
        run = self.layout.run(cell).name
        training = params.training(cell)
        return Result(run, training, extractor, evaluation, records["train"].content, params.scale or "")

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


def _samples(layout: Layout, measured: Sequence[Measured], path: Path) -> None:
    """Samples of the first seed, all couplings from the same noise, beside as many real images."""
    first: dict[str, Path] = {}
    for cell, extractor in measured:
        first.setdefault(cell.coupling, layout.evaluation(cell, extractor) / "samples")
    panels: dict[str, dict[str, np.ndarray]] = {}
    for nfe in sorted(layout.params.sample.nfe):
        panels[f"NFE {nfe}"] = {
            coupling: read_array(folder / samples_name(nfe)) for coupling, folder in first.items()
        }
    # Evenly spaced, for many data sets are sorted by class.
    real = Archive(layout.data(measured[0][0].dataset)).train.images
    shown = np.linspace(0, len(real) - 1, min(panel_size(real.shape[1:]), len(real))).astype(int)
    next(iter(panels.values()))["real images"] = real[shown]
    sample_grids(path, panels)


def _curves(layout: Layout, measured: Sequence[Measured], path: Path) -> None:
    """Every snapshot's distance as `select` measured it."""
    select = layout.params.select
    curves: dict[str, list[dict[int, float]]] = {}
    for cell, extractor in measured:
        scores = read_json(layout.evaluation(cell, extractor) / "selection.json")["scores"]
        curves.setdefault(cell.coupling, []).append(
            {score["step"]: score[f"fd_nfe{select.nfe}"] for score in scores}
        )
    ylabel = f"Fréchet distance to {select.split} split, NFE {select.nfe}, {measured[0][1]}"
    distance_curves(path, curves, ylabel=ylabel)
