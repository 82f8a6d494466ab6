"""Stage `figure`: what a study's cells show, as data, picture and caption."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from couplet.config import Cell, Layout, Params, Training
from couplet.config.layout import record_of
from couplet.config.study import (
    DotsConfig,
    EvaluationsConfig,
    FigureConfig,
    PlaneConfig,
    ProbeFigureConfig,
    StepsConfig,
    Study,
    SweepConfig,
)
from couplet.data.archive import Archive
from couplet.errors import UserError
from couplet.files import replacing, write_json
from couplet.model import ImageShape
from couplet.cost import cost, parameters
from couplet.reporting.plots import draw
from couplet.reporting.statements import DIMENSIONS, spread, statements, summary
from couplet.reporting.table import to_csv
from couplet.stages.provenance import check_linked, check_settings, check_small_files, read_record
from couplet.stages.record import Recorder, digests
from couplet.stages.table import Chains

Rows = list[dict[str, Any]]
"""One seed's numbers: what names the row, `row` (its label), `seed`, `nfe` or `x`, `value`."""

NAMES = (*DIMENSIONS, "row", "seed")


class _Cells:
    """A study's cells with their records; remembers what was read."""

    def __init__(self, params: Params, study: Study, root: Path) -> None:
        self.params, self.study = params, study
        self.layout = Layout(params, root)
        self.chains = Chains(self.layout)
        self.read: dict[Path, str] = {}
        self.cells = params.cells()
        self.varied = [key for key in DIMENSIONS if len({getattr(cell, key) for cell in self.cells}) > 1]

    def named(self, cell: Cell, without: str = "") -> dict[str, Any]:
        """What names a cell; its label has the names that vary among the cells, but for one dimension."""
        shown = [key for key in self.varied if key != without]
        names = [getattr(cell, key) for key in shown or ([] if without else ["coupling"])]
        label = ", ".join(self.study.labels.get(name, name) for name in names)
        return {**{key: getattr(cell, key) for key in DIMENSIONS}, "row": label, "seed": cell.seed}

    def check_labels(self) -> None:
        """Raises UserError if two rows would be called the same."""
        rows: dict[str, str] = {}
        for cell in self.cells:
            label = str(self.named(cell)["row"])
            if rows.setdefault(label, cell.name) != cell.name:
                raise UserError(
                    f"study.labels: {label!r} is what both {rows[label]} and {cell.name} are called"
                )

    def shape(self, cell: Cell) -> ImageShape:
        """What the images of a cell's data set look like."""
        card = Archive(self.layout.data(cell.dataset)).card
        return ImageShape(card.shape[2], card.shape[0], len(card.classes))

    def evaluations_per_step(self, cell: Cell) -> float:
        """Forward passes of the network that a training step costs for each of its images."""
        return cost(self.params.training(cell), self.shape(cell)).evaluations

    def distances(self) -> Iterator[tuple[Cell, dict[int, float], Mapping[str, Any]]]:
        """Every cell with its Fréchet distance for each NFE and the record of its training."""
        metric = self.metric()
        for cell, extractor in self.params.measured():
            if self.study.of_selection:
                selection, record = self.chains.selection(cell, extractor)
                named, prefix = selection["scores"][-1], "fd"
            else:
                result = self.chains.result(cell, extractor)
                named, record, prefix = result.evaluation["metrics"], result.record, metric
            yield cell, {nfe: named[f"{prefix}_nfe{nfe}"] for nfe in self.params.sample.nfe}, record
        self.read |= self.chains.read

    def curves(self) -> Iterator[tuple[Cell, list[Mapping[str, Any]], Mapping[str, Any]]]:
        """Every cell with the scores of its snapshots and the record of its training."""
        self.metric()
        for cell, extractor in self.params.measured():
            selection, record = self.chains.selection(cell, extractor)
            yield cell, selection["scores"], record
        self.read |= self.chains.read

    def probes(self, kind: str) -> Iterator[tuple[Cell, list[dict[str, str]]]]:
        """Every cell with the lines of its probe.

        Raises:
            UserError: a probe is missing, or of other settings or another training.
        """
        for cell in self.cells:
            path = self.layout.probe(cell, kind)
            trained = read_record(self.layout.train(cell) / "record.json")
            check_settings(trained, key=self.params.training(cell).key)
            record = read_record(record_of(path))
            check_linked([trained, record])
            check_small_files(record)
            self.read |= {path: record.outputs[path], **digests(record.path, trained.path)}
            with path.open(newline="") as lines:
                yield cell, list(csv.DictReader(lines))

    def metric(self) -> str:
        """The Fréchet distance's name in evaluation.json."""
        extractors = {extractor for _, extractor in self.params.measured()}
        if len(extractors) > 1:
            raise UserError(f"table1.extractors = {sorted(extractors)}: a study's figure has one extractor")
        return str(self.params.extractor_named(extractors.pop()).metric("fd"))


