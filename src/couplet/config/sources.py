"""Which files count as the code of a stage: editing one makes both engines run the stage again."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from couplet.config.cells import digest
from couplet.errors import UserError
from couplet.files import read_json, sha256

PACKAGE = Path(__file__).parents[1]
ACCEPTED = Path("config/accepted.json")
"""Below the package: edits that changed nothing, written by `make accept`."""

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
    "probe": (
        *_MODEL,
        "data/loader.py",
        "losses",
        "probes",
        "schedules",
        "stages/probe.py",
        "training",
    ),
    "figure": (
        "config/study.py",
        "cost.py",
        "reporting/couplet.mplstyle",
        "reporting/figures.py",
        "reporting/plots.py",
        "reporting/statements.py",
        "reporting/table.py",
        "stages/figure.py",
    ),
    "paper": ("reporting/paper.html.j2", "reporting/paper.py", "stages/paper.py"),
    "table": (
        "data/preview.py",
        "reporting/couplet.mplstyle",
        "reporting/figures.py",
        "reporting/published.csv",
        "reporting/published.py",
        "reporting/table.py",
        "stages/table.py",
    ),
}
"""Paths below the package, files or whole rooms, by stage. What only moves, names, checks or prints
(command line, progress, file helpers, layout) does not count."""

SUFFIXES = {".py", ".csv", ".mplstyle", ".j2"}
"""Files that decide what comes out; a room may hold others, as caches."""


def source_files(stage: str, package: Path = PACKAGE) -> list[Path]:
    """The stage's files in order."""
    found: set[Path] = set()
    for name in STAGE_SOURCES[stage]:
        path = package / name
        files = [path] if path.suffix else path.rglob("*.*")
        found |= {file for file in files if file.suffix in SUFFIXES}
    return sorted(found)


@cache
def digest_of_sources(stage: str, package: Path = PACKAGE) -> str:
    """Eight digits that change with every byte of the stage's files."""
    return digest({str(file.relative_to(package)): sha256(file) for file in source_files(stage, package)})


@cache
def code_of(stage: str, package: Path = PACKAGE) -> str:
    """Eight digits that change when the stage's code does, except for edits that were accepted."""
    found = digest_of_sources(stage, package)
    path = package / ACCEPTED
    accepted = read_json(path).get(stage, {}) if path.exists() else {}
    return str(accepted["stands_for"]) if accepted.get("digest") == found else found


def check_running(folder: Path) -> None:
    """Raises UserError if ``folder`` has a package of its own whose code is not the code that runs.

    Editable installations import from one working copy; an engine at work in another, as in the temporary
    one of a queued experiment, would record code that did not make its results.
    """
    there = (folder / "src/couplet").resolve()
    if not there.is_dir() or there == PACKAGE:
        return
    for stage in STAGE_SOURCES:
        if digest_of_sources(stage, there) != digest_of_sources(stage):
            raise UserError(
                f"src/couplet: stage {stage} differs from the code that runs, {PACKAGE}; "
                "set PYTHONPATH=src to run what lies here"
            )
