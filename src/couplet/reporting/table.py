"""The table of a grid: tidy numbers to rows, rows to text."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from couplet.config.cells import Training
from couplet.config.extractors import ExtractorConfig
from couplet.config.metrics import described
from couplet.reporting.page import render
from couplet.reporting.published import COLUMNS as PUBLISHED
from couplet.reporting.published import reported


class Result(NamedTuple):
    """One evaluated cell, measured with one extractor."""

    run: str
    training: Training
    extractor: str
    """Its name in the parameter file."""
    features: ExtractorConfig
    """Its settings, which name the columns."""
    evaluation: Mapping[str, Any]
    """Content of evaluation.json."""
    record: Mapping[str, Any]
    """Content of the training run's record.json."""
    scale: str = ""
    """The scale of the parameter file; blank without one."""


class Missing(NamedTuple):
    """One missing cell, in a table of the others."""

    training: Training
    extractor: str
    """Its name in the parameter file."""
    nfe: tuple[int, ...]
    """The rows that lack it."""
    why: str
    scale: str = ""


class Column(NamedTuple):
    """A column for reading, and the names of its one or two columns in the CSV file."""

    heading: str
    """Blank for a column that only the CSV file has."""
    name: str
    std: str = ""


class Table(NamedTuple):
    """Rows of text by the CSV file's names, and the columns for reading."""

    columns: Sequence[Column]
    rows: Sequence[Mapping[str, str]]

    def csv(self) -> str:
        """The table as CSV with a header."""
        import pandas as pd

        return pd.DataFrame(self.rows).to_csv(index=False)

    def reading(self) -> tuple[list[str], list[list[str]]]:
        """Headings and rows for reading: means with their spread, without empty columns."""
        columns = [c for c in self.columns if c.heading and any(row[c.name] for row in self.rows)]
        texts = [
            [f"{row[c.name]} ± {row[c.std]}" if row.get(c.std) else row[c.name] for c in columns]
            for row in self.rows
        ]
        return [column.heading for column in columns], texts

    def markdown(self) -> str:
        """The table for reading, as Markdown."""
        headings, rows = self.reading()
        lines = [" | ".join(headings), " | ".join("---" for _ in headings), *map(" | ".join, rows)]
        return "".join(f"| {line} |\n" for line in lines)

    def html(self, title: str) -> str:
        """The table for reading, as a page."""
        headings, rows = self.reading()
        lead = "Mean ± standard deviation over training seeds; arrows point to better values."
        return render(title, lead, table={"columns": headings, "rows": rows})


def table(results: Iterable[Result | Missing]) -> Table:
    """One row per dataset × recipe × kernel × coupling × NFE × extractor, in order of appearance.

    Numbers are means over seeds, std their sample standard deviation, blank for one seed. An incomplete
    table counts ``1 of 2`` seeds and names the missing ones in a column ``missing``; a row without any cell
    has no numbers. Every row has the columns of all metrics of the table, blank where its extractor has
    none: numbers of different extractors share neither a row nor a column. replaced_gradients, the number of
    steps whose non-finite gradients were replaced, is a column only where a recipe allows that.
    ``published_*`` is the paper's number, ``*_difference`` measured minus published in units of its std.
    """
    import pandas as pd

    results = list(results)
    measured = [result for result in results if isinstance(result, Result)]
    numbers = pd.DataFrame(
        (
            {
                "cell": _row_of(result),
                "nfe": number["nfe"],
                "column": result.features.metric(number["metric"]),
                "metric": number["metric"],
                "heading": _heading(number["metric"], result.features),
                "value": number["value"],
            }
            for result in measured
            for number in result.evaluation["numbers"]
            if not described(number["metric"]).is_spread
        ),
        columns=["cell", "nfe", "column", "metric", "heading", "value"],
    )
    groups: dict[tuple[str, str], list[Result | Missing]] = {}
    for result in results:
        groups.setdefault(_row_of(result), []).append(result)
    rows = []
    for cell, members in groups.items():
        own = numbers[numbers["cell"] == cell]
        planned = {nfe for member in members if isinstance(member, Missing) for nfe in member.nfe}
        for nfe in sorted(planned | set(own["nfe"])):
            row = {"nfe": str(nfe), **_names(members), **_training(members)}
            by_metric = own[own["nfe"] == nfe].groupby(["column", "metric"], sort=False)["value"]
            for (column, metric), values in by_metric:
                row = (
                    _statistics(values.tolist(), members[0].training, nfe, column=column, metric=metric) | row
                )
            rows.append(row)
    columns = [
        Column("data set", "dataset"),
        *(Column(name, name) for name in ("scale", "recipe", "kernel", "coupling")),
        Column("NFE", "nfe"),
        Column("seeds", "seeds"),
    ]
    if len(measured) < len(results):
        columns.append(Column("missing", "missing"))
    for column, heading in numbers[["column", "heading"]].drop_duplicates().itertuples(index=False):
        columns += _columns(column, heading)
    columns += [Column("training (s)", "train_seconds"), Column("images/s", "images_per_second")]
    if any(
        r.training.recipe.nonfinite_gradients != "stop" or r.record["replaced_gradients"] for r in measured
    ):
        columns.append(Column("steps with replaced gradients", "replaced_gradients"))
    columns += [Column("features", "extractor"), Column("compared with", "reference"), Column("", "runs")]
    # The source of published numbers follows the first metric that has any.
    columns = list(dict.fromkeys(columns))
    names = [name for column in columns for name in (column.name, column.std) if name]
    return Table(columns, [{name: row.get(name, "") for name in names} for row in rows])


