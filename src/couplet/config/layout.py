"""Where every stage's files lie: in a grid by name and key, in a single run by name alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from couplet.config.base import Invalid
from couplet.config.cells import Cell, digest
from couplet.config.params import Params
from couplet.config.sources import code_of


@dataclass(frozen=True)
class Layout:
    """Folders below a grid's root.

    Names carry a key of the settings and of the code that made them, so that a changed setting or an edited
    formula is a missing file and never a stale one, with or without a workflow engine's own records.
    """

    params: Params
    root: Path

    def data(self, dataset: str) -> Path:
        """Folder of the prepared archive."""
        key = digest(self.params.datasets[dataset], code_of("prepare"))
        return self.root / "data" / f"{dataset}-{key}"

    def features(self, dataset: str, extractor: str) -> Path:
        """Folder of a feature extractor as a data set is measured with it."""
        return self.root / "features" / self._measured(dataset, extractor)

    def reference(self, dataset: str, extractor: str) -> Path:
        """Folder of a data set's statistics in an extractor's features."""
        return self.root / "reference" / self._measured(dataset, extractor)

    def _measured(self, dataset: str, extractor: str) -> str:
        key = digest(
            self.data(dataset).name,
            self.params.features[extractor],
            code_of("features"),
            code_of("reference"),
        )
        return f"{dataset}-{extractor}-{key}"

    def run(self, cell: Cell) -> Path:
        """Folder of a cell; its name is the run's id."""
        parts = [self.params.training(cell).key, self.data(cell.dataset).name, code_of("train")]
        if lender := self.params.pretrained(cell):
            parts.append(self.run(lender[0]).name)
        return self.root / "runs" / f"{cell}-{digest(*parts)}"

    def train(self, cell: Cell) -> Path:
        """Folder of a cell's checkpoints, curve and record."""
        return self.run(cell) / "train"

    def evaluation(self, cell: Cell, extractor: str) -> Path:
        """Folder of a cell's selection, samples and metrics in an extractor's features."""
        reference = self.reference(cell.dataset, extractor).name
        code = [code_of(stage) for stage in ("select", "sample", "evaluate")]
        key = digest(self.params.measurement(cell, extractor).key, reference, code)
        return self.run(cell) / f"eval-{extractor}-{key}"

    def probe(self, cell: Cell, kind: str) -> Path:
        """File of what `probe` measures of a cell's training, for a kind of ``PROBES``."""
        return self.run(cell) / f"probe-{kind}-{digest(self.params.probe, code_of('probe'))}.csv"

    def table_key(self, part: str = "") -> str:
        """Changes with the cells of a table, with what they were made from and with the table's code."""
        rows = [
            [self.evaluation(cell, extractor).as_posix(), self.params.training(cell).model_dump(mode="json")]
            for cell, extractor in self.params.measured(part)
        ]
        return digest(rows, self.params.scale, code_of("table"))

    def figure(self, name: str) -> Path:
        """The data of a study's figure; picture and caption have its name."""
        return self.root / "paper" / f"{name}.csv"

    def figure_files(self) -> list[Path]:
        """What the study's figure is made from.

        Raises:
            Invalid: the file has no `study`.
        """
        study = self.params.study
        if study is None:
            raise Invalid(("study",), None, "this key is required for a figure")
        files: dict[Path, None] = {}
        if study.needs not in ("select", "evaluate"):
            for cell in self.params.cells():
                probe = self.probe(cell, study.needs)
                files |= dict.fromkeys((self.train(cell) / TRAINING_RECORD, probe, record_of(probe)))
            return list(files)
        for cell, extractor in self.params.measured():
            folder = self.evaluation(cell, extractor)
            selected = study.needs == "select"
            names = ("selection.json",) if selected else ("selection.json", "evaluation.json", "samples")
            files |= dict.fromkeys((self.data(cell.dataset) / "card.json", *(folder / n for n in names)))
            records = self.records(cell, extractor)
            left_out = ("sample", "evaluate") if selected else ()
            files |= dict.fromkeys(path for stage, path in records.items() if stage not in left_out)
        return list(files)

    def figure_key(self) -> str:
        """Changes with the study, with what its figure is made from and with the figure's code."""
        names = [file.as_posix() for file in self.figure_files()]
        return digest(self.params.study, names, self.params.scale, code_of("figure"))

    def records(self, cell: Cell, extractor: str) -> dict[str, Path]:
        """The records of all stages that a cell's numbers come from, by stage."""
        folder = self.evaluation(cell, extractor)
        return {
            "prepare": record_of(self.data(cell.dataset)),
            "features": record_of(self.features(cell.dataset, extractor)),
            "reference": record_of(self.reference(cell.dataset, extractor)),
            "train": self.train(cell) / TRAINING_RECORD,
            "select": record_of(folder / "selection.json"),
            "sample": record_of(folder / "samples"),
            "evaluate": record_of(folder / "evaluation.json"),
        }


def checkpoint_name(step: int) -> str:
    """File name of the snapshot after ``step`` steps; names sort like steps."""
    return f"step-{step:08d}.safetensors"


TRAINING_RECORD = "record.json"
"""The record of a training lies in its folder: the two take their place together."""


RECORD_SUFFIX = ".record.json"


def record_of(output: Path) -> Path:
    """The record of another stage's output, a folder or a .json or .csv file: beside it.

    Not in it: a record holds times and machines, and what is made from the output must not depend on them.
    """
    return output.with_name(output.name.removesuffix(".json").removesuffix(".csv") + RECORD_SUFFIX)
