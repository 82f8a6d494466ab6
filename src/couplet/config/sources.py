"""Which files count as the code of a stage: editing one makes both engines run the stage again."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

PACKAGE = Path("src/couplet")
INSTALLED = Path(__file__).parents[1]

_MODEL = (
    "model.py",
    "tensors.py",
    "config/couplings.py",
    "config/networks.py",
    "config/recipes.py",
    "couplings",
    "kernels",
    "networks",
)

STAGE_SOURCES = {
    "prepare": (
        "config/datasets.py",
        "data/archive.py",
        "data/crops.py",
        "data/preview.py",
        "data/sources",
        "stages/prepare.py",
    ),
    "features": (
        "config/extractors.py",
        "data/loader.py",
        "metrics/extractor",
        "stages/features.py",
        "tensors.py",
    ),
    "reference": ("data/loader.py", "metrics", "stages/reference.py", "tensors.py"),
    "train": (
        *_MODEL,
        "data/loader.py",
        "losses",
        "schedules",
        "stages/train.py",
        "training",
    ),
    "select": (
        *_MODEL,
        "data/loader.py",
        "metrics",
        "sampling",
        "selection",
        "stages/sample.py",
        "stages/select.py",
    ),
    "sample": (*_MODEL, "sampling", "stages/sample.py"),
    "evaluate": ("data/loader.py", "metrics", "stages/evaluate.py", "tensors.py"),
    "table": ("reporting", "stages/table.py"),
}
"""Paths below the package, files or whole rooms, by stage. What only moves, names, checks or prints
(command line, progress, file helpers, layout) does not count."""


def source_files(stage: str, package: Path = PACKAGE) -> list[str]:
    """The stage's files, in order, as paths from the repository's root or below another ``package``."""
    found: set[str] = set()
    for name in STAGE_SOURCES[stage]:
        path = package / name
        files = [path] if path.suffix else path.rglob("*.*")
        found |= {str(file) for file in files if file.suffix in {".py", ".csv"}}
    return sorted(found)


@cache
def code_digest(stage: str, package: Path = INSTALLED) -> str:
    """SHA-256 over the names and bytes of the stage's files; taken once per process."""
    sha256 = hashlib.sha256()
    for file in map(Path, source_files(stage, package)):
        content = file.read_bytes()
        sha256.update(f"{file.relative_to(package).as_posix()} {len(content)}\n".encode() + content)
    return sha256.hexdigest()
