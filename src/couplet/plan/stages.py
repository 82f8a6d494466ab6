"""The stages, written once: what each reads and writes, which settings decide it, and the code behind it.

Cache keys, folders, `couplet run`, the commands of the pipeline, dvc.yaml and the checks of records follow
from :data:`STAGES`. A new stage is an entry here, a module in ``couplet.stages`` with a function ``run``, and
a rule.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from couplet.config.base import Invalid, Variant
from couplet.config.cells import Measurement, ReferenceConfig, SampleConfig, TrainConfig, Training
from couplet.config.datasets import DatasetConfig
from couplet.config.extractors import ExtractorConfig
from couplet.config.probes import ProbeConfig
from couplet.config.variants import name_of, variants_in
from couplet.errors import UserError
from couplet.files import read_json
from couplet.plan.code import definitions
from couplet.plan.content import content_of

T = TypeVar("T")


class Settings(NamedTuple):
    """The settings that stages work with; those that a stage does not read may be missing."""

    dataset: DatasetConfig
    extractor: ExtractorConfig = None  # type: ignore[assignment]
    training: Training = None  # type: ignore[assignment]
    measurement: Measurement = None  # type: ignore[assignment]
    probe: ProbeConfig = None  # type: ignore[assignment]
    selector: ExtractorConfig | None = None
    """The extractor in whose features the snapshot is selected, if that is another one."""
    real: ReferenceConfig = ReferenceConfig()
    """The real images, where there is no measurement."""
    timed: tuple[Training, ...] = ()
    """The trainings whose steps are timed together."""
    rounds: int = 0
    """Rounds of that measurement."""
    threads: int = 1
    """CPU threads of a job, which its processes share."""
    gpus: int = 1
    """GPUs of a job, a process each; 0 is one process on the CPU."""
    nodes: int = 1
    """Nodes of a job that may have several, each with so many threads and GPUs."""

    @property
    def reference(self) -> ReferenceConfig:
        """The real images that samples are compared with."""
        return self.real if self.measurement is None else self.measurement.reference

    @classmethod
    def of(cls, training: Training, **more: Any) -> Settings:
        """The settings of a cell, with ``more`` of the fields above."""
        return cls(training.dataset, training=training, **more)


@dataclass(frozen=True)
class Stage:
    """A step of the pipeline: files in, files out."""

    summary: str
    """The stage in one sentence, for the command line and dvc.yaml."""
    option: str
    """Command-line option by which later stages are given its output."""
    output: str
    """Name of its output, a folder or a file, in a folder of one run."""
    reads: tuple[str, ...]
    """The stages whose outputs it reads."""
    settings: Callable[[Any], Any]
    """The settings that decide its output, as JSON, of :class:`Settings`."""
    numerics: tuple[str, ...]
    """``module:name`` of the functions and classes that decide its output, besides those of variants."""
    absent: str
    """Message for a cell in which this is the first stage without a record."""
    parallel: tuple[str, ...] = ("threads", "processes")
    """What it may have several of; see :func:`parallel` for what changes numbers."""
    across_nodes: bool = False
    """Whether its processes may be on several nodes."""
    record_inside: bool = False
    """Whether its record lies in its output, a folder, because both are published together."""
    variants: Callable[[Any], Iterable[Variant]] = lambda settings: ()
    """The variants whose implementations decide its output too, of :class:`Settings`."""


def _prepare(settings: Settings) -> Any:
    """A data set counts by the content of the files that it names, not by their path."""
    config = settings.dataset
    content = {name: content_of(path) for name, path in config.originals_named.items()}
    return {**config.model_dump(mode="json", exclude={*config.by_content}), "content": content}


def _train(settings: Settings) -> Any:
    """The settings on which the weights depend.

    Settings that only sampling, logging or the table reads are left out, except in the coupling, which is
    saved with the weights; so are a microbatch, which changes the rounding of a sum, and the default ways of
    computing. Files of weights count by content.
    """
    training = settings.training
    decide = training.model_dump(mode="json", exclude={"frozen_run", "dataset"})
    recipe, train = decide["recipe"], decide["train"]
    for name in ("sources", "mid_sigmas"):
        del recipe[name]
    del recipe["boundary"]["sampling"], train["log_every"], train["save_every"], train["microbatch"]
    for name in ("precision", "compile"):
        if train[name] == TrainConfig.model_fields[name].default:
            del train[name]
    if training.train.recompute and training.train.compile:
        train["recompute"] = True  # other programs, which round in another way
    train["snapshots"] = list(training.snapshot_steps)
    for name in ("init_from", "frozen_from"):
        recipe[name] = None if recipe[name] is None else content_of(Path(recipe[name]))
    frozen = training.frozen_run
    decide["frozen_run"] = None if frozen is None else key_of("train", Settings.of(frozen))
    return {**decide, "frozen_step": training.frozen_step}


def _reference(settings: Settings) -> Any:
    chosen = settings.reference
    return {} if chosen.images is None else chosen.model_dump(mode="json")


def _sampling(settings: Settings) -> dict[str, Any]:
    """The settings on which the samples of a snapshot depend; a batch size is none of them."""
    measurement = settings.measurement
    sampling = {
        "mid_sigmas": list(measurement.mid_sigmas),
        "boundary": measurement.boundary,
        "quantise": measurement.sample.quantise,
    }
    if (labels := measurement.sample.labels) != SampleConfig.model_fields["labels"].default:
        sampling["labels"] = labels
    return sampling


def _select(settings: Settings) -> Any:
    chosen = settings.measurement.select.model_dump(mode="json")
    return {**_sampling(settings), **chosen, "scored_nfe": list(settings.measurement.selected_nfe)}


def _sample(settings: Settings) -> Any:
    sample = settings.measurement.sample
    chosen = sample.model_dump(mode="json", include={"samples", "nfe"})
    if sample.repeats > 1:
        chosen["repeats"] = sample.repeats
    return {**_sampling(settings), **chosen}


def _of_training(settings: Settings) -> list[Variant]:
    """The variants of which a model and its training consist."""
    training = settings.training
    return [training.kernel, training.coupling, *variants_in(training.recipe)]


def _time(settings: Settings) -> Any:
    trainings = {training.cell.name: _train(Settings.of(training)) for training in settings.timed}
    return {"rounds": settings.rounds, "trainings": trainings}


EXTRACTOR = "couplet.metrics.extractor.base:load_extractor"
REFERENCE = "couplet.metrics.measure:load_reference"
LOAD = "couplet.model:load"

STAGES = {
    "prepare": Stage(
        summary="Write a data set as an archive of arrays with a card and a picture.",
        option="data",
        output="data",
        reads=(),
        settings=_prepare,
        numerics=("couplet.data.archive:write", "couplet.data.sources.base:read"),
        variants=lambda settings: [settings.dataset],
        absent="no data set",
        parallel=(),
    ),
    "features": Stage(
        summary="Make an extractor ready for a data set: train a classifier, or check published weights.",
        option="features",
        output="features",
        reads=("prepare",),
        settings=lambda settings: settings.extractor.model_dump(mode="json"),
        numerics=(),
        variants=lambda settings: [settings.extractor],
        absent="no extractor",
        parallel=("threads",),
    ),
    "reference": Stage(
        summary="Write features and moments of the real images, a file per split.",
        option="reference",
        output="reference",
        reads=("prepare", "features"),
        settings=_reference,
        numerics=(
            EXTRACTOR,
            "couplet.metrics.measure:real_images",
            "couplet.metrics.measure:measure",
            "couplet.metrics.measure:save_reference",
        ),
        absent="no reference statistics",
    ),
    "train": Stage(
        summary="Train one cell; started again after an interruption, resume from its last state.",
        option="train",
        output="train",
        reads=("prepare",),
        settings=_train,
        numerics=(
            "couplet.training.loop:shape_of",
            "couplet.networks.initial:read_weights",
            "couplet.training.loop:initial_state",
            "couplet.training.loop:loader_of",
            "couplet.training.loop:run",
            "couplet.model:save",
            LOAD,
        ),
        variants=_of_training,
        absent="not trained",
        across_nodes=True,
        record_inside=True,
    ),
    "select": Stage(
        summary="Score every snapshot and name the best.",
        option="selection",
        output="selection.json",
        reads=("train", "features", "reference"),
        settings=_select,
        numerics=(
            EXTRACTOR,
            REFERENCE,
            "couplet.metrics.measure:label_counts",
            "couplet.selection:score",
            "couplet.selection:best",
            "couplet.sampling:first_images",
            LOAD,
        ),
        absent="no snapshot selected",
    ),
    "sample": Stage(
        summary="Generate images from the selected snapshot.",
        option="samples",
        output="samples",
        reads=("train", "select"),
        settings=_sample,
        numerics=("couplet.sampling:samples_of", LOAD),
        absent="no samples",
    ),
    "evaluate": Stage(
        summary="Compare samples with the training split: Fréchet distance, KID and the other metrics.",
        option="evaluation",
        output="evaluation.json",
        reads=("train", "features", "reference", "select", "sample"),
        settings=lambda settings: settings.measurement.evaluate.model_dump(mode="json"),
        numerics=(
            EXTRACTOR,
            REFERENCE,
            "couplet.metrics.measure:evaluate",
            "couplet.metrics.measure:over_sets",
        ),
        variants=lambda settings: variants_in(settings.measurement.evaluate),
        absent="not evaluated",
    ),
    "probe": Stage(
        summary="Measure a finished run besides its samples, as CSV.",
        option="probe",
        output="probe.csv",
        reads=("prepare", "train"),
        settings=lambda settings: settings.probe.model_dump(mode="json"),
        numerics=("couplet.probes.base:Subject",),
        variants=lambda settings: [settings.probe],
        absent="no probe",
        parallel=("threads",),
    ),
    "time": Stage(
        summary="Measure the time of a training step, of all trainings of a grid on one data set by turns.",
        option="times",
        output="times.json",
        reads=("prepare",),
        settings=_time,
        numerics=("couplet.training.timing:step_times", LOAD),
        variants=lambda settings: [
            each for training in settings.timed for each in _of_training(Settings.of(training))
        ],
        absent="not timed",
    ),
}
"""Every stage that makes a cell's results, in the order in which they run."""

