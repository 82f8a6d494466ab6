"""Records of outputs: inputs, settings, code and environment; written by stages, read again and checked.

Of the files that they name, only those of a few kilobytes are read here; `couplet verify` reads all.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from couplet.config.base import refused
from couplet.config.cells import Cell
from couplet.config.fit import Facts, check_fit
from couplet.errors import UserError
from couplet.files import read_json, sha256, write_json
from couplet.plan.code import current, definitions
from couplet.plan.content import ABSENT, content_of
from couplet.plan.layout import Layout
from couplet.plan.stages import (
    RECORD,
    RECORD_SUFFIX,
    SELECTION,
    STAGES,
    Settings,
    beside,
    ingredients,
    key_from,
    keys_of,
    record_of,
)

if TYPE_CHECKING:
    import torch

    from couplet.data.archive import Archive

PACKAGES = (
    *("couplet-cm", "torch", "numpy", "scipy", "safetensors", "pydantic"),
    *("clean-fid", "lion-pytorch", "lmdb", "matplotlib", "pillow", "scikit-learn", "timm", "torchvision"),
)
"""Packages whose version a record names, where they are installed."""

ADVICE = {"train": "give another folder or other settings; measuring without --params takes the run's own"}
"""Advice for an output that was made with other settings, where making it again is costly."""

Digests = Mapping[Path, str]
"""Files and their SHA-256."""


class Recorder:
    """Notes commit and machine when a stage begins, and writes the record when it has ended.

    ``key`` is the cache key of the output.
    """

    def __init__(
        self,
        stage: str,
        settings: Settings,
        output: Path,
        device: torch.device | None,
        *,
        reads: Mapping[str, Path],
    ) -> None:
        """Check ``output``, and the outputs of earlier stages that this stage ``reads``.

        Raises:
            UserError: ``output`` is a file and should be a folder, or the reverse, or another stage's; see
                :func:`check_inputs`.
        """
        kinds = {False: "file", True: "folder"}
        folder = not Path(STAGES[stage].output).suffix
        if output.exists() and output.is_dir() != folder:
            raise UserError(f"{output}: is a {kinds[not folder]}, `couplet {stage}` writes a {kinds[folder]}")
        check_own(stage, output, record_of(stage, output))
        settings = settings if device is None else as_computed(settings)
        keys, made_of = check_inputs(reads, settings), ingredients(stage, settings)
        self._path, self.key = record_of(stage, output), key_from(made_of, keys)
        self._begin(device, stage=stage, keys=keys, **made_of)

    def _begin(self, device: torch.device | None = None, **content: Any) -> None:
        self._began = time.perf_counter()
        self._content = {**content, "key": self.key, **environment(device)}

    def write(self, *, inputs: Digests, outputs: Digests, **more: Any) -> None:
        """Write the record, with ``more`` content; ``seconds`` in it replaces the time since the start."""
        seconds = round(time.perf_counter() - self._began, 3)
        write_record(self._path, {**self._content, "seconds": seconds, **more}, inputs, outputs)


def as_computed(settings: Settings) -> Settings:
    """The settings with the threads and processes that compute here, whatever a parameter file says."""
    import torch
    from torch import distributed as dist

    processes = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    return settings._replace(threads=processes * torch.get_num_threads(), gpus=processes)


class SummaryRecorder(Recorder):
    """A recorder for an output that summarises many cells: a table, a figure or a page."""

    def __init__(self, stage: str, settings: Any, output: Path, key: str) -> None:
        self._path, self.key = beside(output), key
        self._begin(stage=stage, settings=settings, code={})


class FreeRecorder(Recorder):
    """A recorder for an output of a command on any files, which belongs to no cell."""

    def __init__(
        self,
        command: str,
        settings: Any,
        output: Path,
        device: torch.device,
        *,
        inputs: Digests,
        numerics: Sequence[str],
        path: Path | None = None,
    ) -> None:
        """Check that ``output`` is not that of another command.

        Args:
            inputs: the files that the command reads, which :meth:`write` records.
            numerics: ``module:name`` of the functions and classes that decide the output.
            path: the record's own, by default beside ``output``.
        """
        self._path, self._inputs = path or beside(output), inputs
        check_own(command, output, self._path)
        code = definitions(*numerics)
        self.key = key_from(
            {"settings": settings, "code": code}, {"files": " ".join(sorted(inputs.values()))}
        )
        self._begin(device, stage=command, settings=settings, code=code)

    def finish(self, *outputs: Path, **more: Any) -> None:
        """Write the record of these outputs, files or folders, with ``more`` content."""
        self.write(inputs=self._inputs, outputs=digests(*outputs), **more)


def check_own(stage: str, output: Path, record: Path) -> None:
    """Raise UserError if the record in the place of that of ``output`` is of another stage."""
    held = stage
    with suppress(UserError):  # no record, or a damaged one
        held = read_record(record).stage
    if held != stage:
        raise UserError(f"{output}: is an output of `couplet {held}`; choose another name")


def write_record(path: Path, content: Mapping[str, Any], inputs: Digests, outputs: Digests) -> None:
    """Write a record of ``content`` and files, relative to its folder, so that folders may move together."""

    def relative(files: Digests) -> dict[str, str]:
        return {os.path.relpath(file, path.parent): digest for file, digest in files.items()}

    write_json(path, {**content, "inputs": relative(inputs), "outputs": relative(outputs)})


def check_inputs(reads: Mapping[str, Path], settings: Settings) -> dict[str, str]:
    """The cache keys of the outputs that a stage reads, by the stage that wrote each.

    Raises:
        UserError: an output has no record, was changed since or made with other settings; two of them come
            from different outputs of one stage; a data set has another name than the cell's, or does not fit
            the settings.
    """
    if "prepare" in reads and settings.training is not None:
        _check_name(reads["prepare"], settings.training.cell.dataset)
    records = {read: record_with(read, path, settings) for read, path in reads.items()}
    known: dict[str, tuple[str, Path]] = {}
    for read, record in records.items():
        # Samples may be measured in other features than their snapshot was selected in.
        passed = {stage: key for stage, key in record["keys"].items() if read != "select" or stage == "train"}
        for stage, key in {**passed, read: record["key"]}.items():
            first, other = known.setdefault(stage, (key, reads[read]))
            if first != key:
                raise UserError(
                    f"{reads[read]}: comes from `couplet {stage}` with key {key}, {other} from key {first}; "
                    "give folders that belong together"
                )
    if "prepare" in reads:
        _check_data(reads["prepare"], settings)
    return {read: record["key"] for read, record in records.items()}


def _check_name(data: Path, name: str) -> None:
    """Raise UserError if an archive is of another data set than ``name``."""
    from couplet.data.archive import CARD, Archive

    if (card := data / CARD).exists() and (held := Archive(data).card.dataset) != name:
        raise UserError(f"{card}: holds data set {held}, the cell is of {name}; give another folder")


def _check_data(data: Path, settings: Settings) -> None:
    """Raise UserError if a data set was edited, or does not fit the settings."""
    from couplet.data.archive import CARD, Archive

    card = Archive(data).card
    for name, digest in card.files.items():
        if (present := content_of(data / name)) not in (digest, ABSENT):
            raise UserError(
                f"{data / name}: has SHA-256 {present[:16]}, {data / CARD} says {digest[:16]}: edited or "
                "damaged; run `couplet prepare` again"
            )
    height, _, channels = card.shape
    facts = Facts(
        name=card.dataset,
        resolution=height,
        channels=channels,
        classes=len(card.classes),
        splits=card.counts,
        empty_classes=card.empty_classes,
    )
    with refused(data):
        check_fit(facts, settings.training, settings.measurement, settings.extractor)


def record_with(stage: str, output: Path, settings: Settings, advice: str | None = None) -> Mapping[str, Any]:
    """The content of the record of an output that was made with these settings.

    Raises:
        UserError: there is no such record, or the output was made with other settings; ends with ``advice``.
    """
    record = read_record(record_of(stage, output), f"run `couplet {stage}` to make it")
    if record.stage != stage:
        raise UserError(f"{output}: is an output of {record.stage}; expected one of `couplet {stage}`")
    check_small_files(record)
    if different := _difference(record.content["settings"], STAGES[stage].settings(settings)):
        key, recorded, wanted = different
        advice = advice or ADVICE.get(stage, f"give another folder, or run `couplet {stage}` again")
        raise UserError(f"{output}: made with {key} = {recorded}, this needs {wanted}; {advice}")
    return record.content


def _difference(recorded: Any, wanted: Any, key: str = "") -> tuple[str, Any, Any] | None:
    """The first dotted key at which settings differ, with both values; missing files are not compared."""
    if isinstance(recorded, dict) and isinstance(wanted, dict):
        pairs = (
            _difference(recorded.get(name, ABSENT), wanted.get(name, ABSENT), f"{key}.{name}".lstrip("."))
            for name in dict.fromkeys((*recorded, *wanted))
        )
        return next(filter(None, pairs), None)
    return None if recorded == wanted or wanted == ABSENT else (key, recorded, wanted)


def digests(*paths: Path) -> dict[Path, str]:
    """SHA-256 of files, and of all files in folders except hidden ones."""
    files: list[Path] = []
    for path in paths:
        inside = sorted(file for file in path.rglob("*") if file.is_file() and file.name[0] != ".")
        files += inside if path.is_dir() else [path]
    return {file: sha256(file) for file in files}


def archive_digests(archive: Archive) -> dict[Path, str]:
    """The arrays of an archive with their digests from its card, and the card with its own."""
    arrays = {archive.folder / name: digest for name, digest in archive.card.files.items()}
    return {**arrays, **digests(archive.folder / "card.json")}


def environment(device: torch.device | None = None) -> dict[str, Any]:
    """Versions, commit and hardware of this process; ``device`` is None where it computes without torch."""
    hardware: dict[str, Any] = {"device": "cpu", "threads": 1}
    if device is not None:
        import torch

        hardware["threads"] = torch.get_num_threads()
        if device.type == "cuda":
            hardware["device"] = torch.cuda.get_device_name(device)
    packages = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            packages[name] = version(name)
    return {
        **source(),
        "python": platform.python_version(),
        "packages": packages,
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cpu_count": os.cpu_count(),
        **hardware,
    }


def _cpu() -> str:
    """The processor's name, if the system names it."""
    with suppress(OSError):
        if found := re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return found[1].strip()
    return platform.processor() or platform.machine()


