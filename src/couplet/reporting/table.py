"""Runs to rows, rows to text."""

from __future__ import annotations

import csv
import io
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from couplet.config import Training
from couplet.reporting.published import COLUMNS as PUBLISHED
from couplet.reporting.published import NOTHING, Published, reported


class Result(NamedTuple):
    """One evaluated cell, measured with one extractor."""

    run: str
    training: Training
    extractor: str
    """Its name in the parameter file."""
    evaluation: Mapping[str, Any]
    """Content of evaluation.json."""
    record: Mapping[str, Any]
    """Content of the training's record.json."""
    scale: str = ""
    """The scale that the parameter file was read at; blank where it has none."""


class Missing(NamedTuple):
    """One cell that is not there, for a table of the others."""

    training: Training
    extractor: str
    """Its name in the parameter file."""
    nfe: tuple[int, ...]
    """The rows that lack it."""
    why: str
    scale: str = ""


NAMES = ("dataset", "scale", "recipe", "kernel", "coupling", "nfe", "seeds")
"""What tells rows apart, with the extractor."""

DECIMALS = {"fid": 3, "fd": 3, "kid": 5, "is": 3, "precision": 4, "recall": 4}
"""By the metric's name before the extractor's, `fd` of `fd_classifier`; others have 4."""


def rows(results: Iterable[Result | Missing]) -> list[dict[str, str]]:
    """One row per dataset × recipe × kernel × coupling × NFE × extractor, in order of appearance.

    Seeds are averaged. A row that lacks cells says so, ``1 of 2`` seeds, and names them in a column
    ``missing``, which a whole table does not have; one that lacks all has no numbers. Every row has the
    columns of all metrics of the table, blank where its extractor has none: numbers of different extractors
    share neither a row nor a column. std is over seeds, blank for one seed; train_seconds and
    images_per_second are means over seeds. So is replaced_gradients, the number of steps whose non-finite
    gradients were replaced: a column of tables in which a recipe allows that. ``published_*`` is what the
    paper reports, ``*_difference`` measured minus published in units of the paper's std.
    """
    results = list(results)
    there = [result for result in results if isinstance(result, Result)]
    metrics = list(dict.fromkeys(metric for result in there for metric, _ in _measured(result)))
    groups: dict[tuple[str, ...], list[Result | Missing]] = {}
    for result in results:
        groups.setdefault((result.training.cell.name, result.extractor), []).append(result)
    replacing = any(
        result.training.recipe.nonfinite_gradients != "stop" or result.record["replaced_gradients"]
        for result in there
    )
    return [
        _row(members, nfe, metrics, replacing=replacing, partial=len(there) < len(results))
        for members in groups.values()
        for nfe in sorted({nfe for result in members for nfe in _nfe(result)})
    ]


def _nfe(result: Result | Missing) -> set[int]:
    return set(result.nfe) if isinstance(result, Missing) else {nfe for _, nfe in _measured(result)}


def _measured(result: Result) -> list[tuple[str, int]]:
    """The metrics of a result, each with its NFE; spreads within a run are left out."""
    found = [re.fullmatch(r"(.+)_nfe(\d+)", name) for name in result.evaluation["metrics"]]
    return [(match[1], int(match[2])) for match in found if match and not match[1].endswith("_std")]


def _row(
    cells: Sequence[Result | Missing], nfe: int, metrics: Sequence[str], *, replacing: bool, partial: bool
) -> dict[str, str]:
    first = cells[0]
    members = [cell for cell in cells if isinstance(cell, Result)]
    missing = [cell for cell in cells if isinstance(cell, Missing)]
    row = {
        name: str(getattr(first.training.cell, name))
        for name in NAMES
        if name not in ("scale", "nfe", "seeds")
    }
    row |= {"scale": first.scale, "nfe": str(nfe), "seeds": str(len(members))}
    row = {name: row[name] for name in NAMES}
    if missing:
        row["seeds"] = f"{len(members)} of {len(cells)}"
    if partial:
        row["missing"] = ", ".join(f"seed {cell.training.cell.seed}: {cell.why}" for cell in missing)
    for metric in metrics:
        found = [r.evaluation["metrics"].get(f"{metric}_nfe{nfe}") for r in members]
        values = [value for value in found if value is not None]
        mean = statistics.fmean(values) if values else None
        row[f"{metric}_mean"] = _shown(metric, mean)
        row[f"{metric}_std"] = _shown(metric, statistics.stdev(values) if len(values) > 1 else None)
        if metric in PUBLISHED:
            paper = NOTHING if mean is None else reported(first.training, nfe, metric)
            row[f"published_{metric}"] = _shown(metric, paper.value)
            row[f"published_{metric}_std"] = _shown(metric, paper.std)
            row[f"{metric}_difference"] = _difference(mean, paper)
            row["published_source"] = row.get("published_source") or paper.source
    row |= {
        "train_seconds": _mean(members, "seconds", ".1f"),
        "images_per_second": _mean(members, "images_per_second", ".0f"),
    }
    if replacing:
        row["replaced_gradients"] = _mean(members, "replaced_gradients", "g")
    evaluation = members[0].evaluation if members else None
    row |= {
        "extractor": evaluation["extractor"] if evaluation else first.extractor,
        "reference": "{split}, {images} images".format(**evaluation["reference"]) if evaluation else "",
        "runs": " ".join(result.run for result in members),
    }
    return row


