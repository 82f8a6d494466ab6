"""YAML as version 1.2 reads scalars, with PyYAML: ``3e-3`` and ``1e-05`` are numbers, ``010`` is ten."""

from __future__ import annotations

import re
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from couplet.errors import UserError

MOST = 2**63 - 1
"""The largest whole number; its negative is the smallest."""

MOST_VALUES = 100_000


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema; a key that occurs twice in a mapping is an error."""

    yaml_implicit_resolvers = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else None
            if name is None or name in seen:
                problem = "a key must be a plain name" if name is None else f"key {name!r} occurs twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node))
        return int(text, 0) if text[:2] in ("0x", "0o") else int(text)


_TAG = "tag:yaml.org,2002:"
_NUMBER = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
for _name, _pattern in {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": rf"{_NUMBER}|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    "merge": "<<",
}.items():
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_pattern})$"), None)
_Loader.add_constructor(_TAG + "int", _Loader.construct_integer)
_CORE = {_TAG + name for name in ("null", "bool", "int", "float", "str", "seq", "map")}
_Loader.yaml_constructors = {
    tag: make for tag, make in _Loader.yaml_constructors.items() if tag is None or tag in _CORE
}


class _Dumper(yaml.SafeDumper):
    """Quotes what :class:`_Loader` would not read as a string."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def dump_yaml(content: Any) -> str:
    """``content`` as YAML, keys in their order."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def load_yaml(text: str) -> Any:
    """The content of a YAML text; YAMLError if it is not YAML, a key occurs twice, or a value cannot be."""
    return deepcopy(_parsed(text))


@cache
def _parsed(text: str) -> Any:
    # Many files lie over the same few, and parsing takes longer than all that follows.
    try:
        content = yaml.load(text, _Loader)
        _check(content)
    except UnicodeEncodeError:
        raise yaml.YAMLError("a text with a character that is no Unicode") from None
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise yaml.YAMLError(f"cannot be read ({error})") from None
    return content


def _check(content: Any) -> None:
    """Raise ValueError for what no setting can be; an anchor that holds itself has no end of values."""
    waiting = [content]
    for value in waiting:
        if isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str) and "\0" in value.encode().decode():
            raise ValueError("a text with the character of number 0")
        elif isinstance(value, int) and not -MOST <= value <= MOST:
            raise ValueError(f"{value}: a whole number beyond 64 bits")
        if len(waiting) > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES:,} values, or an anchor that holds itself")


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; UserError if it cannot be read or is not YAML."""
    try:
        return load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason}); give a file with --params") from None
    except yaml.YAMLError as error:
        where = str(error).replace('in "<unicode string>", ', "at ")
        raise UserError(f"{path}: not YAML: {' '.join(where.split())}") from None
