"""Couplings and other variants from other packages."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from couplet.errors import UserError


@cache
def load_plugins() -> None:
    """Import every module that an installed package names in the group ``couplet.plugins``.

    Such a module defines configuration classes, subclasses of a family's base, which name the code that
    implements them. From then on they are as good as built-in ones.

    Raises:
        UserError: a module cannot be imported.
    """
    for plugin in entry_points(group="couplet.plugins"):
        try:
            plugin.load()
        except (ImportError, AttributeError) as error:
            package = plugin.dist.name if plugin.dist else plugin.name
            raise UserError(
                f"package {package}: {plugin.value} of couplet.plugins cannot be imported ({error}); "
                f"mend or uninstall {package}"
            ) from None
