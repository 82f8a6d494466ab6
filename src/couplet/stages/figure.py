"""Stage `figure`: a study's cells as data, picture and caption."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from couplet.config import Params
from couplet.config.layout import Layout, record_of
from couplet.config.study import Study
from couplet.config.variants import build
from couplet.data import Archive
from couplet.errors import UserError
from couplet.figures.base import Cells, Measured
from couplet.files import replacing, write_json
from couplet.model import ImageShape
from couplet.stages.chains import Chains
from couplet.stages.provenance import check_linked, check_settings, check_small_files, read_record
from couplet.stages.record import Recorder, digests


def figure(params: Params, name: str, root: Path, out: Path) -> dict[str, Any]:
    """Write ``out`` (CSV, a line per seed and point), the same as .svg and .png, and .json with the caption.

    Args:
        params: a parameter file with a `study`.
        name: the study's name, as the target has it.
        root: folder of the grid's results.
        out: the .csv file to write.

    Raises:
        UserError: there is no `study`, or a cell's results are missing or do not fit the parameters.
    """
    study = params.study
    if study is None:
        raise UserError(f"study: this key is required for the figure {name}; its parameter file has none")
    record = Recorder("figure", record_of(out), torch.device("cpu"))
    read: dict[Path, str] = {}
    cells = Cells(params, study, list(_measured(params, study, Layout(params, root), read)))
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
    return caption


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
            result = chains.result(cell, extractor)
            numbers, trained = result.evaluation["numbers"], result.record
        else:
            path = layout.probe(cell, study.needs)
            training = read_record(layout.train(cell) / "record.json")
            check_settings(training, key=params.training(cell).key)
            probe = read_record(record_of(path))
            check_linked([training, probe])
            check_small_files(probe)
            read |= {path: probe.outputs[path], **digests(probe.path, training.path)}
            trained = training.content
            with path.open(newline="") as lines:
                numbers = list(csv.DictReader(lines))
        card = Archive(layout.data(cell.dataset)).card
        shape = ImageShape(card.shape[2], card.shape[0], len(card.classes))
        yield Measured(cell, params.training(cell), shape, trained["seconds"], numbers)
    read |= chains.read
