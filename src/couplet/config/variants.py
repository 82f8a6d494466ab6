"""From a configuration class to the code that implements it: the one mechanism, for every family."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import entry_points
from pkgutil import resolve_name
from typing import Any

from pydantic import BaseModel

from couplet.config.base import Variant
from couplet.errors import UserError, installed


def name_of(config: Variant) -> str:
    """``package.module:Name`` of the implementation of ``config``.

    Raises:
        UserError: the class of ``config`` names none of its own.
    """
    name: str = vars(type(config)).get("implementation", "")
    if not name:
        kind, cls = f"{config.noun} {config.kind}", type(config).__name__
        raise UserError(f"{kind}: {cls} names no implementation, 'package.module:Name'")
    return name


def implementation(config: Variant) -> Any:
    """The class or function that ``config.implementation`` names, imported.

    Raises:
        UserError: the class of ``config`` names nothing, what it names cannot be imported, or a package
            that it needs is not installed.
    """
    kind, name = f"{config.noun} {config.kind}", name_of(config)
    try:
        with installed(kind):
            return resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{kind}: implementation {name} cannot be imported ({error})") from None


def build(config: Variant, *arguments: Any, **context: Any) -> Any:
    """The object that ``config`` describes: its implementation called with the settings and their context.

    What the context is, each family's base class says.

    Raises:
        UserError: see :func:`implementation`.
    """
    implemented = implementation(config)
    with installed(f"{config.noun} {config.kind}"):
        return implemented(config, *arguments, **context)


def variants_in(settings: Any) -> Iterator[Variant]:
    """Every variant in ``settings``, a model or a collection, at any depth."""
    if isinstance(settings, Variant):
        yield settings
    if isinstance(settings, BaseModel):
        settings = [getattr(settings, name) for name in type(settings).model_fields]
    if isinstance(settings, Mapping):
        settings = list(settings.values())
    if isinstance(settings, list | tuple):
        for part in settings:
            yield from variants_in(part)


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
