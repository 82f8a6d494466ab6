"""Where the results of published models lie, below the folders of a grid: names with a key, like runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from couplet.config.published import PublishedList, PublishedModel, Reported
from couplet.plan.code import definitions
from couplet.plan.content import content_of
from couplet.plan.stages import digest

IMPORT = ("couplet.interop.convert:import_model",)
GENERATE = ("couplet.sampling:generate", "couplet.model:load")
SCORE = (
    "couplet.data.pixels:pixels_at",
    "couplet.metrics.extractor.base:load_extractor",
    "couplet.metrics.measure:load_reference",
    "couplet.metrics.measure:measure",
    "couplet.metrics.measure:evaluate",
)
TABLE = ("couplet.stages.published:run",)
"""Definitions that decide an imported model, its images, their numbers and the table, besides variants."""


def import_key(model: PublishedModel) -> str:
    """The cache key of an imported model; a checkpoint on this machine counts by its content."""
    file = model.sha256 or (model.file if model.path is None else content_of(model.path))
    return digest([file, model.resolution, model.head_channels, definitions(*IMPORT)])


def measured_key(model: PublishedModel, reported: Reported, seed: int, real: Sequence[str]) -> str:
    """The cache key of a model's images and their numbers, from the paths of what they are compared with."""
    settings = [reported.nfe, reported.mid_sigmas, model.samples, model.labels, seed, *real]
    return digest([import_key(model), settings, definitions(*GENERATE, *SCORE)])


def measured_name(name: str, nfe: int, key: str) -> str:
    """Folder of a model's images and numbers."""
    return f"{name}-nfe{nfe}-{key}"


def named(folder: str) -> tuple[str, int]:
    """Model and NFE of a folder that :func:`measured_name` named."""
    name, nfe, _ = folder.rsplit("-", 2)
    return name, int(nfe.removeprefix("nfe"))


def table_key(listed: PublishedList, scores: Sequence[Path]) -> str:
    """Changes with the list, with the numbers that the table is made from and with its code."""
    places = sorted(score.as_posix() for score in scores)
    return digest([listed.model_dump(mode="json"), places, definitions(*TABLE)])
