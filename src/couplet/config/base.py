"""Closed configuration models, and families of variants that others may extend.

``couplet.config`` does not import torch, so that Snakemake and ``couplet --help`` start quickly.
"""

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
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainValidator,
    ValidationError,
    model_validator,
)
from pydantic_core import core_schema

from couplet.errors import UserError

Ints = Annotated[tuple[int, ...], Field(strict=False)]
"""A list of integers in YAML."""

Floats = Annotated[tuple[float, ...], Field(strict=False)]
"""A list of numbers in YAML."""


Place = Annotated[str, Field(min_length=1), AfterValidator(os.path.expanduser)]
"""Path of a file or folder; `~` is the home folder."""


class Invalid(ValueError):
    """A value that configuration does not allow, with its key and the allowed values."""

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
    except Invalid as error:
        raise Invalid((*keys, *error.at), error.value, error.expected) from None
    except ValidationError as error:
        first = invalid(error)
        raise Invalid((*keys, *first.at), first.value, first.expected) from None


def invalid(error: ValidationError) -> Invalid:
    """The first error of a failed validation, with its full location."""
    found = error.errors(include_url=False)[0]
    cause = found.get("ctx", {}).get("error")
    if isinstance(cause, ValidationError):
        cause = invalid(cause)
    if isinstance(cause, Invalid):
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
    other packages. ``implementation`` names the code of a member, which
    :func:`couplet.config.variants.build` imports and calls. Annotate a field with :class:`OneOf`.
    """

    family: ClassVar[dict[str, type[Variant]]]
    noun: ClassVar[str] = "variant"
    """Name of a member in error messages, e.g. ``coupling``."""
    implementation: ClassVar[str] = ""
    """``package.module:Name`` of the code behind the settings. Not inherited by other kinds."""

    kind: str

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if Variant in cls.__bases__:
            cls.family = {}
        kind = cls.model_fields["kind"].default
        if isinstance(kind, str):
            cls.family[kind] = cls

    @classmethod
    def parse(cls, value: Any) -> Self:
        """The member of this family that ``value["kind"]`` names, built from the rest of ``value``.

        A string stands for the kind of that name with its default settings.

        Raises:
            Invalid: ``value`` is neither, its kind is unknown, or nothing implements it.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            value = {"kind": value}
        if not isinstance(value, Mapping):
            raise Invalid((), value, f"must be a mapping of {cls.noun} settings")
        kind = value.get("kind", cls.model_fields["kind"].default)
        if not isinstance(kind, str) or kind not in cls.family:
            raise Invalid(("kind",), value.get("kind"), choices(kind, cls.family))
        member: Any = cls.family[kind]
        if "implementation" not in vars(member):
            raise Invalid(
                ("kind",), kind, f"{member.__name__} names no implementation, 'package.module:Name'"
            )
        return member.model_validate(dict(value))


class OneOf:
    """Annotation: any member of a family, including those defined later.

    ``schedule: Annotated[ScheduleConfig, OneOf()]``
    """

    def __get_pydantic_core_schema__(self, family: Any, handler: GetCoreSchemaHandler) -> Any:
        return core_schema.no_info_plain_validator_function(
            family.parse,
            metadata={"family": family},
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda member: member.model_dump(mode="json")
            ),
        )

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> Any:
        family = schema["metadata"]["family"].family
        members = [handler(member.__pydantic_core_schema__) for member in family.values()]
        return {"anyOf": [*members, {"enum": sorted(family)}]}


def path_safe(name: object) -> None:
    """Raise Invalid unless ``name`` is allowed in a path and on a command line."""
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+-]*", name, re.ASCII):
        raise Invalid((str(name),), name, "a name consists of letters, digits and . + - _")


def named(family: type[Variant]) -> Any:
    """Annotation: a mapping from names to members of ``family``; a name that is a kind needs no ``kind``."""

    def parse(value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise Invalid((), value, f"must be a mapping from names to {family.noun} settings")
        members = {}
        for name, settings in value.items():
            path_safe(name)
            with located(name):
                members[name] = family.parse(with_kind(family, name, settings))
        return members

    member: Any = Annotated[family, OneOf()]
    return PlainValidator(parse, json_schema_input_type=dict[str, member | None])


def with_kind(family: type[Variant], name: str, settings: Any) -> Any:
    """``settings`` with ``kind: name`` filled in where it has none and ``name`` is a kind."""
    if settings is None:
        settings = {}
    if isinstance(settings, Mapping) and "kind" not in settings and name in family.family:
        return {"kind": name, **settings}
    return settings


Model = TypeVar("Model", bound=Closed)


def validated(model: type[Model], content: Any, source: str) -> Model:
    """Validate ``content`` as ``model``.

    Raises:
        UserError: one line with source, key, value and what is allowed.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{source}: {invalid(error)}") from None


def choices(value: object, allowed: Iterable[str]) -> str:
    """``did you mean 'vae'? allowed: generator, independent, ot, vae``."""
    names = sorted(map(str, allowed))
    close = difflib.get_close_matches(str(value), names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}allowed: {', '.join(names)}"
