"""Couplings and other variants from other packages."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points


@cache
def load_plugins() -> None:
    """Imports every module that an installed package names in the group ``couplet.plugins``.

    Such a module defines its configuration class (a subclass of a family's base) and registers what
    implements it (``couplet.couplings.implements``); from then on it is as good as a built-in one.
    """
    for plugin in entry_points(group="couplet.plugins"):
        plugin.load()
