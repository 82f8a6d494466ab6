"""Heading and decimals of each metric in a table."""

from __future__ import annotations

from typing import NamedTuple


class Described(NamedTuple):
    """The look of a metric in a table."""

    heading: str
    """With an arrow to the better values; blank for a metric that is not a column of its own."""
    decimals: int = 4


METRICS = {
    "fd": Described("Fréchet distance ↓", 3),
    "fid": Described("FID ↓", 3),
    "kid": Described("KID ↓", 5),
    "is": Described("IS ↑", 3),
    "is_std": Described(""),  # between splits of one run; tables have the spread over seeds
    "precision": Described("precision ↑"),
    "recall": Described("recall ↑"),
}


def described(metric: str) -> Described:
    """The description of a metric by its plain name; an unknown one is its own heading."""
    return METRICS.get(metric, Described(metric))
