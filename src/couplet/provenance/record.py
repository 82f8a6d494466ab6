"""The record of a stage's output: its inputs, settings, code and environment."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from couplet.config.base import Invalid
from couplet.config.fit import Facts, check_fit
from couplet.data.archive import CARD, Archive
from couplet.errors import UserError
from couplet.files import sha256, write_json
from couplet.plan.content import ABSENT, content_of
from couplet.plan.stages import STAGES, Settings, beside, ingredients, record_of
from couplet.provenance.chain import check_small_files, read_record

PACKAGES = (
    *("couplet", "torch", "numpy", "scipy", "safetensors", "pydantic"),
    *("clean-fid", "lion-pytorch", "lmdb", "matplotlib", "pillow", "scikit-learn", "timm", "torchvision"),
)
"""Packages whose version a record names, where they are installed."""

RESULTS = (":(top,exclude,glob)**/dvc.lock", ":(top,exclude)results")
"""Paths that DVC writes while stages run; they do not make the working tree dirty."""

Digests = Mapping[Path, str]
"""Files and their SHA-256."""


class Recorder:
    """Notes commit and machine when a stage begins, and writes the record when it has ended.

    Attributes:
        key: the cache key of the output.
    """

    def __init__(
        self, stage: str, settings: Settings, output: Path, device: torch.device, *, reads: Mapping[str, Path]
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
        held = stage
        with suppress(UserError):  # no record, or a damaged one
            held = read_record(record_of(stage, output)).stage
        if held != stage:
            raise UserError(f"{output}: is an output of `couplet {held}`; choose another name")
        keys, parts = check_inputs(reads, settings), ingredients(stage, settings)
        content = {"stage": stage, "keys": keys, "settings": parts.settings, "code": dict(parts.code)}
        self._begin(record_of(stage, output), parts.key(keys), content, device)

    def _begin(self, path: Path, key: str, content: Mapping[str, Any], device: torch.device) -> None:
        self.key, self._path, self._began = key, path, time.perf_counter()
        self._content = {**content, "key": key, **environment(device)}

    def write(self, *, inputs: Digests, outputs: Digests, **more: Any) -> None:
        """Write the record, with ``more`` content; ``seconds`` in it replaces the time since the start.

        Raises:
            UserError: the record cannot be written.
        """
        seconds = round(time.perf_counter() - self._began, 3)
        write_record(self._path, {**self._content, "seconds": seconds, **more}, inputs, outputs)


class SummaryRecorder(Recorder):
    """A recorder for an output that summarises many cells: a table, a figure or a page."""

    def __init__(self, stage: str, settings: Any, output: Path, key: str) -> None:
        content = {"stage": stage, "settings": settings, "code": {}}
        self._begin(beside(output), key, content, torch.device("cpu"))


def write_record(path: Path, content: Mapping[str, Any], inputs: Digests, outputs: Digests) -> None:
    """Write a record of ``content`` and files, relative to its folder, so that folders may move together."""

    def relative(files: Digests) -> dict[str, str]:
        start = path.parent.absolute()
        return {Path(os.path.relpath(file.absolute(), start)).as_posix(): d for file, d in files.items()}

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
        for stage, key in {**record["keys"], read: record["key"]}.items():
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
    if (card := data / CARD).exists() and (held := Archive(data).card.dataset) != name:
        raise UserError(f"{card}: holds data set {held}, the cell is of {name}; give another folder")


def _check_data(data: Path, settings: Settings) -> None:
    """Raise UserError if a data set was edited, or does not fit the settings."""
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
    try:
        check_fit(facts, settings.training, settings.measurement, settings.extractor)
    except Invalid as error:
        raise UserError(f"{data}: {error}") from None


def record_with(stage: str, output: Path, settings: Settings) -> Mapping[str, Any]:
    """The content of the record of an output that was made with these settings.

    Raises:
        UserError: there is no such record, or the output was made with other settings.
    """
    record = read_record(record_of(stage, output), f"run `couplet {stage}` to make it")
    if record.stage != stage:
        raise UserError(f"{output}: is an output of {record.stage}; expected one of `couplet {stage}`")
    check_small_files(record)
    if different := _difference(record.content["settings"], STAGES[stage].settings(settings)):
        key, recorded, wanted = different
        raise UserError(
            f"{output}: made with {key} = {recorded}, this needs {wanted}; "
            f"give another folder, or run `couplet {stage}` again"
        )
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
    """SHA-256 of files, and of all files in folders except hidden ones.

    Raises:
        UserError: a file cannot be read.
    """
    files: list[Path] = []
    for path in paths:
        inside = sorted(file for file in path.rglob("*") if file.is_file() and file.name[0] != ".")
        files += inside if path.is_dir() else [path]
    return {file: sha256(file) for file in files}


def archive_digests(archive: Archive) -> dict[Path, str]:
    """The arrays of an archive with their digests from its card, and the card with its own."""
    arrays = {archive.folder / name: digest for name, digest in archive.card.files.items()}
    return {**arrays, **digests(archive.folder / CARD)}


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, commit and hardware of this process."""
    packages = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            packages[name] = version(name)
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no", ":(top)", *RESULTS)),
        "python": platform.python_version(),
        "packages": packages,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cpu": _cpu(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _cpu() -> str:
    """The processor's name, if the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _git(*arguments: str) -> str | None:
    """The output of a git command in the working folder, or None outside a repository."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
