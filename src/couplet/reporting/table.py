"""The table of a grid: tidy numbers to rows, rows to text."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from couplet.config.cells import Measurement, Training
from couplet.config.extractors import ExtractorConfig
from couplet.config.metrics import MetricConfig, described
from couplet.reporting import markdown
from couplet.reporting.intervals import of_both, paired
from couplet.reporting.published import (
    Published,
    difference,
    extractors,
    measuring,
    protocol,
    reported,
    said,
)
from couplet.reporting.times import StepTime

if TYPE_CHECKING:
    import pandas as pd


class Result(NamedTuple):
    """One cell, measured with one extractor; or a missing one, in a table of the others."""

    training: Training
    measurement: Measurement
    extractor: str
    """Its name in the parameter file."""
    features: ExtractorConfig
    """Its settings, which name the columns."""
    scale: str = ""
    """The scale of the parameter file; blank without one."""
    nfe: Sequence[int] = ()
    """The rows that lack the cell, if it is missing."""
    time: StepTime | None = None
    """The time of a training step, if it was measured."""
    missing: str = ""
    """The reason why it is missing, if it is; all that follows is empty then."""
    run: str = ""
    record: Mapping[str, Any] = {}
    """Content of the training run's record.json."""
    evaluation: Mapping[str, Any] = {}
    """Content of evaluation.json."""


class Column(NamedTuple):
    """A column for reading, and the names of its columns in the CSV file."""

    heading: str
    """Blank for a column that only the CSV file has."""
    name: str
    std: str = ""
    """That of the standard deviation, if the column has one."""
    interval: tuple[str, ...] = ()
    """Those of the ends of an interval and of the number of pairs of seeds, if the column has one."""

    @property
    def names(self) -> list[str]:
        """The names of its columns in the CSV file."""
        return [name for name in (self.name, self.std, *self.interval) if name]

    def text(self, row: Mapping[str, str]) -> str:
        """The number of a row for reading: ``1.15 ± 0.31`` or ``−0.42 [−0.61, −0.22], 3 pairs``."""
        value = row[self.name]
        if self.interval and value:
            low, high, pairs = (row[name] for name in self.interval)
            ends = f" [{low}, {high}]" if low else ""
            return f"{value}{ends}, {pairs} pair{'s' * (pairs != '1')}".replace("-", "−")
        return f"{value} ± {row[self.std]}" if row.get(self.std) else value


class Table(NamedTuple):
    """Rows of text by the CSV file's names, and the columns for reading."""

    columns: Sequence[Column]
    rows: Sequence[Mapping[str, str]]

    def csv(self) -> str:
        """The table as CSV with a header."""
        import pandas as pd

        return pd.DataFrame(self.rows).to_csv(index=False)

    @property
    def shown(self) -> list[Column]:
        """The columns for reading that are not empty."""
        return [c for c in self.columns if c.heading and any(row[c.name] for row in self.rows)]

    def reading(self) -> tuple[list[str], list[list[str]]]:
        """Headings and rows for reading: means with their spread, without empty columns."""
        columns = self.shown
        texts = [[column.text(row) for column in columns] for row in self.rows]
        return [column.heading for column in columns], texts

    def markdown(self) -> str:
        """The table for reading, as Markdown."""
        return markdown.table(*self.reading())


