"""Stage `table`: every cell of the grid in one table, with its figures."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote

import numpy as np
from numpy.typing import NDArray

from couplet.config.base import Invalid
from couplet.config.cells import Cell
from couplet.config.datasets import panel_size
from couplet.config.layers import leaves
from couplet.config.params import Params
from couplet.data.archive import Archive, read_array
from couplet.errors import UserError
from couplet.figures.marks import distance_curves
from couplet.files import read_json, replacing
from couplet.plan.layout import Layout, shown_by
from couplet.plan.stages import STAGES, record_of
from couplet.plan.summaries import table_key
from couplet.provenance.record import Chains, SummaryRecorder, chain, digests, read_record
from couplet.provenance.why import Run, Why, described, numbers_of
from couplet.reporting.pictures import evenly, sample_grids
from couplet.reporting.results import NAMES, Details, Group, Trained, results_page
from couplet.reporting.table import Result, table
from couplet.stages.sample import panels, samples_name
from couplet.stages.time import times_of

Measured = tuple[Cell, str]
"""A cell and its extractor."""

CURVE = "curve.csv"
"""Losses, in the folder of a run."""


def run(params: Params, root: Path, out: Path, part: str = "", *, partial: bool = False) -> str:
    """Write the table ``out`` (CSV), also as .md, its page, a record, and pictures in the folder .figures.

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
    # Another extractor than the selector measures the same samples, selected by the same distances.
    drawn = [(cell, name) for cell, name in finished if name == params.selector(cell, name)]
    evaluations = {
        f"{results[pair].run} {results[pair].evaluation['extractor']}": layout.output("evaluate", *pair)
        for pair in finished
    }
    page = results_page(
        out.stem,
        content,
        [_details(results, evaluations, row) for row in content.rows],
        _groups(layout, drawn),
        labels=params.labels,
        missing=[f"{cell}, {name}: {STAGES[stage].absent}" for (cell, name), stage in missing.items()],
        why=f"couplet why {quote(str(out))} --row",
    )
    texts = {out: content.csv(), out.with_suffix(".md"): content.markdown(), out.with_suffix(".html"): page}
    for path, text in texts.items():
        with replacing(path) as temporary:
            temporary.write_text(text)
    # A picture for the couplings and seeds of one data set, recipe, kernel and extractor.
    groups: dict[str, list[Measured]] = {}
    for cell, extractor in drawn:
        group = f"{cell.dataset}-{cell.recipe}-{cell.kernel}-{extractor}"
        groups.setdefault(group, []).append((cell, extractor))
    figures = []
    for group, members in groups.items():
        for name, draw in (("samples", _samples), ("distance", _curves)):
            figures.append(out.with_suffix(".figures") / f"{group}-{name}.png")
            draw(layout, members, figures[-1])
    curves = [layout.output("train", cell) / CURVE for cell, _ in drawn]
    record.write(
        inputs={**chains.inputs, **digests(*curves)},
        outputs=digests(*texts, *figures),
        evaluations={name: os.path.relpath(path, out.parent) for name, path in evaluations.items()},
    )
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


def _details(
    results: Mapping[Measured, Result], evaluations: Mapping[str, Path], row: Mapping[str, str]
) -> Details:
    """What is behind a row of the table; of a row whose cells are missing, their settings."""
    first = next(
        each
        for each in results.values()
        if all(value == row[key] for key, value in each.training.cell if key != "seed")
        and row["extractor"] in (each.extractor, each.evaluation.get("extractor"))
    )
    files = {name: evaluations[f"{name} {row['extractor']}"] for name in row["runs"].split()}
    numbers = {name: numbers_of(path, row["nfe"]) for name, path in files.items()}
    runs = [
        Run(name, numbers[name], chain(read_record(record_of("evaluate", path))))
        for name, path in files.items()
    ]
    trained = first.training.model_dump(mode="json", exclude={"cell", "frozen_run"})
    measured = first.measurement.model_dump(mode="json")
    settings = leaves({**trained, "features": first.features.model_dump(mode="json"), **measured})
    return Details(
        settings={".".join(keys): json.dumps(value, ensure_ascii=False) for keys, value in settings},
        numbers=numbers,
        origin=[*described(Why(Path(), {}, runs))][1:],
    )