def _mean(members: Sequence[Result], name: str, shown: str) -> str:
    """The mean of a number in the trainings' records; blank where there is no training."""
    return format(statistics.fmean(r.record[name] for r in members), shown) if members else ""


def _difference(mean: float | None, paper: Published) -> str:
    if mean is None or paper.value is None or not paper.std:
        return ""
    return f"{(mean - paper.value) / paper.std:+.1f}"


def _shown(metric: str, value: float | None) -> str:
    return "" if value is None else f"{value:.{DECIMALS.get(metric.split('_')[0], 4)}f}"


def to_csv(table: Sequence[Mapping[str, Any]]) -> str:
    """The table as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


HEADINGS = {
    "dataset": "data set",
    "nfe": "NFE",
    "fid": "FID ↓",
    "fd": "Fréchet distance ↓",
    "kid": "KID ↓",
    "is": "IS ↑",
    "precision": "precision ↑",
    "recall": "recall ↑",
    "train_seconds": "training (s)",
    "images_per_second": "images/s",
    "replaced_gradients": "steps with replaced gradients",
    "extractor": "features",
    "reference": "compared with",
    "published_source": "source",
}

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 14px/1.4 sans-serif; margin: 1em; color: #222; background: #fff }}
table {{ border-collapse: collapse }}
th, td {{ padding: 0.35em 0.45em; text-align: left; vertical-align: bottom; border-bottom: 1px solid #ccc }}
th {{ border-bottom: 2px solid #222 }}
td {{ white-space: nowrap; font-variant-numeric: tabular-nums }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>Mean ± standard deviation over training seeds; arrows say which way is better.</p>
<table>
<thead><tr>{head}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
</body>
</html>
"""


def to_markdown(table: Sequence[Mapping[str, str]]) -> str:
    """The table for reading: means with their spread, empty columns and run ids left out."""
    columns, body = _shown_columns(table)
    lines = [" | ".join(columns), " | ".join("---" for _ in columns), *map(" | ".join, body)]
    return "".join(f"| {line} |\n" for line in lines)


def to_html(table: Sequence[Mapping[str, str]], title: str) -> str:
    """The same as a page of its own: it refers to no other file and needs no script."""
    columns, body = _shown_columns(table)
    head, *rows = (
        "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts)
        for tag, texts in (("th", columns), *(("td", row) for row in body))
    )
    return PAGE.format(title=escape(title), head=head, rows="\n".join(f"<tr>{row}</tr>" for row in rows))


def _shown_columns(table: Sequence[Mapping[str, str]]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows for reading."""
    shown = [_merged(row) for row in table]
    names = [name for name in shown[0] if any(row[name] for row in shown)]
    return [_heading(name) for name in names], [[row[name] for name in names] for row in shown]


def _merged(row: Mapping[str, str]) -> dict[str, str]:
    """A row with one column in place of each mean and std."""
    merged = {}
    for name, value in row.items():
        if name == "runs" or name.endswith("_std"):
            continue
        spread = row.get(f"{name.removesuffix('_mean')}_std", "")
        merged[name.removesuffix("_mean")] = f"{value} ± {spread}" if spread else value
    return merged


def _heading(name: str) -> str:
    if name in HEADINGS:
        return HEADINGS[name]
    if name.startswith("published_"):
        return f"published {_heading(name.removeprefix('published_'))}"
    if name.endswith("_difference"):
        return f"{_heading(name.removesuffix('_difference'))} minus published, in its std"
    metric, _, extractor = name.partition("_")
    return f"{HEADINGS[metric]} ({extractor})" if metric in HEADINGS and extractor else name
