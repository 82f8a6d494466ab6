"""Runs to rows, rows to text."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from couplet.config import Training
from couplet.reporting.published import published_fid


class Result(NamedTuple):
    """One evaluated cell."""

    run: str
    training: Training
    evaluation: Mapping[str, Any]
    """Content of evaluation.json."""
    record: Mapping[str, Any]
    """Content of the training's record.json."""


COLUMNS = (
    "dataset",
    "recipe",
    "kernel",
    "coupling",
    "nfe",
    "seeds",
    "fd_mean",
    "fd_std",
    "kid_mean",
    "kid_std",
    "train_seconds",
    "images_per_second",
    "extractor",
    "published_fid",
    "published_source",
    "runs",
)
"""fd and kid: to the training split, in the features of ``extractor``; std over seeds, blank for one
seed. train_seconds and images_per_second: means over seeds."""


def rows(results: Iterable[Result]) -> list[dict[str, str]]:
    """One row per dataset × recipe × kernel × coupling × NFE × extractor, in order of appearance.

    Seeds are averaged; numbers of different extractors never meet in a row.
    """
    groups: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        cell = result.training.cell
        key = (cell.dataset, cell.recipe, cell.kernel, cell.coupling)
        groups.setdefault((*key, result.evaluation["extractor"]), []).append(result)
    return [
        _row(members, nfe)
        for members in groups.values()
        for nfe in sorted(
            int(name.removeprefix("fd_nfe"))
            for name in members[0].evaluation["metrics"]
            if name.startswith("fd_nfe")
        )
    ]


def _row(members: Sequence[Result], nfe: int) -> dict[str, str]:
    first = members[0].training
    published = published_fid(first, nfe)
    fd = [result.evaluation["metrics"][f"fd_nfe{nfe}"] for result in members]
    kid = [result.evaluation["metrics"][f"kid_nfe{nfe}"] for result in members]
    return {
        "dataset": first.cell.dataset,
        "recipe": first.cell.recipe,
        "kernel": first.cell.kernel,
        "coupling": first.cell.coupling,
        "nfe": str(nfe),
        "seeds": str(len(members)),
        "fd_mean": f"{statistics.fmean(fd):.3f}",
        "fd_std": f"{statistics.stdev(fd):.3f}" if len(fd) > 1 else "",
        "kid_mean": f"{statistics.fmean(kid):.5f}",
        "kid_std": f"{statistics.stdev(kid):.5f}" if len(kid) > 1 else "",
        "train_seconds": f"{statistics.fmean(r.record['seconds'] for r in members):.1f}",
        "images_per_second": f"{statistics.fmean(r.record['images_per_second'] for r in members):.0f}",
        "extractor": members[0].evaluation["extractor"],
        "published_fid": published.value,
        "published_source": published.source,
        "runs": " ".join(result.run for result in members),
    }


def to_csv(table: Sequence[Mapping[str, str]]) -> str:
    """The table as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def to_markdown(table: Sequence[Mapping[str, str]]) -> str:
    """The table for reading: means with their spread, empty columns and run ids left out."""
    head = {
        "dataset": "data set",
        "recipe": "recipe",
        "kernel": "kernel",
        "coupling": "coupling",
        "nfe": "NFE",
        "seeds": "seeds",
        "fd": "Fréchet distance ↓",
        "kid": "KID ↓",
        "train_seconds": "training (s)",
        "images_per_second": "images/s",
        "published_fid": "published FID",
        "published_source": "source",
        "extractor": "features",
    }
    shown = [{**row, "fd": _spread(row, "fd"), "kid": _spread(row, "kid")} for row in table]
    columns = [name for name in head if any(row[name] for row in shown)]
    lines = [" | ".join(head[name] for name in columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(row[name] for name in columns) for row in shown]
    return "".join(f"| {line} |\n" for line in lines)


def _spread(row: Mapping[str, str], name: str) -> str:
    mean, std = row[f"{name}_mean"], row[f"{name}_std"]
    return f"{mean} ± {std}" if std else mean
