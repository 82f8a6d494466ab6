"""Stage `table`: every cell of the grid in one table, with its figures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from couplet.config.base import Invalid
from couplet.config.cells import Cell
from couplet.config.params import Params
from couplet.data.archive import Archive, read_array
from couplet.errors import UserError
from couplet.figures.marks import distance_curves
from couplet.files import read_json, replacing
from couplet.plan.layout import Layout
from couplet.plan.stages import STAGES
from couplet.plan.summaries import table_key
from couplet.provenance.record import Chains, SummaryRecorder, digests
from couplet.reporting.pictures import evenly, panel_size, sample_grids
from couplet.reporting.table import Result, table
from couplet.stages.sample import samples_name
from couplet.stages.time import times_of

Measured = tuple[Cell, str]
"""A cell and its extractor."""


def run(params: Params, root: Path, out: Path, part: str = "", *, partial: bool = False) -> str:
    """Write the table ``out`` (CSV), also as .md and .html, a record, and pictures in the folder .figures.

    The record of every number must agree with the parameters and with the records of its inputs.

    Args:
        params: settings with the cells.
        root: folder of the grid's results.
        out: the file to write.
        part: only cells whose names begin with this: ``cifar10`` or ``cifar10-ict-ve-vae``.
        partial: make the table of the finished cells; it names the missing ones.
    """
    layout = Layout(params, Path(os.path.normpath(root)))
    try:
        measured = params.measured(part)
    except Invalid as error:
        raise UserError(str(error)) from None
    settings = {"scale": params.scale, "part": part, "partial": partial}
    record = SummaryRecorder("table", settings, out, "partial" if partial else table_key(layout, part))
    missing: dict[Measured, str] = {}
    for pair in measured:
        absent = (stage for stage, path in layout.records(*pair).items() if not path.exists())
        if stage := next(absent, None):
            missing[pair] = stage
    finished = [pair for pair in measured if pair not in missing]
    if missing and not (partial and finished):
        (cell, extractor), stage = next(iter(missing.items()))
        others = "`couplet table --partial` makes the table of the others"
        raise UserError(
            f"{layout.root}: {len(missing)} of {len(measured)} cells are missing, first {cell}: "
            f"{STAGES[stage].absent}, {layout.records(cell, extractor)[stage]} does not exist; "
            f"{'no cell is finished' if partial else others}"
        )
    chains = Chains(layout)
    times = times_of(chains, part, partial=partial)
    results = {
        pair: _result(chains, *pair, missing.get(pair))._replace(time=times.get(pair[0].name))
        for pair in measured
    }
    content = table(results.values())
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
        if extractor != params.selector(cell, extractor):
            continue  # the same samples, selected by the same distances
        group = f"{cell.dataset}-{cell.recipe}-{cell.kernel}-{extractor}"
        groups.setdefault(group, []).append((cell, extractor))
    figures = []
    for group, members in groups.items():
        for name, draw in (("samples", _samples), ("distance", _curves)):
            figures.append(out.with_suffix(".figures") / f"{group}-{name}.png")
            draw(layout, members, figures[-1])
    evaluations = {}
    for pair in finished:
        name = f"{results[pair].run} {results[pair].evaluation['extractor']}"
        evaluations[name] = os.path.relpath(layout.output("evaluate", *pair), out.parent)
    record.write(inputs=chains.inputs, outputs=digests(*texts, *figures), evaluations=evaluations)
    return f"{len(content.rows)} rows"


def _result(chains: Chains, cell: Cell, extractor: str, missing: str | None) -> Result:
    """A cell's numbers and their context; without numbers if its output of a stage is ``missing``."""
    layout, params = chains.layout, chains.layout.params
    result = Result(
        training=params.training(cell),
        measurement=params.measurement(cell),
        extractor=extractor,
        features=params.extractor_named(extractor),
        scale=params.scale or "",
        nfe=params.sample.nfe,
    )
    if missing is not None:
        return result._replace(missing=STAGES[missing].absent)
    return result._replace(
        run=layout.run(cell).name,
        record=chains.run(cell, extractor, "evaluate"),
        evaluation=read_json(layout.output("evaluate", cell, extractor)),
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
    real = Archive(layout.output("prepare", measured[0][0])).train.images
    chosen = evenly(len(real), panel_size(real.shape[1:]))
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
