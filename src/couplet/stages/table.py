"""Stage `table`: every cell of the grid in one table, with its figures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from couplet.config.base import Invalid
from couplet.config.cells import Cell
from couplet.config.params import Params
from couplet.data.archive import Archive, read_array
from couplet.errors import UserError
from couplet.files import read_json, replacing
from couplet.plan.layout import Layout
from couplet.plan.stages import STAGES
from couplet.plan.summaries import table_key
from couplet.provenance.record import Chains, SummaryRecorder, digests
from couplet.reporting.figures import distance_curves, panel_size, sample_grids
from couplet.reporting.table import Missing, Result, table
from couplet.stages.sample import samples_name


def run(params: Params, root: Path, out: Path, part: str = "", *, partial: bool = False) -> str:
    """Write the table ``out`` (CSV), also as .md and .html, a record, and pictures in the folder .figures.

    The record of every number must agree with the parameters and with the records of its inputs.

    Args:
        params: settings with the cells.
        root: folder of the grid's results.
        out: the file to write.
        part: only cells whose names begin with this: ``cifar10`` or ``cifar10-ict-ve-vae``.
        partial: make the table of the finished cells; it names the missing ones.

    Raises:
        UserError: results are missing (without ``partial`` any, with it all), or belong to other settings
            than ``params`` or to other files than the present ones; or no cell's name begins with ``part``.
    """
    layout = Layout(params, Path(os.path.normpath(root)))
    try:
        measured = params.measured(part)
    except Invalid as error:
        raise UserError(str(error)) from None
    settings = {"scale": params.scale, "part": part, "partial": partial}
    record = SummaryRecorder("table", settings, out, "partial" if partial else table_key(layout, part))
    missing = {pair: stage for pair in measured if (stage := _first_missing(layout, *pair))}
    finished = [pair for pair in measured if pair not in missing]
    if missing and not (partial and finished):
        raise UserError(_incomplete(layout, missing, len(measured), partial))
    chains = Chains(layout)
    results = {pair: _result(chains, *pair) for pair in finished}
    scale, nfe = params.scale or "", params.sample.nfe
    rows = (
        results.get((cell, extractor))
        or Missing(
            params.training(cell),
            extractor,
            nfe=nfe,
            why=STAGES[missing[cell, extractor]].absent,
            scale=scale,
        )
        for cell, extractor in measured
    )
    content = table(rows)
    texts = {
        out: content.csv(),
        out.with_suffix(".md"): content.markdown(),
        out.with_suffix(".html"): content.html(out.stem),
    }
    for path, text in texts.items():
        with replacing(path) as temporary:
            temporary.write_text(text)
    # A picture for the couplings and seeds of one data set, recipe, kernel and extractor.
    groups: dict[str, list[Measured]] = {}
    for cell, extractor in finished:
        name = f"{cell.dataset}-{cell.recipe}-{cell.kernel}-{extractor}"
        groups.setdefault(name, []).append((cell, extractor))
    figures = []
    for group, members in groups.items():
        for name, draw in (("samples", _samples), ("distance", _curves)):
            figures.append(out.with_suffix(".figures") / f"{group}-{name}.png")
            draw(layout, members, figures[-1])
    evaluations = {}
    for pair, each in results.items():
        path = layout.output("evaluate", *pair)
        evaluations[f"{each.run} {each.evaluation['extractor']}"] = os.path.relpath(path, out.parent)
    record.write(inputs=chains.inputs, outputs=digests(*texts, *figures), evaluations=evaluations)
    return f"{len(content.rows)} rows"


Measured = tuple[Cell, str]
"""A cell and its extractor."""


def _result(chains: Chains, cell: Cell, extractor: str) -> Result:
    """A cell's numbers and their context."""
    layout, params = chains.layout, chains.layout.params
    trained = chains.run(cell, extractor, "evaluate")
    return Result(
        run=layout.run(cell).name,
        training=params.training(cell),
        extractor=extractor,
        features=params.extractor_named(extractor),
        evaluation=read_json(layout.output("evaluate", cell, extractor)),
        record=trained,
        scale=params.scale or "",
    )


def _first_missing(layout: Layout, cell: Cell, extractor: str) -> str | None:
    """The first stage of a cell without a record, if any."""
    return next((stage for stage, path in layout.records(cell, extractor).items() if not path.exists()), None)


def _incomplete(layout: Layout, missing: Mapping[Measured, str], count: int, partial: bool) -> str:
    """Message for a table with missing cells."""
    (cell, extractor), stage = next(iter(missing.items()))
    path = layout.records(cell, extractor)[stage]
    others = "no cell is finished" if partial else "`couplet table --partial` makes the table of the others"
    return (
        f"{layout.root}: {len(missing)} of {count} cells are missing, first {cell}: {STAGES[stage].absent}, "
        f"{path} does not exist; {others}"
    )


def _samples(layout: Layout, measured: Sequence[Measured], path: Path) -> None:
    """Samples of the first seed, all couplings from the same noise, next to as many real images."""
    first: dict[str, Path] = {}
    for cell, extractor in measured:
        first.setdefault(cell.coupling, layout.output("sample", cell, extractor))
    panels: dict[str, dict[str, np.ndarray]] = {
        f"NFE {nfe}": {coupling: read_array(folder / samples_name(nfe)) for coupling, folder in first.items()}
        for nfe in sorted(layout.params.sample.nfe)
    }
    # Evenly spaced, because many data sets are sorted by class.
    real = Archive(layout.output("prepare", measured[0][0])).train.images
    chosen = np.linspace(0, len(real) - 1, min(panel_size(real.shape[1:]), len(real))).astype(int)
    next(iter(panels.values()))["real images"] = real[chosen]
    sample_grids(path, panels)


def _curves(layout: Layout, measured: Sequence[Measured], path: Path) -> None:
    """Distances of every snapshot, as `select` measured them."""
    import pandas as pd

    select = layout.params.select
    scores = pd.DataFrame(
        {"coupling": cell.coupling, "step": score["step"], "value": score[f"fd_nfe{select.nfe}"]}
        for cell, extractor in measured
        for score in read_json(layout.output("select", cell, extractor))["scores"]
    )
    ylabel = f"Fréchet distance to {select.split} split, NFE {select.nfe}, {measured[0][1]}"
    distance_curves(path, scores, ylabel=ylabel)