def table(results: Iterable[Result]) -> Table:
    """One row per dataset × recipe × kernel × coupling × NFE × extractor, in order of appearance.

    Numbers are means over seeds, std their sample standard deviation, blank for one seed. An incomplete
    table counts ``1 of 2`` seeds and names the missing ones in a column ``missing``; a row without any cell
    has no numbers. Every row has the columns of all metrics of the table, blank where its extractor has
    none: numbers of different extractors share neither a row nor a column. replaced_gradients, the number of
    steps whose non-finite gradients were replaced, is a column only where a recipe allows that.

    ``*_minus_independent`` is the mean difference from the row of the independent coupling over the seeds of
    both, with Student's 95 % interval. Only each extractor's first metric has it, by which couplings are
    compared: the columns of all metrics would double the table.

    ``published_*`` is the paper's number, where it was measured in the same protocol. ``*_difference`` is
    measured minus published, ``*_difference_in_std`` the same in units of our std over seeds. Where the
    protocols differ, ``published_otherwise`` says how, and nothing is subtracted.
    """
    import pandas as pd

    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(f"{result.training.cell.name} {result.extractor}", []).append(result)
    measured = [(name, each) for name, members in groups.items() for each in members if not each.missing]
    numbers = pd.DataFrame(
        (
            {
                "row": name,
                "seed": result.training.cell.seed,
                "nfe": number["nfe"],
                "column": result.features.metric(number["metric"]),
                "metric": number["metric"],
                "heading": _heading(number["metric"], result.features),
                "label": result.features.label,
                "value": number["value"],
                "resampling_std": number.get("resampling_std"),
            }
            for name, result in measured
            for number in result.evaluation["numbers"]
            if not described(number["metric"]).is_spread
        ),
        columns=["row", "seed", "nfe", "column", "metric", "heading", "label", "value", "resampling_std"],
    )
    baselines: dict[tuple[str, ...], str] = {}
    for name, members in groups.items():
        if members[0].training.coupling.kind == "independent":
            baselines.setdefault(_context(members[0]), name)
    rows = []
    for name, members in groups.items():
        compared = baselines.get(_context(members[0]))
        baseline = numbers[numbers["row"] == compared]
        own = numbers[numbers["row"] == name]
        planned = {nfe for member in members if member.missing for nfe in member.nfe}
        for nfe in sorted(planned | set(own["nfe"])):
            row = {"nfe": str(nfe), **_shared(members)}
            otherwise: dict[tuple[str, str], list[str]] = {}
            sources: dict[str, None] = {}
            by_metric = own[own["nfe"] == nfe].groupby(["column", "metric"], sort=False)
            for (column, metric), measures in by_metric:
                first = next(member for member in members if not member.missing)
                same, others = _published(first, nfe, metric)
                row = _statistics(measures, same, column=column, metric=metric) | row
                sources |= {same.source: None} if same else {}
                row |= _stated(first, metric)
                for item, how in others:
                    otherwise.setdefault(how, []).append(item)
            if name != compared:
                row |= _minus_independent(own[own["nfe"] == nfe], baseline[baseline["nfe"] == nfe])
            row["published_source"] = "; ".join(sources)
            row["published_otherwise"] = "; ".join(
                f"published {', '.join(names)}: {theirs}, here: {ours}"
                for (theirs, ours), names in otherwise.items()
            )
            rows.append(row)
    columns = [
        Column("data set", "dataset"),
        *(Column(name, name) for name in ("scale", "recipe", "kernel", "coupling")),
        Column("NFE", "nfe"),
        Column("seeds", "seeds"),
    ]
    if len(measured) < sum(map(len, groups.values())):
        columns.append(Column("missing", "missing"))
    measures = numbers[["column", "heading", "label"]].drop_duplicates()
    for column, heading, label in measures.itertuples(index=False):
        columns += _columns(column, heading, label, rows)
    for name in dict.fromkeys(name for row in rows for name in row if name.endswith("_protocol")):
        metrics = name.removesuffix("_protocol").replace("_", " and ")
        columns.append(Column(f"{metrics} of", name))
    if any(row["published_otherwise"] for row in rows):
        columns.append(Column("published in another protocol", "published_otherwise"))
    columns += [
        Column("step (ms)", "step_ms", "step_ms_spread"),
        Column("training (s)", "train_seconds"),
        Column("images/s", "images_per_second"),
        Column("", "timed_by"),
    ]
    if any(
        each.training.recipe.nonfinite_gradients != "stop" or each.record["replaced_gradients"]
        for _, each in measured
    ):
        columns.append(Column("steps with replaced gradients", "replaced_gradients"))
    columns += [Column("features", "extractor"), Column("compared with", "reference"), Column("", "runs")]
    columns = list(dict.fromkeys(columns))
    names = [name for column in columns for name in column.names]
    return Table(columns, [{name: row.get(name, "") for name in names} for row in rows])


def _context(result: Result) -> tuple[str, ...]:
    """What two rows share that differ in the coupling alone."""
    cell = result.training.cell
    return cell.dataset, cell.recipe, cell.kernel, result.extractor


def _minus_independent(own: pd.DataFrame, baseline: pd.DataFrame) -> dict[str, str]:
    """The texts of the columns that compare a row's first metric with the independent coupling's."""
    if own.empty:
        return {}
    column, metric = own[["column", "metric"]].iloc[0]
    mine, theirs = (
        each[each["column"] == column].set_index("seed")["value"].to_dict() for each in (own, baseline)
    )
    values = of_both(mine, theirs)
    if not values[0]:
        return {}
    result = paired(*values)
    number = described(metric)
    numbers = dict(zip(_versus(column), (result.difference, result.low, result.high), strict=False))
    texts = {
        name: number.text(value, signed=True) for name, value in numbers.items() if not math.isnan(value)
    }
    return {**texts, _versus(column)[-1]: str(result.size)}


def _versus(column: str) -> tuple[str, ...]:
    """The names of the columns that compare a metric's ``column`` with the independent coupling's."""
    return tuple(f"{column}_minus_independent{part}" for part in ("", "_low", "_high", "_pairs"))


def _shared(members: Sequence[Result]) -> dict[str, str]:
    """The columns that say which cells a row is made of, and means over their training runs."""
    first, count = members[0], str(len(members))
    missing = [member for member in members if member.missing]
    results = [member for member in members if not member.missing]
    row = {name: str(value) for name, value in first.training.cell if name != "seed"}
    row |= {
        "scale": first.scale,
        "seeds": f"{len(results)} of {count}" if missing else count,
        "missing": ", ".join(f"seed {each.training.cell.seed}: {each.missing}" for each in missing),
        "extractor": first.extractor,
        "runs": " ".join(result.run for result in results),
    }
    if results:
        evaluation = results[0].evaluation
        row["extractor"] = evaluation["extractor"]
        real = evaluation["reference"]
        of = f" of {real['of']}" if "of" in real else ""
        sets = f", {real['sets']} sets" if real.get("sets", 1) > 1 else ""
        row["reference"] = f"{real['split']}, {real['images']}{of} images{sets}"
        replaced = statistics.fmean(result.record["replaced_gradients"] for result in results)
        row["replaced_gradients"] = f"{replaced:g}"
    return row | _time(first)


