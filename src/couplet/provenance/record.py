"""The record of a stage's output: what it was made from and with."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from couplet.data.archive import CARD, Archive
from couplet.errors import UserError
from couplet.files import sha256, write_json
from couplet.plan.content import ABSENT
from couplet.plan.stages import STAGES, Settings, beside, ingredients, record_of
from couplet.provenance.chain import read_record

PACKAGES = (
    *("couplet", "torch", "numpy", "scipy", "safetensors", "pydantic"),
    *("clean-fid", "lion-pytorch", "lmdb", "matplotlib", "pillow", "scikit-learn", "timm", "torchvision"),
)
"""Packages of which a record names the version, where they are installed."""

RESULTS = (":(top,exclude,glob)**/dvc.lock", ":(top,exclude)results")
"""Paths that DVC writes while the stages run: no change of the working tree."""

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
        """Check the outputs that the stage reads.

        Args:
            stage: a name from ``STAGES``.
            settings: what the stage works with.
            output: what it is going to write.
            device: where it computes.
            reads: the outputs of the stages that it reads, by stage.

        Raises:
            UserError: see :func:`check_inputs`.
        """
        made_of = ingredients(stage, settings)
        keys = check_inputs(reads, settings)
        self.key = made_of.key(keys)
        self._path, self._began = record_of(stage, output), time.perf_counter()
        self._fixed = {
            "stage": stage,
            "key": self.key,
            "keys": keys,
            "settings": made_of.settings,
            "code": dict(made_of.code),
            **environment(device),
        }

    def write(self, *, inputs: Digests, outputs: Digests, **more: Any) -> None:
        """Write the record; its paths are relative to its folder, so that folders may move together.

        Args:
            inputs: what the stage read.
            outputs: what it wrote.
            more: anything else; ``seconds`` replaces the time since the start.

        Raises:
            UserError: the record cannot be written.
        """
        seconds = round(time.perf_counter() - self._began, 3)
        write_record(self._path, {**self._fixed, "seconds": seconds, **more}, inputs, outputs)


class SummaryRecorder:
    """As :class:`Recorder`, for what summarises many cells: tables, figures and pages."""

    def __init__(self, stage: str, output: Path, key: str) -> None:
        self._path, self._began = beside(output), time.perf_counter()
        self._fixed = {"stage": stage, "key": key, "code": {}, **environment(torch.device("cpu"))}

    def write(self, *, settings: Any, inputs: Digests, outputs: Digests, **more: Any) -> None:
        """Write the record; see :meth:`Recorder.write`."""
        seconds = round(time.perf_counter() - self._began, 3)
        content = {**self._fixed, "settings": settings, "seconds": seconds, **more}
        write_record(self._path, content, inputs, outputs)


def write_record(path: Path, content: Mapping[str, Any], inputs: Digests, outputs: Digests) -> None:
    """Write a record with ``content`` and its files, whose paths become relative to its folder."""

    def relative(files: Digests) -> dict[str, str]:
        start = path.parent.absolute()
        return {Path(os.path.relpath(file.absolute(), start)).as_posix(): d for file, d in files.items()}

    write_json(path, {**content, "inputs": relative(inputs), "outputs": relative(outputs)})


def check_inputs(reads: Mapping[str, Path], settings: Settings) -> dict[str, str]:
    """The cache keys of the outputs that a stage reads, by the stage that made each.

    Raises:
        UserError: an output has no record or was made with other settings, or two of them come from different
            outputs of one stage.
    """
    keys: dict[str, str] = {}
    known: dict[str, tuple[str, Path]] = {}
    for read, path in reads.items():
        record = record_with(read, path, settings)
        keys[read] = record["key"]
        for stage, key in {**record["keys"], read: keys[read]}.items():
            first, other = known.setdefault(stage, (key, path))
            if first != key:
                raise UserError(
                    f"{path}: comes from `couplet {stage}` with key {key}, {other} from key {first}; "
                    "give folders that belong together"
                )
    return keys


def record_with(stage: str, output: Path, settings: Settings) -> Mapping[str, Any]:
    """The content of the record of an output that was made with these settings.

    Raises:
        UserError: there is none, or it was made with other settings.
    """
    record = read_record(record_of(stage, output), f"run `couplet {stage}` to make it")
    if record.stage != stage:
        raise UserError(f"{output}: is an output of {record.stage}; expected one of `couplet {stage}`")
    wanted = STAGES[stage].settings(settings)
    if key := _difference(record.content["settings"], wanted):
        values = [_at(side, key) for side in (record.content["settings"], wanted)]
        raise UserError(
            f"{output}: made with {key} = {values[0]}, this needs {values[1]}; "
            f"give another folder, or run `couplet {stage}` again"
        )
    return record.content


def _difference(recorded: Any, wanted: Any, above: str = "") -> str | None:
    """The first dotted key at which settings differ; files of weights that are gone are not compared."""
    if isinstance(recorded, dict) and isinstance(wanted, dict):
        for name in dict.fromkeys((*recorded, *wanted)):
            both = recorded.get(name, ABSENT), wanted.get(name, ABSENT)
            if found := _difference(*both, f"{above}{name}."):
                return found
        return None
    return None if recorded == wanted or wanted == ABSENT else above.rstrip(".")


def _at(settings: Any, key: str) -> Any:
    for part in key.split("."):
        settings = settings.get(part) if isinstance(settings, dict) else None
    return settings


def digests(*paths: Path) -> dict[Path, str]:
    """SHA-256 of files, and of all files in folders except hidden ones.

    Raises:
        UserError: a file cannot be read.
    """
    return {file: sha256(file) for path in paths for file in _files(path)}


def _files(path: Path) -> Iterable[Path]:
    if not path.is_dir():
        return (path,)
    return sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))


def archive_digests(archive: Archive) -> dict[Path, str]:
    """The arrays of an archive with their digests from its card, and the card with its own."""
    arrays = {archive.folder / name: digest for name, digest in archive.card.files.items()}
    return {**arrays, **digests(archive.folder / CARD)}


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, commit and hardware of this process."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no", ":(top)", *RESULTS)),
        "python": platform.python_version(),
        "packages": dict(_versions()),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cpu": _cpu(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _versions() -> Iterable[tuple[str, str]]:
    for name in PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def _cpu() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _git(*arguments: str) -> str | None:
    """What git answers about the working folder, or None outside a repository."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
