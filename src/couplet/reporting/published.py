"""The papers' own numbers, each with its source."""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from couplet.config import Training


class Published(NamedTuple):
    """A number from a paper, in the units of our column; blank where the paper has none."""

    value: float | None
    std: float | None
    source: str


NOTHING = Published(None, None, "")
"""No paper reports the row: its cells stay blank."""

COLUMNS = {
    f"{column}{mode}": meaning
    for column, meaning in {"fid": ("FID", 1.0), "kid": ("KIDx100", 0.01), "is": ("IS", 1.0)}.items()
    for mode in ("", "_legacy_tensorflow", "_legacy_pytorch")
}
"""Our columns in features of the published Inception, the papers' name of each, and the factor from their
unit to ours."""


@cache
def _table() -> tuple[dict[str, str], ...]:
    with files("couplet.reporting").joinpath("published.csv").open() as file:
        return tuple(csv.DictReader(file))


def reported(training: Training, nfe: int, column: str) -> Published:
    """What a paper reports for this method, data set, kernel, coupling and NFE.

    A number belongs to the data set itself, whatever a file calls it (a folder of images that is named
    cifar10 has none), to a coupling's kind and, where the paper gives one, to its mu.
    """
    metric, unit = COLUMNS.get(column, ("", 1.0))
    wanted = {
        "published_as": training.recipe.published_as,
        "dataset": training.dataset.kind,
        "kernel": training.cell.kernel,
        "coupling": training.coupling.kind,
        "nfe": str(nfe),
        "metric": metric,
    }
    mu = getattr(training.coupling, "mu", None)
    for row in _table():
        if all(row[key] == value for key, value in wanted.items()) and (
            not row["mu"] or float(row["mu"]) == mu
        ):
            std = unit * float(row["std"]) if row["std"] else None
            return Published(unit * float(row["value"]), std, row["source"])
    return NOTHING