def source(package: Path = Path(__file__).parents[1]) -> dict[str, Any]:
    """Commit of the repository that keeps couplet's own files, and whether they differ from it.

    None where couplet is installed or copied: a repository in whose folders it lies does not keep its files.
    """
    if not _git(package, "ls-files", "__init__.py"):
        return {"commit": None, "dirty": False}
    return {
        "commit": _git(package, "rev-parse", "HEAD"),
        "dirty": bool(_git(package, "status", "--porcelain", ".")),
    }


def _git(folder: Path, *arguments: str) -> str | None:
    """The output of a git command in a folder, or None if it fails, as outside a repository."""
    # A hook of Git names its own repository in the environment.
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(folder), *arguments]
    with suppress(OSError, subprocess.CalledProcessError):
        return subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True, env=env).strip()
    return None


class Record(NamedTuple):
    """A record and its path; the paths in it are relative if its own is."""

    path: Path
    content: Mapping[str, Any]
    stage: str
    inputs: Mapping[Path, str]
    """The files that the stage read, with their SHA-256."""
    outputs: Mapping[Path, str]
    """The files that the stage wrote, with their SHA-256."""


PARTS = ("stage", "key", "settings", "inputs", "outputs", "code", "commit", "dirty", "seconds")


def read_record(path: Path, advice: str = "run the stage again") -> Record:
    """The record in a file; UserError, ending with ``advice``, if it is missing or something else."""
    if not path.exists():
        raise UserError(f"{path}: no such record; {advice}")
    content = read_json(path)
    lacks = [part for part in PARTS if not isinstance(content, Mapping) or part not in content]
    if lacks:
        raise UserError(f"{path}: not a record of this version, {lacks[0]} is missing; {advice}")

    def files(part: str) -> dict[Path, str]:
        return {Path(os.path.normpath(path.parent / name)): sha for name, sha in content[part].items()}

    return Record(
        path, content, stage=str(content["stage"]), inputs=files("inputs"), outputs=files("outputs")
    )


