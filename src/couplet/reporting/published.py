"""The papers' own numbers, each with its source."""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import yaml

from couplet.config.cells import Training
from couplet.config.couplings import CouplingConfig


class Published(NamedTuple):
    """A number from a paper, in the units of our column; blank where the paper has none."""

    value: float | None = None
    std: float | None = None
    source: str = ""


COLUMNS = {
    f"{column}{mode}": paper
    for column, paper in {"fid": ("FID", 1.0), "kid": ("KIDx100", 0.01), "is": ("IS", 1.0)}.items()
    for mode in ("", "_legacy_tensorflow", "_legacy_pytorch")
}
"""Our columns in features of the published Inception, the papers' name of each, and the factor from their
unit to ours."""


@cache
def _table() -> list[tuple[dict[str, str], CouplingConfig, dict[str, Any]]]:
    """The rows of published.csv, each with its coupling and the dropout that it names, if any."""
    with files("couplet.reporting").joinpath("published.csv").open() as file:
        rows = list(csv.DictReader(file))
    table = []
    for row in rows:
        coupling = {"kind": row["coupling"], **(yaml.safe_load(row["settings"]) or {})}
        dropout = {"dropout": coupling.pop("dropout")} if "dropout" in coupling else {}
        table.append((row, CouplingConfig.parse(coupling), dropout))
    return table


def reported(training: Training, nfe: int, column: str) -> Published:
    """The number that a paper reports for this method, data set, kernel, coupling and NFE.

    A number belongs to the data set itself, whatever its name in a file (a folder of images called cifar10
    has none), to a coupling with the settings that the row names and its defaults otherwise, and to the
    dropout, if the row names one. ``published_as`` stands for the rest of the recipe.
    """
    metric, unit = COLUMNS.get(column, ("", 1.0))
    wanted = {
        "published_as": training.recipe.published_as,
        "dataset": training.dataset.kind,
        "kernel": training.cell.kernel,
        "nfe": str(nfe),
        "metric": metric,
    }
    network = training.recipe.network.model_dump(mode="json")
    for row, coupling, named in _table():
        same_names = wanted.items() <= row.items() and named.items() <= network.items()
        if same_names and coupling == training.coupling:
            std = unit * float(row["std"]) if row["std"] else None
            return Published(unit * float(row["value"]), std, row["source"])
    return Published()