RUN = tuple(name for name in STAGES if name not in ("probe", "time"))
"""The stages from data to numbers: those of `couplet run` and of `dvc repro`."""


SELECTION = ("select", "sample")
"""The stages whose output is one for all extractors that a cell is measured with."""

RECORD = "record.json"
RECORD_SUFFIX = ".record.json"

ADOPTED = "adopted.json"
"""Proofs by which an unfinished run passed to other code; they move into its record."""


def record_of(stage: str, output: Path) -> Path:
    """The record of a stage's output.

    Beside the output where that is possible: a record holds times and machines, and results that are made
    from the output must not depend on them.
    """
    return output / RECORD if STAGES[stage].record_inside else beside(output)


def beside(output: Path) -> Path:
    """The record beside a folder or a .json, .csv or .html file."""
    return output.with_name(re.sub(r"\.(json|csv|html)$", "", output.name) + RECORD_SUFFIX)


def training_in(train: Path) -> Training:
    """The settings of a run; UserError if the folder holds no readable config.json."""
    return _stored(train / "config.json", "train", Training.model_validate)


def dataset_in(data: Path) -> DatasetConfig:
    """The settings of a prepared data set; UserError if it has no record of `couplet prepare`."""
    path = record_of("prepare", data)
    return _stored(path, "prepare", lambda content: DatasetConfig.parse(content["config"]))


