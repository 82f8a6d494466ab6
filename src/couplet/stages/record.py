"""What a stage's files were made from and with: the record beside them."""

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

from couplet.config import Measurement, Training
from couplet.config.sources import code_of
from couplet.data.archive import CARD, Archive
from couplet.files import sha256, write_json

PACKAGES = (
    *("couplet", "torch", "numpy", "scipy", "safetensors", "pydantic"),
    *("clean-fid", "lion-pytorch", "lmdb", "matplotlib", "pillow", "scikit-learn", "timm", "torchvision"),
)
"""Whose versions a record names, where they are installed."""

RESULTS = (":(top,exclude,glob)**/dvc.lock", ":(top,exclude)results")
"""What DVC writes while the stages run is no change of the tree."""

Digests = Mapping[Path, str]
"""Files and their SHA-256."""


class Recorder:
    """Notes code, commit and machine when a stage begins, and writes its record when it has ended."""

    def __init__(self, stage: str, path: Path, device: torch.device) -> None:
        self._path, self._began = path, time.perf_counter()
        self._about = {"stage": stage, "code": code_of(stage), **environment(device)}

    def write(self, *, settings: Any, inputs: Digests, outputs: Digests, **more: Any) -> None:
        """Writes the record; its paths are relative to its folder, so that folders may move together.

        Args:
            settings: the resolved settings that the stage was given, as JSON.
            inputs: what it read.
            outputs: what it wrote.
            more: anything else, such as keys; ``seconds`` replaces the time since the start.

        Raises:
            UserError: the record cannot be written.
        """
        content = {
            "settings": settings,
            "inputs": self._relative(inputs),
            "outputs": self._relative(outputs),
            "seconds": round(time.perf_counter() - self._began, 3),
            **self._about,
            **more,
        }
        write_json(self._path, content)

    def _relative(self, files: Digests) -> dict[str, str]:
        start = self._path.parent.absolute()
        return {Path(os.path.relpath(path.absolute(), start)).as_posix(): d for path, d in files.items()}


def digests(*paths: Path) -> dict[Path, str]:
    """SHA-256 of files, and of all files in folders but hidden ones.

    Raises:
        UserError: a file cannot be read.
    """
    return {file: sha256(file) for path in paths for file in _files(path)}


def _files(path: Path) -> Iterable[Path]:
    if not path.is_dir():
        return (path,)
    return sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))


def archive_digests(archive: Archive) -> dict[Path, str]:
    """The arrays of an archive with the digests that its card has of them, and the card with its own."""
    arrays = {archive.folder / name: digest for name, digest in archive.card.files.items()}
    return {**arrays, **digests(archive.folder / CARD)}


def keys(settings: Training, measurement: Measurement) -> dict[str, Any]:
    """What a record says of the cell that was measured, and how."""
    return {
        "key": measurement.key,
        "run": f"{settings.cell}-{settings.key}",
        "cell": settings.cell.model_dump(),
        "settings": measurement.model_dump(mode="json"),
    }


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
