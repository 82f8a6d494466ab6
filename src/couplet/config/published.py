"""The list of models that others have published, with what they report: `workflow/published.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from couplet.config.base import Closed, Invalid, Listed, NonEmpty, path_safe, validated
from couplet.config.extractors import Sha256
from couplet.config.recipes import Level
from couplet.config.yaml12 import read_yaml

DRIVE, HUB = "Google Drive ", "hub:"
"""Beginnings of places that are no addresses."""


class Reported(Closed):
    """Numbers that a model's authors report for a number of network evaluations."""

    nfe: int = Field(ge=1, le=1000)
    """Network evaluations per image."""
    value: float | None = None
    """The number; null if none could be read in the source."""
    mid_sigmas: Listed[Level] | None = None
    """Noise levels after the first; null are the model's own."""


class PublishedModel(Closed):
    """A checkpoint that others have published, and how they measured it."""

    method: str = Field(min_length=1)
    """Name of the method, as a table lists it."""
    file: str | None = None
    """Address (https://…, file://…, `Google Drive ID`) or path of the checkpoint, or `hub:owner/name` on the
    Hugging Face hub; null if no address leads to one file."""
    sha256: Sha256 | None = None
    """SHA-256 of the file; null if its authors state none."""
    table: str
    """Parameter file, as its table is called, that has the data set and the extractor: `ect`, `table1`."""
    dataset: str | None
    """Name of a data set in it; null if couplet has none."""
    extractor: str
    """Name of an extractor in it: the features of the reported number."""
    metric: str = "fd"
    """The reported number."""
    samples: int = Field(50_000, ge=2, le=10_000_000)
    """Images generated."""
    labels: Literal["balanced", "uniform", "data"] | None = None
    """Classes for a conditional model: each in turn, drawn with equal probability, or as in the data set."""
    resolution: int | None = Field(None, ge=1, le=4096)
    """Height of the images, where the file does not tell."""
    head_channels: int | None = Field(None, ge=1)
    """Channels of an attention head, where the file does not tell."""
    reported: NonEmpty[Reported]
    protocol: str
    """How its authors measured, as far as their text or code says."""
    differs: str = ""
    """How the workflow's measurement differs from theirs, if it does; then no difference is shown."""
    source: str
    """Where number and address were read."""
    note: str = ""
    """Why there is no address, digest or number."""

    @property
    def address(self) -> str | None:
        """The address to download from, if it is one."""
        downloaded = self.file is not None and ("://" in self.file or self.file.startswith(DRIVE))
        return self.file if downloaded else None

    @property
    def path(self) -> Path | None:
        """The file or folder on this machine, if it is one."""
        elsewhere = self.file is None or self.address is not None or self.file.startswith(HUB)
        return None if elsewhere else Path(str(self.file)).expanduser()

    @property
    def missing(self) -> str | None:
        """Reason why the model cannot be measured by the workflow, if there is one."""
        if self.file is None:
            return "no address of a single file; download it by hand and give its path as `file`"
        return "couplet has no such data set" if self.dataset is None else None

    @model_validator(mode="after")
    def _reasons(self) -> Self:
        numbers = [each.value for each in self.reported]
        for key, values in (("file", [self.file]), ("sha256", [self.sha256]), ("reported", numbers)):
            if None in values and not self.note:
                raise Invalid(("note",), self.note, f"must say why {key} has null")
        nfe = [each.nfe for each in self.reported]
        if len({*nfe}) < len(nfe):
            raise Invalid(("reported",), nfe, "must not repeat an nfe")
        return self


class PublishedList(Closed):
    """Published models by name."""

    models: Annotated[dict[str, PublishedModel], Field(min_length=1)]
    seed: int = Field(0, ge=0)
    """Decides the noise of all images."""

    @model_validator(mode="after")
    def _names(self) -> Self:
        for name in self.models:
            path_safe(name)
        return self


def published_list(path: Path) -> PublishedList:
    """The list in a file; UserError if it cannot be read, or a key or value is not allowed."""
    return validated(PublishedList, read_yaml(path), str(path))
