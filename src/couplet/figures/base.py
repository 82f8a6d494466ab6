"""The input of a figure kind, a study's cells with their measurements, and the decisions of a kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from couplet.config.cells import Cell, Training
from couplet.config.params import Params
from couplet.config.study import Study
from couplet.cost import cost, parameters
from couplet.errors import UserError
from couplet.files import replacing
from couplet.model import ImageShape
from couplet.reporting.pictures import STYLE
from couplet.reporting.statements import DIMENSIONS, Statement, correction, spread, statements
from couplet.reporting.times import StepTime


class Measured(NamedTuple):
    """A cell with the measurements of one stage."""

    cell: Cell
    training: Training
    shape: ImageShape
    """Shape of the data set's images."""
    time: StepTime | None
    """The time of a training step, if the figure reads it."""
    numbers: Sequence[Mapping[str, Any]]
    """By ``Study.needs``: `scores` of selection.json, `numbers` of evaluation.json, or lines of the probe."""

    @property
    def evaluations_per_step(self) -> float:
        """Forward passes of the network per image in a training step."""
        return cost(self.training, self.shape).evaluations


@dataclass(frozen=True)
class Cells:
    """The cells of a study's parameter file, in the grid's order; filled by the stage."""

    params: Params
    study: Study
    members: Sequence[Measured]

    def __post_init__(self) -> None:
        """Raises UserError if two rows have the same label, or distances have more than one extractor."""
        labels: dict[str, str] = {}
        for member in self.members:
            label, name = self.names(member)["row"], member.cell.name
            if (other := labels.setdefault(label, name)) != name:
                raise UserError(f"study.labels: {other} and {name} have the same label {label!r}")
        extractors = sorted({self.params.selector(cell) for cell in self.params.cells()})
        if len(extractors) > 1 and self.study.needs in ("select", "evaluate"):
            raise UserError(f"table1.extractors = {extractors}: the figure of a study has one extractor")

    def names(self, member: Measured, without: str = "") -> dict[str, Any]:
        """The columns that name a cell. Its label ``row`` has the names that vary, except ``without``."""
        names = {key: getattr(member.cell, key) for key in DIMENSIONS}
        varied = [key for key in DIMENSIONS if len({getattr(each.cell, key) for each in self.members}) > 1]
        keys = [key for key in varied if key != without] or ([] if without else ["coupling"])
        label = ", ".join(self.params.labels.get(names[key], names[key]) for key in keys)
        return names | {"row": label, "seed": member.cell.seed}

    def distances(self, without: str = "") -> pd.DataFrame:
        """A row per cell and NFE: names and Fréchet distance."""
        rows = []
        for member in self.members:
            names = self.names(member, without)
            by_nfe = {each["nfe"]: each["value"] for each in member.numbers if each.get("metric") == "fd"}
            for nfe in self.params.sample.nfe:
                of_select = self.study.needs == "select"
                value = member.numbers[-1][f"fd_nfe{nfe}"] if of_select else by_nfe[nfe]
                rows.append({**names, "nfe": nfe, "value": value})
        return pd.DataFrame(rows)

    @property
    def seeds(self) -> str:
        """The number of seeds per row, in words."""
        names = [member.cell.name for member in self.members]
        counts = sorted({names.count(name) for name in names})
        return "one seed" if counts == [1] else f"{' to '.join(map(str, counts))} seeds each"

    @property
    def budget(self) -> str:
        """Data sets, steps, batches and networks of the training runs."""
        budgets: dict[str, None] = {}
        for cell, training, shape, *_ in self.members:
            recipe, network = training.recipe, training.recipe.network
            length = f"{recipe.steps:,} steps of {recipe.batch} images"
            size = f"{network.model_channels} channels, {parameters(training, shape):,} parameters"
            budgets[f"{cell.dataset}, {length}, {network.kind} of {size}"] = None
        return "; ".join(budgets) + "."


