"""What a figure kind gets, a study's cells with their measurements, and what it decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from couplet.config import Cell, Params, Training
from couplet.config.study import FigureConfig, Study
from couplet.errors import UserError
from couplet.figures.marks import check
from couplet.files import replacing
from couplet.reporting.statements import DIMENSIONS, Statement, spread, statements
from couplet.reporting.style import STYLE

if TYPE_CHECKING:
    from couplet.model import ImageShape


class Measured(NamedTuple):
    """A cell with what one stage measured of it."""

    cell: Cell
    training: Training
    shape: ImageShape
    """Shape of the data set's images."""
    seconds: float
    """Duration of the training run."""
    numbers: Sequence[Mapping[str, Any]]
    """By ``Study.needs``: `scores` of selection.json, `numbers` of evaluation.json, or lines of the probe."""

    @property
    def evaluations_per_step(self) -> float:
        """Forward passes of the network per image in a training step."""
        from couplet.reporting.cost import cost

        return cost(self.training, self.shape).evaluations


@dataclass(frozen=True)
class Cells:
    """The cells of a study's parameter file, in the grid's order. The stage fills it."""

    params: Params
    study: Study
    members: Sequence[Measured]

    def __post_init__(self) -> None:
        """Raises UserError if two rows have the same label, or the cells have more than one extractor."""
        rows: dict[str, str] = {}
        for member in self.members:
            label, name = self.names(member)["row"], member.cell.name
            if rows.setdefault(label, name) != name:
                raise UserError(f"study.labels: {rows[label]} and {name} have the same label {label!r}")
        if self.study.needs in ("select", "evaluate"):
            extractors = sorted({extractor for _, extractor in self.params.measured()})
            if len(extractors) > 1:
                raise UserError(f"table1.extractors = {extractors}: the figure of a study has one extractor")

    @cached_property
    def _varied(self) -> list[str]:
        cells = [member.cell for member in self.members]
        return [key for key in DIMENSIONS if len({getattr(cell, key) for cell in cells}) > 1]

    def names(self, member: Measured, without: str = "") -> dict[str, Any]:
        """The columns that name a cell. Its label ``row`` has the names that vary, except ``without``."""
        keys = [key for key in self._varied if key != without] or ([] if without else ["coupling"])
        names = [getattr(member.cell, key) for key in keys]
        label = ", ".join(self.study.labels.get(name, name) for name in names)
        return {key: getattr(member.cell, key) for key in DIMENSIONS} | {
            "row": label,
            "seed": member.cell.seed,
        }

    @property
    def seeds(self) -> str:
        """The number of seeds per row, in words."""
        names = [member.cell.name for member in self.members]
        counts = sorted({names.count(name) for name in names})
        return "one seed" if counts == [1] else f"{' to '.join(map(str, counts))} seeds each"

    @property
    def budget(self) -> str:
        """Data sets, steps, batches and networks of the training runs."""
        from couplet.reporting.cost import parameters

        budgets = {}
        for cell, training, shape, *_ in self.members:
            recipe, network = training.recipe, training.recipe.network
            length = f"{recipe.steps:,} steps of {recipe.batch} images"
            size = f"{network.model_channels} channels, {parameters(training, shape):,} parameters"
            budgets[f"{cell.dataset}, {length}, {network.kind} of {size}"] = None
        return "; ".join(budgets) + "."


Config = TypeVar("Config", bound=FigureConfig)