def _time(result: Result) -> dict[str, str]:
    """The columns of time: all of them follow from the measured time of a step."""
    if (time := result.time) is None:
        return {}
    recipe, step = result.training.recipe, time.median
    return {
        "step_ms": f"{step:.4g}",
        "step_ms_spread": f"{time.spread:.2g}",
        "train_seconds": f"{1e-3 * step * recipe.steps:.1f}",
        "images_per_second": f"{1e3 * recipe.batch / step:.0f}",
        "timed_by": time.how,
    }


def _published(
    result: Result, nfe: int, number: str
) -> tuple[Published | None, list[tuple[str, tuple[str, str]]]]:
    """The paper's number in the same protocol as a cell's; else those in others, and how these differ."""
    name, metric = _metric(result, number)
    if name != metric.kind:
        return None, []
    here = protocol(
        metric,
        measuring(result.training, result.measurement),
        extractor=result.features.label,
        samples=result.measurement.sample.samples,
        images=result.evaluation["reference"]["images"],
        conditional=result.training.recipe.conditional,
    )
    others = []
    for published in reported(result.training, nfe, number):
        how = difference(published.protocol, here)
        if not any(how):
            return published, []
        others.append((published.name, how))
    return None, others


def _metric(result: Result, number: str) -> tuple[str, MetricConfig]:
    """The metric that gives a number, and the name under which it is listed."""
    metrics = result.measurement.evaluate.metrics.items()
    return next(
        (name, metric)
        for name, metric in metrics
        if number in (metric.name_of(each, name) for each in metric.numbers)
    )


def _stated(result: Result, number: str) -> dict[str, str]:
    """The protocol of a metric whose number means nothing without it, as text of its column."""
    name, metric = _metric(result, number)
    if not metric.states_protocol:
        return {}
    counts = result.measurement.sample.samples, result.evaluation["reference"]["images"]
    parts = {"extractor": result.features.label, **metric.protocol(*counts)}
    return {f"{name}_protocol": ", ".join(said(*part) for part in parts.items())}


def _statistics(
    measures: pd.DataFrame, paper: Published | None, *, column: str, metric: str
) -> dict[str, str]:
    """The texts of a metric's columns, from a line per seed and the paper's number in the same protocol."""
    values, spreads = measures["value"].tolist(), measures["resampling_std"].dropna().tolist()
    mean, std = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None
    numbers = {f"{column}_mean": mean, f"{column}_std": std}
    numbers[f"{column}_resampling_std"] = statistics.fmean(spreads) if spreads else None
    row = {}
    if paper is not None:
        numbers |= {f"published_{column}": paper.value, f"published_{column}_spread": paper.spread}
        row = {"published_spread_of": paper.spread_of}
    number = described(metric)
    row |= {name: number.text(value) for name, value in numbers.items() if value is not None}
    if paper is not None:
        row[f"{column}_difference"] = number.text(mean - paper.value, signed=True)
        if std:
            row[f"{column}_difference_in_std"] = f"{(mean - paper.value) / std:+z.1f}"
    return row


def _columns(column: str, heading: str, label: str, rows: Sequence[Mapping[str, str]]) -> list[Column]:
    """The columns of a metric; in features that papers use, the published number is next to them."""
    columns = [Column(heading, f"{column}_mean", f"{column}_std")]
    difference, *interval = _versus(column)
    if any(difference in row for row in rows):
        columns.append(Column(f"{heading} minus independent", difference, interval=tuple(interval)))
    if any(f"{column}_resampling_std" in row for row in rows):
        columns.append(Column(f"{heading}, std over samples of one model", f"{column}_resampling_std"))
    if label in extractors():
        columns += [
            Column(f"published {heading}", f"published_{column}", f"published_{column}_spread"),
            Column(f"{heading} minus published", f"{column}_difference"),
            Column(f"{heading} minus published, in our std over seeds", f"{column}_difference_in_std"),
            Column("published ± is of", "published_spread_of"),
            Column("source", "published_source"),
        ]
    return columns


def _heading(metric: str, features: ExtractorConfig) -> str:
    """The heading of a metric in an extractor's features: ``Fréchet distance ↓ (classifier)``."""
    suffix = features.metric("")
    plain = "fid" if features.metric(metric) == f"fid{suffix}" else metric
    number = described(plain)
    arrow = "↓" if number.lower_is_better else "↑"
    return f"{number.heading} {arrow}" + (f" ({suffix.strip('_')})" if suffix else "")
