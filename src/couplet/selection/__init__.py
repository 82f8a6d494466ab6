"""Which snapshot of a training is sampled from."""

from couplet.selection.rule import Score, best

__all__ = ["Score", "best"]