class FigureKind(Generic[Config]):
    """A kind of figure. Rows are tidy: one per seed, never averaged."""

    text: tuple[str, ...] = ("row",)
    """Columns of text that the picture needs."""
    numbers: tuple[str, ...] = ("nfe",)
    """Columns of finite numbers that the picture needs, besides ``seed`` and ``value``."""
    place = ("nfe", "NFE")
    """Column whose values have statements of their own, and its name in a sentence."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def rows(self, cells: Cells) -> pd.DataFrame:
        """The rows of the figure, its .csv file."""
        raise NotImplementedError

    def ylabel(self, params: Params) -> str:
        """The label of the values, with their unit."""
        return f"Fréchet distance ({params.extractor})"

    def picture(self, rows: pd.DataFrame, ylabel: str) -> Figure:
        """The figure in the current style; labels are in the order of their first row.

        Marks are means over seeds; bars and bands are the sample standard deviation, absent for one seed.
        """
        raise NotImplementedError

    def check(self, rows: pd.DataFrame) -> None:
        """Raises ValueError if there is no row, a column is missing, or a number is not finite or repeated."""
        check(self.config.kind, rows, self.text, (*self.numbers, "seed", "value"))
        repeated = rows[rows.duplicated([*self.text, *self.numbers, "seed"])]
        if len(repeated):
            row = repeated.iloc[0].to_dict()
            raise ValueError(f"{self.config.kind}: seed {row['seed']} is there twice: {row}")

    def compared(self, rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
        """The rows of the statements and of the caption's table, and a remark on rows that are left out."""
        return rows, ""

    def statements(self, rows: pd.DataFrame, study: Study) -> list[Statement]:
        """The study's comparisons, as far as the seeds carry them."""
        return [
            statement
            for comparison in study.compare
            for statement in statements(rows, comparison, study.labels, *self.place)
        ]

    def measured(self, cells: Cells) -> str:
        """A sentence on features, samples and seeds."""
        params, evaluated = cells.params, cells.study.needs == "evaluate"
        name = params.measured()[0][1]
        kind = params.extractor_named(name).kind
        samples = (
            f"{params.sample.samples} samples of the selected snapshot against the training split"
            if evaluated
            else f"{params.select.samples} samples of {self.snapshots} snapshot against "
            f"the {params.select.split} split"
        )
        return (
            f"Fréchet distance in features of the extractor {name if name == kind else f'{name} ({kind})'}; "
            f"{samples}; {cells.seeds}, bars are their standard deviation."
        )

    snapshots = "the last"
    """The snapshots whose distances the figure has where `select` measured them."""

    def table(self, rows: pd.DataFrame) -> dict[str, Any]:
        """Mean and standard deviation of each row at each place, as text."""
        columns = [key for key in ("against", "nfe", "x") if key in rows]
        return {
            "columns": ["", *columns, "mean ± std"],
            "rows": [
                [*map(_text, names), *self.entries(group)]
                for names, group in rows.groupby(["row", *columns], sort=False)
            ],
        }

    def entries(self, group: pd.DataFrame) -> list[str]:
        """The texts of a row of the table, from one row per seed."""
        return [spread(group["value"])]

    def draw(self, rows: pd.DataFrame, out: Path, ylabel: str) -> None:
        """Write ``out`` twice, with the suffixes .svg and .png; the same rows give the same bytes.

        Raises:
            ValueError: ``rows`` do not fit the figure; the message names the column or the row.
            UserError: a file cannot be written.
        """
        self.check(rows)
        with mpl.rc_context(fname=STYLE):
            picture = self.picture(rows, ylabel)
            for suffix, metadata in ((".svg", {"Date": None}), (".png", None)):
                with replacing(out.with_suffix(suffix)) as temporary:
                    picture.savefig(temporary, format=suffix[1:], metadata=metadata)

    def caption(self, rows: pd.DataFrame, cells: Cells) -> dict[str, Any]:
        """The parts of a caption that come from numbers."""
        compared, remark = self.compared(rows)
        return {
            "statements": [statement._asdict() for statement in self.statements(compared, cells.study)],
            "measured": self.measured(cells) + remark,
            "budget": cells.budget,
            "table": self.table(compared),
        }


def distances(cells: Cells, without: str = "") -> pd.DataFrame:
    """A row per cell and NFE: names, Fréchet distance, and seconds of training."""
    return pd.DataFrame(
        {**cells.names(member, without), "nfe": nfe, "value": value, "seconds": member.seconds}
        for member in cells.members
        for nfe, value in _distances(cells, member).items()
    )


def _distances(cells: Cells, member: Measured) -> dict[int, float]:
    if cells.study.needs == "select":
        return {nfe: member.numbers[-1][f"fd_nfe{nfe}"] for nfe in cells.params.sample.nfe}
    values = {number["nfe"]: number["value"] for number in member.numbers if number["metric"] == "fd"}
    return {nfe: values[nfe] for nfe in cells.params.sample.nfe}


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
