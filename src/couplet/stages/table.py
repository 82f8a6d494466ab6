"""Stage `table`: every cell of the grid in one table, with its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from couplet import reporting
from couplet.config import Cell, Invalid, Params
from couplet.config.layout import Layout
from couplet.data import Archive, read_array
from couplet.errors import UserError
from couplet.files import read_json, replacing
from couplet.reporting import Result
from couplet.reporting.figures import distance_curves, sample_grids
from couplet.stages.sample import samples_name

SHOWN = 36
"""Samples in a panel of the figure."""


def table(params: Params, root: Path, out: Path, part: str = "") -> Sequence[Mapping[str, str]]:
    """Writes ``out`` (CSV), the same as .md and .html beside it, and pictures in the folder .figures.

    ``part`` keeps the cells whose names begin with it: ``cifar10`` or ``cifar10-ict-ve-vae``.

    Raises:
        UserError: a cell's results are missing, or were made with other settings than ``params``, or no
            cell's name begins with ``part``.
    """
    layout = Layout(params, root)
    try:
        measured = params.measured(part)
    except Invalid as error:
        raise UserError(str(error)) from None
    made = reporting.rows(_result(layout, cell, extractor) for cell, extractor in measured)
    for path, text in (
        (out, reporting.to_csv(made)),
        (out.with_suffix(".md"), reporting.to_markdown(made)),
        (out.with_suffix(".html"), reporting.to_html(made, out.stem)),
    ):
        with replacing(path) as temporary:
            temporary.write_text(text)
    for group, members in _groups(measured).items():
        folder = out.with_suffix(".figures")
        _samples(layout, members, folder / f"{group}-samples.png")
        _curves(layout, members, folder / f"{group}-distance.png")
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


def _result(layout: Layout, cell: Cell, extractor: str) -> Result:
    params = layout.params
    training, measurement = params.training(cell), params.measurement(cell, extractor)
    path = layout.evaluation(cell, extractor) / "evaluation.json"
    evaluation = read_json(path)
    for key, wanted in (("training_key", training.key), ("measurement_key", measurement.key)):
        if evaluation.get(key) != wanted:
            raise UserError(
                f"{path}: {key} is {evaluation.get(key)}, the parameters give {wanted}; "
                f"run `couplet evaluate` of {cell} again"
            )
    record = read_json(layout.train(cell) / "record.json")
    return Result(layout.run(cell).name, training, evaluation, record, params.scale or "")


def _samples(layout: Layout, measured: Sequence[Measured], path: Path) -> None:
    """Samples of the first seed, all couplings from the same noise, beside as many real images."""
    first: dict[str, Path] = {}
    for cell, extractor in measured:
        first.setdefault(cell.coupling, layout.evaluation(cell, extractor) / "samples")
    panels: dict[str, dict[str, np.ndarray]] = {}
    for nfe in sorted(layout.params.sample.nfe):
        panels[f"NFE {nfe}"] = {
            coupling: read_array(folder / samples_name(nfe))[:SHOWN] for coupling, folder in first.items()
        }
    # Evenly spaced, for many data sets are sorted by class.
    real = Archive(layout.data(measured[0][0].dataset)).train.images
    shown = np.linspace(0, len(real) - 1, min(SHOWN, len(real))).astype(int)
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
