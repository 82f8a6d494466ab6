"""Trackers: where a person watches runs. They decide no number and are in no cache key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from couplet.config.base import Invalid

FORMS = {
    "dvc": "dvc=FOLDER",
    "tensorboard": "tensorboard=FOLDER",
    "wandb": "wandb[=PROJECT]",
    "mlflow": "mlflow[=URI or EXPERIMENT]",
}
"""How each kind of tracker is written."""


class Track(NamedTuple):
    """A tracker and its place: a folder, a project, a server or an experiment; empty is the tracker's own."""

    kind: str
    place: str

    @classmethod
    def parse(cls, text: str) -> Track:
        """The tracker that ``text`` names; Invalid if there is none."""
        kind, given, place = text.partition("=")
        if kind not in FORMS or not (place or (not given and "[" in FORMS[kind])):
            raise Invalid((), text, f"must be one of {', '.join(FORMS.values())}")
        in_folder = "FOLDER" in FORMS[kind]
        return cls(kind, str(Path(place).expanduser()) if in_folder else place)

    @property
    def in_folder(self) -> bool:
        """Whether the place is a folder to write."""
        return "FOLDER" in FORMS[self.kind]

    def __str__(self) -> str:
        """As it is written, without a password."""
        return self.kind + (self.place and f"={without_password(self.place)}")


def without_password(text: str) -> str:
    """A text without name and password in URIs."""
    return re.sub(r"//[^/@\s]*@", "//", text)


def of_every_run(text: str) -> str:
    """Check a tracker of a parameter file, which tracks every run of a grid."""
    if Track.parse(text).kind == "dvc":
        raise Invalid((), text, f"its folder shows one run; give --track {text} with a command")
    return text
