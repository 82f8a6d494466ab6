"""The papers' own numbers, each with its source."""

from __future__ import annotations

import csv
from importlib.resources import files
from typing import NamedTuple

from couplet.config import Training


class Published(NamedTuple):
    """A number from a paper."""

    value: str
    std: str
    source: str


NOTHING = Published("", "", "")
"""No paper reports the row: its cells stay blank."""


def published_fid(training: Training, nfe: int) -> Published:
    """The FID that a paper reports for this method, data set, kernel, coupling and NFE.

    A number belongs to a coupling's kind and, where the paper gives one, to its mu.
    """
    wanted = {
        "published_as": training.recipe.published_as,
        "dataset": training.cell.dataset,
        "kernel": training.cell.kernel,
        "coupling": training.coupling.kind,
        "nfe": str(nfe),
        "metric": "FID",
    }
    mu = getattr(training.coupling, "mu", None)
    with files("couplet.reporting").joinpath("published.csv").open() as file:
        for row in csv.DictReader(file):
            if all(row[key] == value for key, value in wanted.items()) and (
                not row["mu"] or float(row["mu"]) == mu
            ):
                return Published(row["value"], row["std"], row["source"])
    return NOTHING