class FigureKind(ABC):
    """A kind of figure. Rows are tidy: one per seed, never averaged."""

    at: tuple[str, ...] = ("nfe",)
    """The columns that tell numbers of one seed of a row apart."""
    place = ("nfe", "NFE")
    """The column whose values have statements of their own, and its name in a sentence."""
    snapshots = "the last"
    """The snapshots whose distances are drawn, in words, where `select` measured them."""
    ends = "bars are their standard deviation"
    """What bars or bands are, in words."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def rows(self, cells: Cells) -> pd.DataFrame:
        """The rows of the figure, the content of its .csv file: distances, unless the kind has others."""
        return cells.distances()

    def ylabel(self, params: Params) -> str:
        """The label of the values."""
        return f"Fréchet distance ({params.extractor})"

    @abstractmethod
    def picture(self, rows: pd.DataFrame, ylabel: str) -> Figure:
        """The figure in the current style; labels are in the order of their first row.

        Marks are means over seeds; bars and bands are the sample standard deviation, absent for one seed.
        """

    def draw(self, rows: pd.DataFrame, out: Path, ylabel: str) -> None:
        """Write ``out`` twice, with the suffixes .svg and .png; the same rows give the same bytes.

        Raises:
            ValueError: there is no row, a number is not finite, a seed is there twice, or rows do not fit.
        """
        if rows.empty:
            raise ValueError(f"{self.config.kind}: there is no row to draw")
        finite = np.isfinite(rows.select_dtypes("number")).all(axis=1)
        repeated = rows.duplicated(["row", *self.at, "seed"]) & bool(self.at)
        for wrong, problem in ((~finite, "a number is not finite"), (repeated, "a seed is there twice")):
            if wrong.any():
                raise ValueError(f"{self.config.kind}: {problem}: {rows[wrong].iloc[0].to_dict()}")
        with mpl.rc_context(fname=STYLE):
            picture = self.picture(rows, ylabel)
            for suffix, metadata in ((".svg", {"Date": None}), (".png", None)):
                with replacing(out.with_suffix(suffix)) as temporary:
                    picture.savefig(temporary, format=suffix[1:], metadata=metadata)

    def caption(self, rows: pd.DataFrame, cells: Cells) -> dict[str, Any]:
        """The parts of a caption that come from numbers."""
        compared, remark = self.compared(rows)
        found = self.statements(compared, cells)
        return {
            "statements": [statement._asdict() for statement in found],
            "measured": self.measured(cells) + remark + correction(len(found)),
            "budget": cells.budget,
            "table": self.table(compared),
        }

    def compared(self, rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
        """The rows of the statements and of the caption's table, and a remark on rows that are left out."""
        return rows, ""

    def statements(self, rows: pd.DataFrame, cells: Cells) -> list[Statement]:
        """The study's comparisons, tested on the seeds."""
        unfit = partial(self.unfit, cells)
        return statements(rows, cells.study.compare, cells.params.labels, *self.place, unfit=unfit)

    def unfit(self, cells: Cells, lower: Mapping[str, Any], than: Mapping[str, Any]) -> str:
        """The reason why two rows, by the columns that tell them apart, allow no claim; blank without one."""
        return ""

    def measured(self, cells: Cells) -> str:
        """A sentence on features, samples and seeds."""
        params, name = cells.params, cells.params.selector(cells.params.cells()[0])
        kind = params.extractor_named(name).kind
        if cells.study.needs == "select":
            snapshot, split = f"{self.snapshots} snapshot", params.select.split
            samples = f"{params.select.samples} samples of {snapshot} against the {split} split"
        else:
            samples = f"{params.sample.samples} samples of the selected snapshot against the training split"
        return (
            f"Fréchet distance in features of the extractor {name if name == kind else f'{name} ({kind})'}; "
            f"{samples}; {cells.seeds}, {self.ends}."
        )

    def table(self, rows: pd.DataFrame) -> dict[str, Any]:
        """Mean and standard deviation of each row at each place, as text."""
        at = [column for column in self.at if column in rows]
        return {
            "columns": ["", *at, "mean ± std"],
            "rows": [
                [*(f"{n:g}" if isinstance(n, float) else str(n) for n in names), spread(group["value"])]
                for names, group in rows.groupby(["row", *at], sort=False)
            ],
        }
