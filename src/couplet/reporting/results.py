"""The page of a table: numbers with intervals, samples over training, curves, and the origin of each."""

from __future__ import annotations

import json
import math
import re
import statistics
from base64 import b64encode
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from couplet.config.datasets import is_plane, panel_size
from couplet.reporting.intervals import student
from couplet.reporting.page import render
from couplet.reporting.pictures import image_of, tile
from couplet.reporting.table import Column, Table

POINTS = 100
"""Points of a curve, at most; more are averaged."""

READABLE = 200
"""Least width of a panel on a screen, in pixels; a whole number of screen pixels for each of an image."""

NUMBER = r"[-+]?\d[\d.]*(e[-+]?\d+)?"

COMPARED = ("dataset", "scale", "nfe", "extractor", "reference")
"""Columns in which rows agree whose numbers can be compared."""

NAMES = ("recipe", "kernel", "coupling")
"""Columns whose names people call otherwise, see :attr:`couplet.config.params.Params.labels`."""

Curve = Mapping[int, float]
"""Values by step."""


class Details(NamedTuple):
    """What is behind a row of the table."""

    settings: Mapping[str, Any]
    """All settings of its cell by dotted key."""
    numbers: Mapping[str, Mapping[str, float]]
    """By run, then by metric in its features, as the columns are called without `_mean`."""
    origin: Sequence[tuple[str, str]]
    """Lines of `couplet why`: name, which may be blank, and value."""


class Trained(NamedTuple):
    """One training, for curves and pictures."""

    label: str
    seed: int
    loss: Curve
    distance: Curve
    shown: Mapping[int, NDArray[np.uint8]]
    """The first images [n, h, w, c] of each snapshot, by step."""
    samples: Mapping[int, NDArray[np.uint8]]
    """Of the selected snapshot, by NFE."""
    selected: int
    """Step of the selected snapshot."""


class Group(NamedTuple):
    """The runs of a data set that are measured in the same features."""

    title: str
    distance: str
    """What the distance is, in words."""
    real: NDArray[np.uint8]
    """Real images, as many as in a panel."""
    runs: Sequence[Trained]


def results_page(
    title: str,
    table: Table,
    details: Sequence[Details],
    groups: Sequence[Group],
    *,
    labels: Mapping[str, str],
    missing: Sequence[str] = (),
    why: str,
) -> str:
    """A page that needs no other file: pictures, styles and script are inside.

    Args:
        title: of the page.
        table: the table.
        details: of each of its rows.
        groups: pictures and curves.
        labels: what recipes, kernels and couplings are called, by name.
        missing: the cells that the table lacks, each with the reason.
        why: a command, to which the number of a row is added.
    """
    drawn = [_drawn(group) for group in groups]
    differing = _differing([each.settings for each in details])
    columns, shared = _columns(table)
    best = {column.name: _best(table, column) for column in columns}
    return render(
        "results.html.j2",
        title=title,
        missing=missing,
        shared=[
            (column.heading, labels.get(value, value) if column.name in NAMES else value)
            for column, value in shared
        ],
        columns=[(column.heading, _is_numeric(table, column)) for column in columns],
        rows=[
            {
                "name": _name(row, columns, labels),
                "cells": [
                    _cell(row, column, each, labels, best=number in best[column.name]) for column in columns
                ],
                "numbers": each.numbers,
                "apart": {key: each.settings[key] for key in differing if key in each.settings},
                "settings": each.settings,
                "origin": each.origin,
                "why": f"{why} {number}",
            }
            for number, (row, each) in enumerate(zip(table.rows, details, strict=True), start=1)
        ],
        differences=any(column.interval for column in columns),
        clocks="; ".join(dict.fromkeys(row["timed_by"] for row in table.rows if row.get("timed_by"))),
        groups=drawn,
        # No tag can end inside a script.
        data=json.dumps([group["data"] for group in drawn]).replace("<", r"\u003c"),
    )


def _columns(table: Table) -> tuple[list[Column], list[tuple[Column, str]]]:
    """The columns for reading, and apart, with their value, those of names in which all rows agree."""
    columns: list[Column] = []
    shared = []
    for column in table.shown:
        first, *others = [row[column.name] for row in table.rows]
        if others and {*others} == {first} and not _is_numeric(table, column):
            shared.append((column, first))
        else:
            columns.append(column)
    return columns, shared


def _is_numeric(table: Table, column: Column) -> bool:
    """Whether a column holds measured numbers, which are set to the right."""
    values = [row[column.name] for row in table.rows if row[column.name]]
    return column.name not in ("nfe", "seeds") and all(re.fullmatch(NUMBER, value) for value in values)


def _name(row: Mapping[str, str], columns: Sequence[Column], labels: Mapping[str, str]) -> str:
    """What tells a row apart: ``minibatch OT, NFE 2``."""
    names = [row[c.name] for c in columns if c.name in ("dataset", "scale")]
    names += [labels.get(row[c.name], row[c.name]) for c in columns if c.name in NAMES]
    names += [row[c.name] for c in columns if c.name == "extractor"]
    return ", ".join([*filter(None, names), f"NFE {row['nfe']}"])


