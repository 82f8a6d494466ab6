"""Where every stage's files lie: in a grid by name and cache key, in a folder of one run by name alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from couplet.config.cells import Cell
from couplet.config.params import Params
from couplet.plan.stages import RUN, STAGES, Settings, keys_of, record_of


@dataclass(frozen=True)
class Layout:
    """Folders below a grid's root.

    Names carry the cache key of their content, so that a changed setting, an edited formula or another image
    is a missing file and never a stale one, with or without a workflow engine's own records.
    """

    params: Params
    root: Path
    _keys: dict[tuple[str, ...], dict[str, str]] = field(default_factory=dict, repr=False, compare=False)

    def settings(self, cell: Cell, extractor: str | None = None, probe: str | None = None) -> Settings:
        """The settings of a cell, measured with an extractor or by a probe."""
        params = self.params
        return Settings.of(
            params.training(cell),
            extractor=None if extractor is None else params.extractor_named(extractor),
            measurement=None if extractor is None else params.measurement(cell),
            probe=None if probe is None else params.probe_named(probe),
        )

    def _key(self, stage: str, *names: str, last: str, settings: Callable[[], Settings]) -> str:
        """The key of a stage's output; those up to the stage ``last`` are computed together and once."""
        if (last, *names) not in self._keys:
            self._keys[last, *names] = keys_of(settings(), last)
        return self._keys[last, *names][stage]

    def data(self, dataset: str) -> Path:
        """Folder of the prepared archive."""
        key = self._key(
            "prepare", dataset, last="prepare", settings=lambda: Settings(self.params.dataset_named(dataset))
        )
        return self.root / "data" / f"{dataset}-{key}"

    def features(self, dataset: str, extractor: str) -> Path:
        """Folder of a feature extractor made ready for a data set."""
        return self._of_extractor("features", dataset, extractor)

    def reference(self, dataset: str, extractor: str) -> Path:
        """Folder of a data set's statistics in an extractor's features."""
        return self._of_extractor("reference", dataset, extractor)

    def _of_extractor(self, stage: str, dataset: str, extractor: str) -> Path:
        def settings() -> Settings:
            return Settings(self.params.dataset_named(dataset), self.params.extractor_named(extractor))

        key = self._key(stage, dataset, extractor, last="reference", settings=settings)
        return self.root / stage / f"{dataset}-{extractor}-{key}"

    def run(self, cell: Cell) -> Path:
        """Folder of a cell; its name is the run's id."""
        key = self._key("train", str(cell), last="train", settings=lambda: self.settings(cell))
        return self.root / "runs" / f"{cell}-{key}"

    def train(self, cell: Cell) -> Path:
        """Folder of a cell's checkpoints, curve and record."""
        return self.run(cell) / "train"

    def selection(self, cell: Cell, extractor: str) -> Path:
        """File of a cell's selected snapshot."""
        return in_folder(self._measured("select", cell, extractor), "select")

    def samples(self, cell: Cell, extractor: str) -> Path:
        """Folder of a cell's samples."""
        return in_folder(self._measured("sample", cell, extractor), "sample")

    def evaluation(self, cell: Cell, extractor: str) -> Path:
        """File of a cell's numbers in an extractor's features."""
        return in_folder(self._measured("evaluate", cell, extractor), "evaluate")

    def _measured(self, stage: str, cell: Cell, extractor: str) -> Path:
        """Folder of the output of a stage that measures a run."""
        key = self._key(
            stage, str(cell), extractor, last="evaluate", settings=lambda: self.settings(cell, extractor)
        )
        return self.run(cell) / f"{stage}-{extractor}-{key}"

    def probe(self, cell: Cell, name: str) -> Path:
        """File of a probe of a cell's run."""
        key = self._key(
            "probe", str(cell), name, last="probe", settings=lambda: self.settings(cell, probe=name)
        )
        return in_folder(self.run(cell) / f"probe-{name}-{key}", "probe")

    def keys(self, cell: Cell, extractor: str) -> dict[str, str]:
        """The cache keys of all these outputs, by stage."""
        settings = self.settings(cell, extractor)
        self._key("evaluate", str(cell), extractor, last="evaluate", settings=lambda: settings)
        return self._keys["evaluate", str(cell), extractor]

    def output(self, stage: str, cell: Cell, name: str) -> Path:
        """The output of a stage for a cell; ``name`` is the extractor's, or the probe's."""
        match stage:
            case "prepare":
                return self.data(cell.dataset)
            case "features" | "reference":
                return self._of_extractor(stage, cell.dataset, name)
            case "train":
                return self.train(cell)
            case "probe":
                return self.probe(cell, name)
            case _:
                return in_folder(self._measured(stage, cell, name), stage)

    def outputs(self, cell: Cell, extractor: str) -> dict[str, Path]:
        """The output of every stage from which a cell's numbers come, by stage."""
        return {stage: self.output(stage, cell, extractor) for stage in RUN}

    def records(self, cell: Cell, extractor: str) -> dict[str, Path]:
        """The records of these outputs, by stage."""
        return {stage: record_of(stage, path) for stage, path in self.outputs(cell, extractor).items()}


def in_folder(out: Path, stage: str) -> Path:
    """The output of a stage in a folder of one run."""
    return out / STAGES[stage].output


def checkpoint_name(step: int) -> str:
    """File name of the snapshot after ``step`` steps; names sort like steps."""
    return f"step-{step:08d}.safetensors"
