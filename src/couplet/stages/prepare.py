"""Stage `prepare`: a data set becomes an archive."""

from __future__ import annotations

from pathlib import Path

from couplet import data
from couplet.config import Params
from couplet.data import Card


def prepare(params: Params, dataset: str, out: Path) -> Card:
    """Writes the archive of ``dataset`` to the folder ``out``.

    Raises:
        UserError: the source is not to be had, or ``out`` cannot be written.
    """
    source = data.read(params.datasets[dataset])
    return data.write(
        out,
        dataset=dataset,
        source=source.description,
        classes=source.classes,
        splits=source.splits,
    )
