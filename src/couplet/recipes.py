"""`couplet recipes`: every row of the papers, what it costs, and where its settings come from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from couplet.config.cells import Cell, Training
from couplet.config.fit import Facts
from couplet.config.layers import leaves
from couplet.config.resolve import resolve
from couplet.cost import Cost, cost, native_shape
from couplet.errors import UserError
from couplet.plan.resources import training_memory
from couplet.reporting.published import reported


class Row(NamedTuple):
    """One row of a paper, seeds apart."""

    table: str
    """The parameter file's name: `gc` of workflow/papers/gc.yaml."""
    cell: Cell
    training: Training
    nfe: Sequence[int]

    @property
    def name(self) -> str:
        """The name for `couplet recipes NAME`; `results/NAME.csv` is the row's table."""
        return f"{self.table}/{self.cell.name}"

    @property
    def cost(self) -> Cost | None:
        """Parameters and operations; None where the images' shape is known only once they are prepared."""
        shape = native_shape(self.training.dataset)
        return None if shape is None else cost(self.training, shape)

    @property
    def gpu_memory(self) -> int | None:
        """Bytes of one GPU that a step with the whole batch takes, modelled; None where it is not known."""
        memory = training_memory(self.training, Facts.of(self.cell.dataset, self.training.dataset))
        return None if memory is None else memory.device

    @property
    def assumed(self) -> list[str]:
        """Settings that no paper and no code tells, as their sources say."""
        sources = self.training.recipe.sources.items()
        return [key for key, source in sources if "assumed" in source or "not published" in source]


def rows(files: Sequence[Path], scale: str | None = None) -> Iterator[Row]:
    """The rows of parameter files, in the files' order."""
    for path in files:
        params = resolve(path, scale)
        for cell in dict.fromkeys(cell.model_copy(update={"seed": 0}) for cell in params.cells()):
            yield Row(path.stem, cell, params.training(cell), params.sample.nfe)


def summary(row: Row, tflops: float) -> dict[str, str]:
    """A line of the list, by heading; UserError if the network does not fit the data set."""
    recipe, made = row.training.recipe, row.cost
    published = ((nfe, each) for nfe in row.nfe for each in reported(row.training, nfe, "fd"))
    fid = [f"{each.value:.2f} (NFE {nfe})" for nfe, each in published if each.name.startswith("FID")]
    return {
        "table": row.table,
        "data set": row.cell.dataset,
        "recipe": row.cell.recipe,
        "kernel": row.cell.kernel,
        "coupling": row.cell.coupling,
        "published FID": ", ".join(fid),
        "steps × batch": f"{recipe.steps:,} × {recipe.batch}",
        "parameters": f"{made.parameters / 1e6:.1f} M" if made else "",
        "GPU-hours": f"{made.hours(row.training, tflops):.3g}" if made else "",
        "GPU memory": f"{row.gpu_memory / 1e9:.3g} GB" if row.gpu_memory else "",
        "assumed": str(len(row.assumed) or ""),
    }


def find(files: Sequence[Path], name: str, scale: str | None = None) -> Row:
    """The one row called `gc/cifar10-gc-ict-ve-ot`, or without the table; UserError if there is none."""
    found = list(rows(files, scale))
    matches = [row for row in found if name in (row.name, row.cell.name)]
    if len(matches) > 1:
        raise UserError(f"recipe {name}: more than one row: {', '.join(row.name for row in matches)}")
    if not matches:
        close = get_close_matches(name, [row.name for row in found]) or sorted({row.table for row in found})
        raise UserError(
            f"recipe {name}: no row of this name; close: {', '.join(close)}; `couplet recipes` lists all"
        )
    return matches[0]


def settings(row: Row) -> Iterator[tuple[str, str, str]]:
    """Dotted key, value and source of every setting that decides the row's weights or samples.

    A source of a group of settings (`network`) holds for each; a blank one is the class's documented default.
    """
    content: Mapping[str, Any] = {
        "dataset": row.training.dataset.model_dump(mode="json"),
        "coupling": row.training.coupling.model_dump(mode="json"),
        **row.training.recipe.model_dump(mode="json", exclude={"sources"}),
    }
    sources = row.training.recipe.sources
    for keys, value in leaves(content):
        above = [".".join(keys[:end]) for end in range(len(keys), 0, -1)]
        yield above[0], json.dumps(value), next((sources[key] for key in above if key in sources), "")
