"""The rule that turns scores into a choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Score(NamedTuple):
    """How one snapshot did."""

    step: int
    fd: Mapping[int, float]
    """Fréchet distance to the selection split for each NFE; lower is better."""


def best(scores: Sequence[Score], nfe: int) -> Score:
    """The score with the lowest distance at ``nfe``; of equals, the earliest step.

    Raises:
        ValueError: there are no scores.
        KeyError: a snapshot has no score at ``nfe``.
    """
    return min(scores, key=lambda score: (score.fd[nfe], score.step))
