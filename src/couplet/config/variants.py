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
    """``package.module:Name`` of the implementation of ``config``; UserError if its class names none."""
    cls = type(config)
    if "implementation" not in vars(cls):
        noun = f"{config.noun} {config.kind}"
        raise UserError(f"{noun}: {cls.__name__} names no implementation, 'package.module:Name'")
    return cls.implementation


def implementation(config: Variant) -> Any:
    """The class or function that ``config.implementation`` names; UserError if it cannot be imported."""
    kind, name = f"{config.noun} {config.kind}", name_of(config)
    try:
        with installed(kind):
            return resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{kind}: implementation {name} cannot be imported ({error})") from None


def build(config: Variant, *arguments: Any, **context: Any) -> Any:
    """The object that ``config`` describes: its implementation called with the settings and their context."""
    implemented = implementation(config)
    with installed(f"{config.noun} {config.kind}"):
        return implemented(config, *arguments, **context)


def variants_in(settings: Any) -> Iterator[Variant]:
    """Every variant in ``settings``, a model or a collection, at any depth."""
    if isinstance(settings, Variant):
        yield settings
    if isinstance(settings, BaseModel):
        settings = dict(settings)
    if isinstance(settings, Mapping):
        settings = list(settings.values())
    for part in settings if isinstance(settings, list | tuple) else ():
        yield from variants_in(part)


@cache
def load_plugins() -> None:
    """Import every module that an installed package names in the group ``couplet.plugins``.

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
