"""Stage `figure`: the cells of a study as data, picture and caption."""

from __future__ import annotations

import base64
import csv
from collections import Counter
from pathlib import Path

from couplet.config.cells import Cell
from couplet.config.params import Params
from couplet.config.variants import build
from couplet.data.archive import Archive
from couplet.errors import UserError
from couplet.figures.base import Cells, Measured
from couplet.files import read_json, replacing, write_json
from couplet.plan.layout import Layout
from couplet.plan.summaries import figure_key
from couplet.provenance.record import Chains, SummaryRecorder, digests
from couplet.reporting.pictures import sample_grids
from couplet.reporting.times import StepTime
from couplet.stages.sample import panels
from couplet.stages.time import times_of
from couplet.training.loop import shape_of


def run(params: Params, name: str, root: Path, out: Path) -> str:
    """Write ``out`` (CSV, a line per seed and point), the same as .svg and .png, and .json with the caption.

    Args:
        params: a parameter file with a `study`.
        name: the study's name in the target.
        root: folder of the grid's results.
        out: the .csv file to write.
    """
    study, layout = params.study, Layout(params, root)
    if study is None:
        raise UserError(f"study: this key is required for the figure {name}; its parameter file has none")
    record = SummaryRecorder("figure", study.model_dump(mode="json"), out, figure_key(layout))
    chains = Chains(layout)
    times = times_of(chains) if study.figure.timed else {}
    members = [_measured(chains, cell, study.needs, times.get(cell.name)) for cell in params.cells()]
    cells = Cells(params, study, members)
    kind = build(study.figure)
    rows = kind.rows(cells)
    kind.draw(rows, out, kind.ylabel(params))
    caption = {
        "name": name,
        "samples": _samples(cells, layout) if study.samples else "",
        **study.model_dump(include={"paper", "result", "title", "claim", "source", "note", "order"}),
        **kind.caption(rows, cells),
        "scale": params.scale,
    }
    with replacing(out) as temporary:
        rows.to_csv(temporary, index=False)
    write_json(out.with_suffix(".json"), caption)
    outputs = [out, *(out.with_suffix(suffix) for suffix in (".svg", ".png", ".json"))]
    record.write(inputs=chains.inputs, outputs=digests(*outputs))
    verdicts = Counter(statement["verdict"] for statement in caption["statements"])
    counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    return f"{study.paper}, {study.result}: {counts or 'no statement'}"


def _samples(cells: Cells, layout: Layout) -> str:
    """Samples of the first seed, a column for each row of the figure, as a PNG file in base 64."""
    first: dict[str, Cell] = {}
    for member in cells.members:
        first.setdefault(cells.names(member)["row"], member.cell)
    folders = {
        row: layout.output("sample", cell, layout.params.selector(cell)) for row, cell in first.items()
    }
    drawn = panels(folders, sorted(layout.params.sample.nfe))
    return base64.b64encode(sample_grids(drawn)).decode()


def _measured(chains: Chains, cell: Cell, needs: str, time: StepTime | None) -> Measured:
    """A cell with the numbers that the study needs, from `select`, `evaluate` or the probe of that name."""
    layout, params = chains.layout, chains.layout.params
    column = {"select": "scores", "evaluate": "numbers"}.get(needs)
    stage, name = ("probe", needs) if column is None else (needs, params.selector(cell))
    chains.run(cell, name, stage)
    path = layout.output(stage, cell, name)
    numbers = read_json(path)[column] if column else [*csv.DictReader(path.read_text().splitlines())]
    shape = shape_of(Archive(layout.output("prepare", cell)))
    return Measured(cell, params.training(cell), shape=shape, time=time, numbers=numbers)