def extractor_in(features: Path) -> ExtractorConfig:
    """The settings of an extractor made ready; UserError if the folder holds no card of its stage."""
    path = features / "card.json"
    return _stored(path, "features", lambda content: ExtractorConfig.parse(content["config"]))


def _stored(path: Path, stage: str, parse: Callable[[Any], T]) -> T:
    """The settings that a JSON file of a stage's output holds."""
    content = read_json(path)
    try:
        return parse(content)
    except (KeyError, TypeError, ValidationError, Invalid):
        raise UserError(f"{path}: not written by this version of `couplet {stage}`; run it again") from None


def code_of(stage: str, settings: Settings) -> dict[str, str]:
    """The definitions that decide a stage's output, each with its digest."""
    row = STAGES[stage]
    named = {name_of(variant) for variant in row.variants(settings)}
    return definitions(*row.numerics, *sorted(named))


def parallel(stage: str, threads: int, gpus: int, nodes: int = 1) -> dict[str, int]:
    """The processes that train and the threads of each, where nodes with so many have more than one.

    Measuring writes the same bytes in any number of processes.
    """
    row = STAGES[stage]
    here = max(1, gpus) if "processes" in row.parallel else 1
    counts = {"threads": threads // here}
    if stage in ("train", "time"):
        counts["processes"] = here * (nodes if row.across_nodes else 1)
    return {name: count for name, count in counts.items() if name in row.parallel and count > 1}


def ingredients(stage: str, settings: Settings) -> dict[str, Any]:
    """The ``settings`` and the ``code`` that decide a stage's output, besides the outputs that it reads.

    With several threads or processes, these as well, as ``parallel``.
    """
    made_of = {"settings": STAGES[stage].settings(settings), "code": code_of(stage, settings)}
    several = parallel(stage, settings.threads, settings.gpus, settings.nodes)
    return {**made_of, "parallel": several} if several else made_of


def key_from(made_of: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """The cache key of an output, from its ingredients and the keys of the outputs that its stage reads."""
    several = [made_of["parallel"]] if "parallel" in made_of else []
    return digest([made_of["settings"], made_of["code"], dict(inputs), *several])


def keys_of(settings: Settings, stage: str) -> dict[str, str]:
    """The cache keys of the outputs of ``stage`` and of the stages before it, by stage.

    A key changes with the settings and the code of its stage, and with the keys of what the stage reads.
    """
    keys: dict[str, str] = {}

    def add(name: str) -> str:
        if name not in keys and name in SELECTION and settings.selector is not None:
            keys[name] = key_of(name, settings._replace(extractor=settings.selector, selector=None))
        if name not in keys:
            inputs = {read: add(read) for read in STAGES[name].reads}
            keys[name] = key_from(ingredients(name, settings), inputs)
        return keys[name]

    add(stage)
    return keys


def key_of(stage: str, settings: Settings) -> str:
    """The cache key of a stage's output."""
    return keys_of(settings, stage)[stage]


def digest(content: Any) -> str:
    """Eight hexadecimal digits that change with ``content``, JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