def _distances(
    cells: _Cells, without: str = "", more: Callable[[Cell], Mapping[str, Any]] = lambda cell: {}
) -> Rows:
    """A row per cell and NFE, with what ``more`` says of the cell."""
    return [
        {**cells.named(cell, without), "nfe": nfe, "value": value, "seconds": record["seconds"], **more(cell)}
        for cell, found, record in cells.distances()
        for nfe, value in found.items()
    ]


def _dots(cells: _Cells, figure: DotsConfig) -> Rows:
    """Distances, each with what its training costs beside seconds."""
    return _distances(cells, more=lambda cell: {"evaluations": cells.evaluations_per_step(cell)})


def _sweep(cells: _Cells, figure: SweepConfig) -> Rows:
    """Distances, each with the setting that is swept."""
    return _distances(
        cells,
        without=figure.x.partition(".")[0],
        more=lambda cell: {"x": _setting(cells.params.training(cell), figure)},
    )


def _setting(training: Training, figure: SweepConfig) -> float:
    """The number under the figure's key in a training's settings.

    Raises:
        UserError: there is none, and the study does not give one.
    """
    if training.cell.coupling in figure.zero:
        return figure.zero[training.cell.coupling]
    settings: Any = training.model_dump(mode="json")
    for key in figure.x.split("."):
        settings = settings.get(key) if isinstance(settings, dict) else None
    if not isinstance(settings, int | float):
        raise UserError(
            f"study.figure.x = {figure.x}: no number in the settings of {training.cell.name}; "
            "name its coupling in study.figure.zero"
        )
    return float(settings)


def _steps(cells: _Cells, figure: StepsConfig) -> Rows:
    """Distances of all snapshots, at each kind of budget."""
    rows: Rows = []
    nfe = cells.params.select.nfe
    for cell, scores, record in cells.curves():
        for against in figure.against:
            per_step = _per_step(cells, cell, record, against)
            rows += [
                {
                    **cells.named(cell),
                    "nfe": nfe,
                    "against": against,
                    "x": score["step"] * per_step,
                    "value": score[f"fd_nfe{nfe}"],
                }
                for score in scores
            ]
    return rows


def _per_step(cells: _Cells, cell: Cell, record: Mapping[str, Any], against: str) -> float:
    """What a training step costs in a kind of budget."""
    if against == "seconds":
        return float(record["seconds"]) / cells.params.training(cell).recipe.steps
    return cells.evaluations_per_step(cell) if against == "evaluations" else 1.0


def _probe(cells: _Cells, figure: ProbeFigureConfig) -> Rows:
    """A row per cell and noise level or snapshot."""
    x, value = ("step", "variance") if figure.probe == "gradient" else ("level", "mean")
    return [
        {**cells.named(cell), "x": float(line[x]), "value": float(line[value])}
        for cell, lines in cells.probes(figure.probe)
        for line in lines
    ]


def _plane(cells: _Cells, figure: PlaneConfig) -> Rows:
    """Points as the probe has them."""
    return [
        {
            **cells.named(cell),
            "part": line["part"],
            "component": int(line["component"]),
            **{key: float(line[key]) for key in ("x0", "y0", "x1", "y1")},
        }
        for cell, lines in cells.probes("plane")
        for line in lines
    ]


_COLLECT: dict[type[FigureConfig], Callable[[_Cells, Any], Rows]] = {
    DotsConfig: _dots,
    EvaluationsConfig: lambda cells, figure: _distances(cells),
    SweepConfig: _sweep,
    StepsConfig: _steps,
    ProbeFigureConfig: _probe,
    PlaneConfig: _plane,
}

YLABELS = {
    "gradient": "variance of the gradient",
    "transport": "transport cost c(t) = E‖x̂ − z‖²",
    "regulariser": "E‖ẋ − v(x_t, t)‖²",
}


def at_equal_budget(rows: Rows) -> Rows:
    """Each seed's distance where the cheapest training of the study ended, by its kind of budget.

    Between snapshots the logarithm of the distance is interpolated linearly.
    """
    found: Rows = []
    for against in dict.fromkeys(row["against"] for row in rows):
        curves: dict[tuple[Any, ...], Rows] = {}
        for row in rows:
            if row["against"] == against:
                curves.setdefault(tuple(row[key] for key in NAMES), []).append(row)
        budget = min(curve[-1]["x"] for curve in curves.values())
        for curve in curves.values():
            x, y = ([row[key] for row in curve] for key in ("x", "value"))
            value = float(np.exp(np.interp(budget, x, np.log(np.maximum(y, 1e-12)))))
            found.append({**curve[-1], "x": budget, "value": value})
    return found


