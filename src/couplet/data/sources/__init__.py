"""Where images come from: one reader per kind of data set, found by its configuration class."""

from couplet.data.sources.base import Source, read, reads

__all__ = ["Source", "read", "reads"]