def _cell(
    row: Mapping[str, str], column: Column, details: Details, labels: Mapping[str, str], *, best: bool
) -> dict[str, Any]:
    """The parts of a cell: text, spread, the interval over seeds, and a name of the file's own."""
    value = row[column.name]
    text = value.replace("-", "−") if column.interval else value
    parts = {"text": text, "spread": row.get(column.std, "") if column.std else "", "best": best}
    parts |= {"interval": "", "name": ""}
    if column.name in NAMES and labels.get(value, value) != value:
        parts |= {"text": labels[value], "name": value}
    metric = column.name.removesuffix("_mean")
    values = [numbers[metric] for numbers in details.numbers.values() if metric in numbers]
    ends = [row[name] for name in column.interval]
    if metric != column.name and len(values) > 1:
        decimals, mean = len(value.partition(".")[2]), student(values)
        ends = [f"{end:z.{decimals}f}" for end in (mean.low, mean.high)]
    if any(ends):
        low, high, *pairs = ends
        count = [f"{number} pair{'s' * (number != '1')}" for number in pairs]
        parts["interval"] = ", ".join([*([f"{low} to {high}"] if low else []), *count]).replace("-", "−")
    return parts


def _best(table: Table, column: Column) -> set[int]:
    """The numbers, from 1, of the rows whose mean is the best of those that they can be compared with."""
    if not (column.name.endswith("_mean") and re.search("[↓↑]", column.heading)):
        return set()
    comparable: dict[tuple[str, ...], dict[int, float]] = {}
    for number, row in enumerate(table.rows, start=1):
        if row[column.name]:
            group = tuple(row.get(key, "") for key in COMPARED)
            comparable.setdefault(group, {})[number] = float(row[column.name])
    chosen = min if "↓" in column.heading else max
    return {
        number
        for values in comparable.values()
        if len(values) > 1
        for number, value in values.items()
        if value == chosen(values.values())
    }


def _differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys of settings that rows have different values of, or not all."""
    keys = dict.fromkeys(key for each in settings for key in each)
    return [key for key in keys if len({json.dumps(each.get(key), sort_keys=True) for each in settings}) > 1]


def _drawn(group: Group) -> dict[str, Any]:
    """The parts of a group for the page, with pictures as data URIs, and ``data`` for its script."""
    by_label: dict[str, list[Trained]] = {}
    for run in group.runs:
        by_label.setdefault(run.label, []).append(run)
    first = {label: runs[0] for label, runs in by_label.items()}
    steps = sorted({step for run in first.values() for step in run.shown})
    over_training = {
        label: [_panel(run.shown[step]) if step in run.shown else None for step in steps]
        for label, run in first.items()
        if run.shown
    }
    selected = [
        (
            f"NFE {nfe}",
            {label: _panel(run.samples[nfe]) for label, run in first.items() if nfe in run.samples},
        )
        for nfe in sorted({nfe for run in first.values() for nfe in run.samples})
    ]
    distance = {label: {run.seed: run.distance for run in runs} for label, runs in by_label.items()}
    loss = {label: {run.seed: thinned(run.loss) for run in runs} for label, runs in by_label.items()}
    charts = [
        {"title": "Fréchet distance of every snapshot", "about": group.distance, "series": _series(distance)},
        {"title": "Loss", "about": "mean of neighbouring steps", "series": _series(loss)},
    ]
    return {
        "title": group.title,
        "seed": group.runs[0].seed,
        "steps": steps,
        "over_training": over_training,
        "chosen": {label: sorted({run.selected for run in runs}) for label, runs in by_label.items()},
        "selected": selected,
        "real": _panel(group.real),
        "charts": charts,
        "data": {
            "steps": steps,
            "pictures": [[panel and panel["src"] for panel in panels] for panels in over_training.values()],
            "charts": charts,
        },
    }


def thinned(curve: Curve) -> Curve:
    """A curve of at most :data:`POINTS` points: means over as many equal parts of training, at their ends."""
    size = max(curve, default=0) / POINTS
    parts: dict[int, list[int]] = {}
    for step in curve:
        parts.setdefault(math.ceil(step / size), []).append(step)
    return {steps[-1]: statistics.fmean(curve[step] for step in steps) for steps in parts.values()}


def _series(curves: Mapping[str, Mapping[int, Curve]]) -> list[dict[str, Any]]:
    """Curves by label and seed as lists of steps and values of four digits, with the mean over seeds."""
    series = []
    for label, runs in curves.items():
        steps = sorted({step for curve in runs.values() for step in curve})
        mean = {
            step: statistics.fmean(curve[step] for curve in runs.values() if step in curve) for step in steps
        }
        seeds = [{"seed": seed, "points": _points(curve)} for seed, curve in runs.items()]
        series.append({"label": label, "points": _points(mean), "seeds": seeds})
    return series


def _points(curve: Curve) -> list[tuple[int, float]]:
    return [(step, float(f"{value:.4g}")) for step, value in curve.items() if math.isfinite(value)]


def _panel(images: NDArray[np.uint8]) -> dict[str, Any]:
    """A grid of images as a data URI, one pixel for each of theirs, and its width on a screen."""
    images = images[: panel_size(images.shape[1:])]
    if not is_plane(images.shape[1:]):  # the page's colour between the images
        images = np.concatenate([images, np.full_like(images[..., :1], 255)], axis=-1)
    picture = image_of(tile(images, side=1, gap=0))
    file = BytesIO()
    picture.save(file, "PNG", optimize=True)
    width = picture.width * max(1, -(-READABLE // picture.width))
    return {"src": f"data:image/png;base64,{b64encode(file.getvalue()).decode()}", "width": width}