def _groups(layout: Layout, measured: Sequence[Measured]) -> list[Group]:
    """Runs with their curves and images, by data set and extractor."""
    groups: dict[tuple[str, str], list[Measured]] = {}
    for cell, extractor in measured:
        groups.setdefault((cell.dataset, extractor), []).append((cell, extractor))
    return [
        Group(
            title=" · ".join(name) if len(groups) > 1 else "",
            distance=_distance(layout.params, name[1]),
            real=_real(layout, members[0][0]),
            runs=[_trained(layout, *pair, _label(layout.params, pair[0], members)) for pair in members],
        )
        for name, members in groups.items()
    ]


def _label(params: Params, cell: Cell, among: Sequence[Measured]) -> str:
    """What tells a cell apart from others of its data set."""
    varied = [key for key in NAMES if len({getattr(each, key) for each, _ in among}) > 1]
    names = [getattr(cell, key) for key in varied or NAMES[-1:]]
    return ", ".join(params.labels.get(name, name) for name in names)


def _trained(layout: Layout, cell: Cell, extractor: str, label: str) -> Trained:
    """A run's curves and images; of snapshots it has none if an earlier version selected."""
    selection = layout.output("select", cell, extractor)
    chosen, column = read_json(selection), f"fd_nfe{layout.params.select.nfe}"
    distance = {score["step"]: score[column] for score in chosen["scores"]}
    with (layout.output("train", cell) / CURVE).open() as file:
        loss = {int(line["step"]): float(line["loss"]) for line in csv.DictReader(file)}
    shown = read_array(shown_by(selection)) if shown_by(selection).exists() else ()
    samples = layout.output("sample", cell, extractor)
    return Trained(
        label,
        cell.seed,
        loss=loss,
        distance=distance,
        shown=dict(zip(distance, shown, strict=False)),
        samples={nfe: read_array(samples / samples_name(nfe)) for nfe in sorted(layout.params.sample.nfe)},
        selected=chosen["selected"]["step"],
    )


def _real(layout: Layout, cell: Cell) -> NDArray[np.uint8]:
    """As many real images as a panel has."""
    images = Archive(layout.output("prepare", cell)).train.images
    return images[evenly(len(images), panel_size(images.shape[1:]))]


def _distance(params: Params, extractor: str) -> str:
    """What `select` measures, in words."""
    return f"Fréchet distance to {params.select.split} split, NFE {params.select.nfe}, {extractor}"


def _samples(layout: Layout, measured: Sequence[Measured], path: Path) -> None:
    """Samples of the first seed, all couplings from the same noise, next to as many real images."""
    labels = layout.params.labels
    first: dict[str, Path] = {}
    for cell, extractor in measured:
        label = labels.get(cell.coupling, cell.coupling)
        first.setdefault(label, layout.output("sample", cell, extractor))
    drawn = panels(first, sorted(layout.params.sample.nfe))
    next(iter(drawn.values()))["real images"] = _real(layout, measured[0][0])
    with replacing(path) as temporary:
        temporary.write_bytes(sample_grids(drawn))


def _curves(layout: Layout, measured: Sequence[Measured], path: Path) -> None:
    """Distances of every snapshot, as `select` measured them."""
    import pandas as pd

    params = layout.params
    scores = pd.DataFrame(
        {
            "coupling": params.labels.get(cell.coupling, cell.coupling),
            "step": score["step"],
            "value": score[f"fd_nfe{params.select.nfe}"],
        }
        for cell, extractor in measured
        for score in read_json(layout.output("select", cell, extractor))["scores"]
    )
    distance_curves(path, scores, ylabel=_distance(params, measured[0][1]))