def _row_of(result: Result | Missing) -> tuple[str, str]:
    return result.training.cell.name, result.extractor


def _names(members: Sequence[Result | Missing]) -> dict[str, str]:
    """The columns that say which cells a row is made of."""
    first = members[0]
    results = [member for member in members if isinstance(member, Result)]
    missing = [member for member in members if isinstance(member, Missing)]
    row = {name: str(value) for name, value in first.training.cell if name != "seed"}
    row |= {
        "scale": first.scale,
        "seeds": f"{len(results)} of {len(members)}" if missing else str(len(members)),
        "missing": ", ".join(f"seed {member.training.cell.seed}: {member.why}" for member in missing),
        "extractor": first.extractor,
        "runs": " ".join(result.run for result in results),
    }
    if results:
        evaluation = results[0].evaluation
        row["extractor"] = evaluation["extractor"]
        row["reference"] = "{split}, {images} images".format(**evaluation["reference"])
    return row


def _training(members: Sequence[Result | Missing]) -> dict[str, str]:
    """Means over the training runs of a row."""
    records = [member.record for member in members if isinstance(member, Result)]
    shown = {"seconds": ".1f", "images_per_second": ".0f", "replaced_gradients": "g"}
    means = {
        name: format(statistics.fmean(record[name] for record in records), decimals)
        for name, decimals in shown.items()
        if records
    }
    return {{"seconds": "train_seconds"}.get(name, name): text for name, text in means.items()}


def _statistics(
    values: Sequence[float], training: Training, nfe: int, *, column: str, metric: str
) -> dict[str, str]:
    """The texts of a metric's columns, from a value per seed."""
    paper = reported(training, nfe, column)
    mean = statistics.fmean(values)
    numbers = {
        f"{column}_mean": mean,
        f"{column}_std": statistics.stdev(values) if len(values) > 1 else None,
        f"published_{column}": paper.value,
        f"published_{column}_std": paper.std,
    }
    decimals = described(metric).decimals
    row = {name: f"{value:.{decimals}f}" for name, value in numbers.items() if value is not None}
    if paper.value is not None and paper.std:
        row[f"{column}_difference"] = f"{(mean - paper.value) / paper.std:+.1f}"
    return row | ({"published_source": paper.source} if paper.source else {})


def _columns(column: str, heading: str) -> list[Column]:
    """The columns of a metric; those that papers report have the published number next to them."""
    measured = Column(heading, f"{column}_mean", f"{column}_std")
    if column not in PUBLISHED:
        return [measured]
    return [
        measured,
        Column(f"published {heading}", f"published_{column}", f"published_{column}_std"),
        Column(f"{heading} minus published, in its std", f"{column}_difference"),
        Column("source", "published_source"),
    ]


def _heading(metric: str, features: ExtractorConfig) -> str:
    """The heading of a metric in an extractor's features: ``Fréchet distance ↓ (classifier)``."""
    suffix = features.metric("")
    plain = "fid" if features.metric(metric) == f"fid{suffix}" else metric
    number = described(plain)
    arrow = "↓" if number.lower_is_better else "↑"
    return f"{number.heading} {arrow}" + (f" ({suffix.strip('_')})" if suffix else "")
