"""Closed configuration models, and families of variants that others may extend."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import core_schema

from couplet.errors import UserError

Item = TypeVar("Item")
Listed = Annotated[tuple[Item, ...], Field(strict=False)]
"""A list in YAML."""
NonEmpty = Annotated[tuple[Item, ...], Field(strict=False, min_length=1)]
"""A list in YAML of one item at least."""


Place = Annotated[str, Field(min_length=1), AfterValidator(os.path.expanduser)]
"""Path of a file or folder; `~` is the home folder."""


class Invalid(ValueError):
    """A value that is not allowed, with its key and what is."""

    def __init__(self, at: tuple[str | int, ...], value: object, expected: str) -> None:
        super().__init__(expected)
        self.at, self.value, self.expected = at, value, expected

    def __str__(self) -> str:
        key = ".".join(map(str, self.at)) or "(top level)"
        shown = json.dumps(self.value, default=str)
        return f"{key} = {shown if len(shown) < 80 else shown[:77] + '...'}: {self.expected}"


@contextmanager
def located(*keys: str | int) -> Iterator[None]:
    """Prefix the location of an invalid value inside the block with ``keys``."""
    try:
        yield
    except (Invalid, ValidationError) as error:
        first = _first(error)
        raise Invalid((*keys, *first.at), first.value, first.expected) from None


def _first(error: Invalid | ValidationError) -> Invalid:
    """The first error of a failed validation, with its full location."""
    if isinstance(error, Invalid):
        return error
    found = error.errors(include_url=False)[0]
    cause = found.get("ctx", {}).get("error")
    if isinstance(cause, Invalid | ValidationError):
        cause = _first(cause)
        return Invalid((*found["loc"], *cause.at), cause.value, cause.expected)
    if found["type"] == "missing":
        return Invalid(found["loc"], None, "this key is required")
    if found["type"] == "literal_error":
        expected = found["ctx"]["expected"]
        allowed = re.findall(r"'([^']*)'", expected) or re.split(", | or ", expected)  # names, or numbers
        return Invalid(found["loc"], found["input"], choices(found["input"], allowed))
    message = found["msg"].removeprefix("Value error, ").replace(" after validation", "")
    message = message.replace("Tuple", "list").replace("Input", "value").replace("dictionary", "mapping")
    return Invalid(found["loc"], found["input"], message[:1].lower() + message[1:])


class Closed(BaseModel):
    """A frozen model without unknown keys and without silent conversions (``"3"`` is not 3)."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _no_unknown_key(cls, values: Any) -> Any:
        for key in values if isinstance(values, Mapping) else ():
            if key not in cls.model_fields:
                hint = choices(key, cls.model_fields)
                raise Invalid((key,), values[key], f"unknown key; {hint}")
        return values


class Variant(Closed):
    """Base of a family of alternatives, told apart by ``kind``.

    A direct subclass defines a family; each of its subclasses that sets ``kind`` becomes a member, also in
    other packages. A field whose type is the family takes any member. ``implementation`` names the code of a
    member: :func:`couplet.config.variants.build` calls it with what CONTRIBUTING.md lists for each family.
    """

    family: ClassVar[dict[str, type[Variant]]]
    noun: ClassVar[str]
    """Name of a member in error messages, from that of the family: ``learning rate``."""
    implementation: ClassVar[str] = ""
    """``package.module:Name`` of the code behind the settings. Not inherited by other kinds."""
    title: ClassVar[str] = ""
    """What people call it, in pictures and on pages; blank is the kind."""

    kind: str

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if cls._is_family():
            cls.family = {}
            words = re.sub("(?<=[a-z])(?=[A-Z])", " ", cls.__name__.removesuffix("Config"))
            cls.noun = words.lower()
        kind = cls.model_fields["kind"].default
        if isinstance(kind, str):
            cls.family[kind] = cls

    @classmethod
    def _is_family(cls) -> bool:
        return Closed not in cls.__bases__ and Variant in cls.__bases__

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        if not cls._is_family():
            return handler(source)
        dump = core_schema.plain_serializer_function_ser_schema(lambda member: member.model_dump(mode="json"))
        return core_schema.no_info_plain_validator_function(cls.parse, serialization=dump)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> Any:
        if not cls._is_family():
            return handler(schema)
        members = [handler(member.__pydantic_core_schema__) for member in cls.family.values()]
        return {"anyOf": [*members, {"enum": sorted(cls.family)}]}

    @classmethod
    def parse(cls, value: Any) -> Self:
        """The member that ``kind`` of a mapping, or a string, names; Invalid if there is none with code."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            value = {"kind": value}
        if not isinstance(value, Mapping):
            raise Invalid((), value, f"must be a mapping of {cls.noun} settings")
        kind = value.get("kind", cls.model_fields["kind"].default)
        if not isinstance(kind, str) or kind not in cls.family:
            needed = "" if "kind" in value else "this key is required; "
            raise Invalid(("kind",), value.get("kind"), needed + choices(kind, cls.family))
        member: Any = cls.family[kind]
        if "implementation" not in vars(member):
            expected = f"{member.__name__} names no implementation, 'package.module:Name'"
            raise Invalid(("kind",), kind, expected)
        return member.model_validate(dict(value))


def path_safe(name: object) -> None:
    """Raise Invalid unless ``name`` is allowed in a path and on a command line."""
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+-]{0,49}", name, re.ASCII):
        raise Invalid((str(name),), name, "a name consists of at most 50 letters, digits and . + - _")


def named(family: type[Variant]) -> Any:
    """Annotation of a mapping from names to members of a family: a name that is a kind needs no ``kind``."""

    def with_kinds(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise Invalid((), value, f"must be a mapping from names to {family.noun} settings")
        members = {}
        for name, settings in value.items():
            path_safe(name)
            members[name] = {} if settings is None else settings
            if isinstance(settings, Mapping | None) and name in family.family:
                members[name] = {"kind": name, **members[name]}
        return members

    return BeforeValidator(with_kinds, json_schema_input_type=dict[str, family | None])  # type: ignore[valid-type]


Model = TypeVar("Model", bound=Closed)


def validated(model: type[Model], content: Any, source: str) -> Model:
    """Validate ``content`` as ``model``, or raise UserError: source, key, value and what is allowed."""
    with refused(source):
        return model.model_validate(content)


@contextmanager
def refused(source: object) -> Iterator[None]:
    """Report an invalid value inside the block as a UserError that begins with ``source``."""
    try:
        with located():
            yield
    except Invalid as error:
        raise UserError(f"{source}: {error}") from None


def choices(value: object, allowed: Iterable[str]) -> str:
    """``did you mean 'vae'? allowed: generator, independent, ot, vae``."""
    names = sorted(map(str, allowed))
    close = [] if value is None else difflib.get_close_matches(str(value), names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}allowed: {', '.join(names)}"