def maker(path: Path) -> Record | None:
    """The record of the stage that wrote a file or a folder: beside it, inside it, or at a folder above."""
    folders = [folder for folder in (path, *path.parents[:2]) if folder.name]
    candidates = [
        *sorted(path.parent.glob(f"*{RECORD_SUFFIX}")),
        *map(beside, folders),
        *(folder / RECORD for folder in (*folders, *path.parents[:2])),
    ]
    records = (read_record(each) for each in dict.fromkeys(candidates) if each.is_file())
    return next((record for record in records if path in (*record.outputs, _folder(record))), None)


def _folder(record: Record) -> Path | None:
    """The folder that is the whole output of a record."""
    if record.path.name == RECORD:
        return record.path.parent
    folder = record.path.with_name(record.path.name.removesuffix(RECORD_SUFFIX))
    return folder if any(folder in output.parents for output in record.outputs) else None


def _check_link(before: Record, after: Record) -> None:
    """Raise UserError if a stage read other files than the stage before it wrote.

    If the stages worked in other folders than these, the digests must still agree.
    """
    shared = [path for path in before.outputs if path in after.inputs]
    for path in shared:
        if (written := before.outputs[path]) != (read := after.inputs[path]):
            raise UserError(
                f"{after.path}: {after.stage} used {path} with SHA-256 {read[:16]}, {before.stage} recorded "
                f"{written[:16]}; run `couplet {after.stage}` again"
            )
    if not shared and not set(before.outputs.values()) & set(after.inputs.values()):
        raise UserError(
            f"{after.path}: {after.stage} used nothing that {before.path} is the record of; "
            f"run `couplet {after.stage}` again"
        )


