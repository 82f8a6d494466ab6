"""Stage `table`: every cell of the grid in one table, with its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from couplet import reporting
from couplet.config import Cell, Params
from couplet.config.layout import Layout
from couplet.data import Archive, read_array
from couplet.errors import UserError
from couplet.files import read_json, replacing
from couplet.reporting import Result
from couplet.reporting.figures import distance_curves, sample_grids
from couplet.stages.sample import samples_name

SHOWN = 36
"""Samples in a panel of the figure."""


def table(params: Params, root: Path, out: Path) -> Sequence[Mapping[str, str]]:
    """Writes ``out`` (CSV), the same as .md beside it, and figures/ in the same folder.

    Raises:
        UserError: a cell's results are missing, or were made with other settings than ``params``.
    """
    layout = Layout(params, root)
    cells = list(params.table1.cells())
    results = [_result(layout, cell) for cell in cells]
    made = reporting.rows(results)
    for path, text in (
        (out, reporting.to_csv(made)),
        (out.with_suffix(".md"), reporting.to_markdown(made)),
    ):
        with replacing(path) as temporary:
            temporary.write_text(text)
    for group in dict.fromkeys((cell.dataset, cell.recipe, cell.kernel) for cell in cells):
        members = [c for c in cells if (c.dataset, c.recipe, c.kernel) == group]
        name = "-".join((out.stem, *group))
        folder = out.parent / "figures"
        _samples(layout, members, folder / f"{name}-samples.png")
        _curves(layout, members, folder / f"{name}-distance.png")
    return made


def _result(layout: Layout, cell: Cell) -> Result:
    training, measurement = layout.params.training(cell), layout.params.measurement(cell)
    path = layout.evaluation(cell) / "evaluation.json"
    evaluation = read_json(path)
    for key, wanted in (("training_key", training.key), ("measurement_key", measurement.key)):
        if evaluation.get(key) != wanted:
            raise UserError(
                f"{path}: {key} is {evaluation.get(key)}, the parameters give {wanted}; "
                f"run `couplet evaluate` of {cell} again"
            )
    record = read_json(layout.train(cell) / "record.json")
    return Result(layout.run(cell).name, training, evaluation, record)


def _samples(layout: Layout, cells: Sequence[Cell], path: Path) -> None:
    """Samples of the first seed, all couplings from the same noise, beside as many real images."""
    first: dict[str, Cell] = {}
    for cell in cells:
        first.setdefault(cell.coupling, cell)
    panels: dict[str, dict[str, np.ndarray]] = {}
    for nfe in sorted(layout.params.sample.nfe):
        panels[f"NFE {nfe}"] = {
            coupling: read_array(layout.evaluation(cell) / "samples" / samples_name(nfe))[:SHOWN]
            for coupling, cell in first.items()
        }
    real = Archive(layout.data(cells[0].dataset)).train.images[:SHOWN]
    next(iter(panels.values()))["real images"] = real
    sample_grids(path, panels)


def _curves(layout: Layout, cells: Sequence[Cell], path: Path) -> None:
    """Every snapshot's distance as `select` measured it."""
    nfe = layout.params.select.nfe
    curves: dict[str, list[dict[int, float]]] = {}
    for cell in cells:
        scores = read_json(layout.evaluation(cell) / "selection.json")["scores"]
        curves.setdefault(cell.coupling, []).append(
            {score["step"]: score[f"fd_nfe{nfe}"] for score in scores}
        )
    distance_curves(path, curves, ylabel=f"Fréchet distance to test split, NFE {nfe}")