def figure(params: Params, name: str, root: Path, out: Path) -> dict[str, Any]:
    """Writes ``out`` (CSV, a line per seed and point), the same as .svg and .png, and .json with the caption.

    Args:
        params: a parameter file with a `study`.
        name: its name, as the target has it.
        root: folder of the grid's results.
        out: the .csv file to write.

    Raises:
        UserError: there is no `study`, or a cell's results are missing or do not fit the parameters.
    """
    study = params.study
    if study is None:
        raise UserError(f"study: the parameter file of {name} has none; it says what to draw")
    record = Recorder("figure", record_of(out), torch.device("cpu"))
    cells = _Cells(params, study, root)
    cells.check_labels()
    rows = _COLLECT[type(study.figure)](cells, study.figure)
    ylabel = YLABELS.get(getattr(study.figure, "probe", ""), f"Fréchet distance ({params.extractor})")
    draw(study.figure, rows, out.with_suffix(".svg"), ylabel=ylabel)
    caption = {
        "name": name,
        **study.model_dump(include={"paper", "result", "title", "claim", "source", "note", "order"}),
        "statements": [found._asdict() for found in _statements(study, rows)],
        "measured": _measured(cells, study),
        "budget": _budget(cells),
        "table": _table(study, rows),
        "scale": params.scale,
    }
    with replacing(out) as temporary:
        temporary.write_text(to_csv(rows))
    write_json(out.with_suffix(".json"), caption)
    made = [out, *(out.with_suffix(suffix) for suffix in (".svg", ".png", ".json"))]
    record.write(settings=study.model_dump(mode="json"), inputs=cells.read, outputs=digests(*made))
    return caption


def _statements(study: Study, rows: Rows) -> list[Any]:
    if isinstance(study.figure, PlaneConfig):
        return []
    if isinstance(study.figure, StepsConfig):
        rows = at_equal_budget(rows)
    place = ("nfe", "NFE")
    if isinstance(study.figure, ProbeFigureConfig):
        place = ("x", "step" if study.figure.probe == "gradient" else "t =")
    return [
        found for comparison in study.compare for found in statements(rows, comparison, study.labels, *place)
    ]


def _measured(cells: _Cells, study: Study) -> str:
    """In whose features, on how many samples and seeds."""
    params = cells.params
    counts = {sum(other.name == cell.name for other in cells.cells) for cell in cells.cells}
    seeds = "one seed" if counts == {1} else f"{' to '.join(map(str, sorted(counts)))} seeds each"
    if isinstance(study.figure, ProbeFigureConfig):
        probe = params.probe
        what = (
            f"{probe.batches} minibatches at each snapshot's averaged weights"
            if study.figure.probe == "gradient"
            else f"{probe.images} pairs at each noise level"
        )
        return f"{what}; {seeds}, bars are their standard deviation."
    if isinstance(study.figure, PlaneConfig):
        return f"Nothing is averaged: {seeds}."
    extractor = params.extractor_named(params.measured()[0][1])
    if study.of_selection:
        select = params.select
        which = "every" if isinstance(study.figure, StepsConfig) else "the last"
        what = f"{select.samples} samples of {which} snapshot against the {select.split} split"
    else:
        what = f"{params.sample.samples} samples of the selected snapshot against the training split"
    name = params.measured()[0][1]
    features = name if name == extractor.kind else f"{name} ({extractor.kind})"
    return (
        f"Fréchet distance in features of the extractor {features}; {what}; "
        f"{seeds}, bars are their standard deviation."
    )


def _budget(cells: _Cells) -> str:
    """Data sets, steps, batches and networks of the trainings."""
    found: dict[str, None] = {}
    for cell in cells.cells:
        training = cells.params.training(cell)
        network = training.recipe.network
        length = f"{training.recipe.steps:,} steps of {training.recipe.batch} images"
        count = parameters(training, cells.shape(cell))
        size = f"{network.kind} of {network.model_channels} channels, {count:,} parameters"
        found[f"{cell.dataset}, {length}, {size}"] = None
    return "; ".join(found) + "."


def _table(study: Study, rows: Rows) -> dict[str, Any]:
    """Means with their spread, for reading."""
    if isinstance(study.figure, PlaneConfig):
        return {"columns": [], "rows": []}
    at = [key for key in ("against", "nfe", "x") if key in rows[0]]
    if isinstance(study.figure, StepsConfig):
        rows, at = at_equal_budget(rows), ["against", "x"]
    columns, shown = ["", *at, "mean ± std"], []
    for key, values in summary(rows, ["row", *at]):
        shown.append([*map(_cell, key), spread(values)])
    if isinstance(study.figure, DotsConfig):
        columns += ["training (s)", "network evaluations per image and step"]
        costs = summary(rows, ["row", "nfe", "evaluations"], of="seconds")
        for line, ((_, _, evaluations), seconds) in zip(shown, costs, strict=True):
            line += [spread(seconds), f"{evaluations:.2f}"]
    return {"columns": columns, "rows": shown}


def _cell(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