def is_intact(record: Record) -> bool:
    """Whether all outputs in a record are there as written; files seen before are not read again."""
    return all(content_of(path) == digest for path, digest in record.outputs.items())


def is_current(stage: str, output: Path, key: str) -> bool:
    """Whether an output has this cache key already, and is as its record says."""
    with suppress(UserError):  # no record, or a damaged one
        record = read_record(record_of(stage, output))
        return bool(record.content["key"] == key) and is_intact(record)
    return False


def check_small_files(record: Record) -> None:
    """Raise UserError if a card, a configuration or a file of numbers has another digest than recorded."""
    for path, digest in record.outputs.items():
        if path.suffix in (".json", ".csv") and (present := sha256(path)) != digest:
            raise UserError(
                f"{path}: has SHA-256 {present[:16]}, {record.path} says {digest[:16]}: edited or damaged; "
                f"run `couplet {record.stage}` again"
            )


def changed_code(record: Record) -> list[str]:
    """The definitions in a record that have changed since the output was made."""
    code: Mapping[str, str] = record.content["code"]
    return [definition for definition, digest in code.items() if current(definition) != digest]


def chain(end: Record) -> Sequence[Record]:
    """``end`` and the records of its direct and indirect inputs, the latest stage first.

    Raises:
        UserError: a record is damaged, a small file was edited, or a stage read other files than the stage
            before it wrote.
    """
    records, waiting = {end.path: end}, [end]
    while waiting:
        after = waiting.pop()
        for before in filter(None, map(maker, after.inputs)):
            _check_link(before, after)
            if before.path not in records:
                records[before.path] = before
                waiting.append(before)
    for record in records.values():
        check_small_files(record)
    order = [*STAGES, *(record.stage for record in reversed([*records.values()]))]
    return sorted(records.values(), key=lambda record: order.index(record.stage), reverse=True)


class Chains:
    """Checks cells with all their records; files that cells share are read once."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._records: dict[Path, Record] = {}
        self._numbers: dict[Path, str] = {}

    def run(self, cell: Cell, name: str, stage: str) -> Mapping[str, Any]:
        """Check the records from which the output of ``stage`` comes; return the content of the run's record.

        Args:
            cell: the cell.
            name: an extractor, or for the stage `probe` a probe.
            stage: a stage that measures a run.

        Raises:
            UserError: a record does not fit the parameters, the others, or the small files of its stage.
        """
        settings = self.layout.settings(cell, **{"probe" if stage == "probe" else "extractor": name})
        shared = stage != "probe" and (selector := self.layout.params.selector(cell, name)) != name
        if shared and stage not in SELECTION:
            self.run(cell, selector, SELECTION[-1])
        return self.checked(settings, stage, cell, name, unlinked=SELECTION if shared else ())[
            "train"
        ].content

    def checked(
        self, settings: Settings, stage: str, cell: Cell, name: str, *, unlinked: Collection[str] = ()
    ) -> dict[str, Record]:
        """The records from which the output of ``stage`` comes, by stage, after checking them.

        Args:
            settings: those that decide the output.
            stage: the last stage.
            cell: the cell, and ``name`` of its output as in :meth:`Layout.output`.
            unlinked: stages whose inputs are not those of the others.
        """
        records: dict[str, Record] = {}
        for each, key in keys_of(settings, stage).items():
            path = record_of(each, self.layout.output(each, cell, name))
            if path not in self._records:
                self._records[path] = read_record(path)
                check_small_files(self._records[path])
            record = records[each] = self._records[path]
            if (recorded := record.content["key"]) != key:
                raise UserError(
                    f"{path}: key is {recorded}, the parameters give {key}; run `couplet {each}` again"
                )
            if "train" in STAGES[each].reads or each == "time":
                self._numbers |= record.outputs
        for each, after in records.items():
            for read in () if each in unlinked else STAGES[each].reads:
                _check_link(records[read], after)
        return records

    @property
    def inputs(self) -> dict[Path, str]:
        """SHA-256 of all files of numbers that were checked, and of all records."""
        return {**self._numbers, **{path: sha256(path) for path in self._records}}
