"""Where every stage's files lie: in a grid by name and cache key, in a folder of one run by name alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from couplet.config.cells import Cell
from couplet.config.params import Params
from couplet.plan.stages import RUN, SELECTION, STAGES, Settings, keys_of, record_of


@dataclass(frozen=True)
class Layout:
    """Folders below a grid's root.

    Names carry the cache key of their content, so that a changed setting, an edited formula or another image
    is a missing file and never a stale one, with or without a workflow engine's own records.
    """

    params: Params
    root: Path
    _keys: dict[tuple[str | None, ...], dict[str, str]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def settings(self, cell: Cell, extractor: str | None = None, probe: str | None = None) -> Settings:
        """The settings of a cell, measured with an extractor or by a probe."""
        params = self.params
        selector = extractor and params.selector(cell, extractor)
        return Settings.of(
            params.training(cell),
            extractor=None if extractor is None else params.extractor_named(extractor),
            measurement=None if extractor is None else params.measurement(cell),
            probe=None if probe is None else params.probe_named(probe),
            selector=None if selector in (None, extractor) else params.extractor_named(selector),
            threads=params.threads,
            gpus=params.gpus,
            nodes=params.nodes,
        )

    def keys(self, cell: Cell, extractor: str | None = None, probe: str | None = None) -> dict[str, str]:
        """The cache keys of the outputs of a cell, measured with an extractor or by a probe, by stage."""
        names = (str(cell), extractor, probe)
        if names not in self._keys:
            last = "evaluate" if extractor else "probe" if probe else "train"
            self._keys[names] = keys_of(self.settings(cell, extractor, probe), last)
        return self._keys[names]

    def timed(self, part: str = "") -> dict[str, list[Cell]]:
        """The cells whose steps are timed together, those of a data set, by the name of the measurement.

        A row has one cell, of seed 0. The name is a ``part`` of the table that means the same cells: the data
        set, or ``part`` itself where that is longer. Invalid if no cell's name begins with ``part``.
        """
        rows: dict[str, dict[str, Cell]] = {}
        for cell in self.params.cells(part) if self.params.time.rounds else ():
            name = max(cell.dataset, part, key=len)
            rows.setdefault(name, {})[cell.name] = cell.model_copy(update={"seed": 0})
        return {name: list(cells.values()) for name, cells in rows.items()}

    def timing(self, name: str) -> Settings:
        """The settings of the measurement of that name."""
        timed = tuple(self.params.training(cell) for cell in self.timed(name)[name])
        params = self.params
        more = {"rounds": params.time.rounds, "threads": params.threads, "gpus": params.gpus}
        return Settings.of(timed[0], timed=timed, **more)

    def times(self, name: str) -> Path:
        """The file of the measurement of that name."""
        names = ("", "time", name)
        if names not in self._keys:
            self._keys[names] = keys_of(self.timing(name), "time")
        return self.root / "times" / f"{name}-{self._keys[names]['time']}.json"

    def run(self, cell: Cell) -> Path:
        """Folder of a cell; its name is the run's id."""
        return self.root / "runs" / f"{folder_name('train', cell)}-{self.keys(cell)['train']}"

    def output(self, stage: str, cell: Cell, name: str | None = None) -> Path:
        """The output of a stage for a cell, a folder or a file.

        Args:
            stage: the stage.
            cell: the cell.
            name: the extractor, or for the stage `probe` the probe, for `time` the measurement; data and
                training have none.
        """
        if stage == "time":
            return self.times(str(name))
        if stage == "prepare":
            return self.root / "data" / f"{folder_name(stage, cell)}-{self.keys(cell)[stage]}"
        if stage == "train":
            return in_folder(self.run(cell), stage)
        if stage in SELECTION and name is not None:
            name = self.params.selector(cell, name)
        keys = self.keys(cell, probe=name) if stage == "probe" else self.keys(cell, name)
        if stage in ("features", "reference"):
            return self.root / stage / f"{folder_name(stage, cell, name)}-{keys[stage]}"
        return in_folder(self.run(cell) / f"{stage}-{name}-{keys[stage]}", stage)

    def outputs(self, cell: Cell, extractor: str) -> dict[str, Path]:
        """The output of every stage from which a cell's numbers come, by stage."""
        return {stage: self.output(stage, cell, extractor) for stage in RUN}

    def records(self, cell: Cell, extractor: str) -> dict[str, Path]:
        """The records of these outputs, by stage."""
        return {stage: record_of(stage, path) for stage, path in self.outputs(cell, extractor).items()}


def folder_name(stage: str, cell: Cell, name: str | None = None) -> str:
    """The name of the folder of a stage's output, or of the run in which it lies, without its key."""
    names = {
        "prepare": cell.dataset,
        "features": f"{cell.dataset}-{name}",
        "reference": f"{cell.dataset}-{name}",
        "time": str(name),
    }
    return names.get(stage, str(cell))


def in_folder(out: Path, stage: str) -> Path:
    """The output of a stage in a folder of one run."""
    return out / STAGES[stage].output


def checkpoint_name(step: int) -> str:
    """File name of the snapshot after ``step`` steps; names sort like steps."""
    return f"step-{step:08d}.safetensors"


def shown_by(selection: Path) -> Path:
    """The file beside that of `couplet select` with the first images of every snapshot."""
    return selection.with_suffix(".samples.npy")


def statistics_name(split: str, number: int = 0) -> str:
    """File name of the statistics of a split, or of a further set of its images."""
    return f"{split}-{number}.safetensors" if number else f"{split}.safetensors"
