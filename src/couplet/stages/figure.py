"""Stage `figure`: a study's cells as data, picture and caption."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from couplet.config.cells import Cell
from couplet.config.params import Params
from couplet.config.study import Study
from couplet.config.variants import build
from couplet.data.archive import Archive
from couplet.errors import UserError
from couplet.figures.base import Cells, Measured
from couplet.files import replacing, write_json
from couplet.plan.layout import Layout
from couplet.plan.stages import beside, key_of, record_of
from couplet.plan.summaries import figure_key
from couplet.provenance.cells import Chains
from couplet.provenance.chain import check_key, check_linked, check_small_files, read_record
from couplet.provenance.record import SummaryRecorder, digests
from couplet.training.loop import shape_of


def run(params: Params, name: str, root: Path, out: Path) -> str:
    """Write ``out`` (CSV, a line per seed and point), the same as .svg and .png, and .json with the caption.

    Args:
        params: a parameter file with a `study`.
        name: the study's name, as the target has it.
        root: folder of the grid's results.
        out: the .csv file to write.

    Raises:
        UserError: there is no `study`, or a cell's results are missing or do not fit the parameters.
    """
    study, layout = params.study, Layout(params, root)
    if study is None:
        raise UserError(f"study: this key is required for the figure {name}; its parameter file has none")
    record = SummaryRecorder("figure", out, figure_key(layout))
    read: dict[Path, str] = {}
    cells = Cells(params, study, list(_measured(params, study, layout, read)))
    kind = build(study.figure)
    rows = kind.rows(cells)
    kind.draw(rows, out, kind.ylabel(params))
    caption = {
        "name": name,
        **study.model_dump(include={"paper", "result", "title", "claim", "source", "note", "order"}),
        **kind.caption(rows, cells),
        "scale": params.scale,
    }
    with replacing(out) as temporary:
        rows.to_csv(temporary, index=False)
    write_json(out.with_suffix(".json"), caption)
    outputs = [out, *(out.with_suffix(suffix) for suffix in (".svg", ".png", ".json"))]
    record.write(settings=study.model_dump(mode="json"), inputs=read, outputs=digests(*outputs))
    verdicts = Counter(statement["verdict"] for statement in caption["statements"])
    counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    return f"{study.paper}, {study.result}: {counts or 'no statement'}"


def _measured(params: Params, study: Study, layout: Layout, read: dict[Path, str]) -> Iterator[Measured]:
    """Every cell with the numbers that the study needs; adds the files that were read to ``read``.

    Raises:
        UserError: a file is missing, or of other settings or another run.
    """
    chains = Chains(layout)
    extractor = params.measured()[0][1]
    for cell in params.cells():
        numbers: Sequence[Mapping[str, Any]]
        if study.needs == "select":
            selection, trained = chains.selection(cell, extractor)
            numbers = selection["scores"]
        elif study.needs == "evaluate":
            evaluation, trained = chains.evaluation(cell, extractor)
            numbers = evaluation["numbers"]
        else:
            numbers, trained = _probed(layout, cell, study.needs, read)
        archive = Archive(layout.data(cell.dataset))
        yield Measured(cell, params.training(cell), shape_of(archive), trained["seconds"], numbers)
    read |= chains.read


def _probed(
    layout: Layout, cell: Cell, name: str, read: dict[Path, str]
) -> tuple[Sequence[Mapping[str, Any]], Mapping[str, Any]]:
    """The lines of a cell's probe, and the record of its run."""
    path = layout.probe(cell, name)
    trained = read_record(record_of("train", layout.train(cell)))
    probe = read_record(beside(path))
    for stage, record in (("train", trained), ("probe", probe)):
        check_key(record, key_of(stage, layout.settings(cell, probe=name)))
    check_linked([trained, probe])
    check_small_files(probe)
    read |= {path: probe.outputs[path], **digests(probe.path, trained.path)}
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines)), trained.content
