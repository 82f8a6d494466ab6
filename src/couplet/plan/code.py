"""The code that makes a result: every definition that its numerics reach by name, as digests of their syntax.

Starting from a function or class, names are followed through the modules of the package, imports inside
functions included. A class counts as a whole. A digest is that of the syntax tree without docstrings,
comments, annotations, and the messages of errors, so it changes with the computation and with nothing else.
Modules that only check, move or print files are not followed: :data:`SILENT`.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any, NamedTuple

from couplet.errors import UserError

SILENT = ("couplet.config", "couplet.errors", "couplet.files")
"""Modules of which no definition counts: settings count by value, the others change no number."""

EFFECTS = "*effects"
"""Name for the statements of a module that bind no name."""

PACKAGE = Path(__file__).parents[1]

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)

NO_NUMBER = {"annotation", "returns", "ctx", "type_comment", "type_params", "kind"}
"""Fields of a syntax tree that change no number."""


@cache
def definitions(*entries: str) -> dict[str, str]:
    """The definitions that ``entries`` reach, themselves included, each with sixteen digits of its digest.

    Args:
        entries: ``package.module:name`` of functions and classes.

    Raises:
        ValueError: an entry is not in the source of its package.
    """
    waiting = [entry.replace(":", ".") for entry in entries]
    followed = frozenset(map(_top, [__name__, *waiting]))
    for entry, name in zip(entries, waiting, strict=True):
        if _place(name, followed) is None:
            raise ValueError(f"{entry}: no such definition")
    digests: dict[str, str] = {}
    while waiting:
        place = _place(waiting.pop(), followed)
        if place is None or ":".join(place) in digests:
            continue
        for name in (place[1], EFFECTS):
            digests[f"{place[0]}:{name}"], references = _examined(place[0], name)
            waiting += references
    return {name: digest for name, digest in sorted(digests.items()) if digest}


def current(definition: str) -> str | None:
    """The present digest of a definition that :func:`definitions` named; None if it is gone."""
    digest, _ = _examined(*definition.split(":"))
    return digest or None


def check_running(folder: Path) -> None:
    """Raise UserError if ``folder`` has a package of its own whose code is not the code that runs.

    Editable installations import from one working copy; an engine at work in another, as in the temporary
    one of a queued experiment, would record code that did not make its results.
    """
    there = (folder / "src/couplet").resolve()
    if there.is_dir() and there != PACKAGE and _sources(there) != _sources(PACKAGE):
        raise UserError(
            f"src/couplet: differs from the code that runs, {PACKAGE}; set PYTHONPATH=src to run this code"
        )


def _sources(package: Path) -> dict[Path, bytes]:
    # A wheel's package has the workflow's scripts as well, in `project`.
    files = (file.relative_to(package) for file in package.rglob("*.py"))
    return {file: (package / file).read_bytes() for file in files if file.parts[0] != "project"}


class _Module(NamedTuple):
    """The top level of a module."""

    statements: dict[str, list[ast.stmt]]
    """Statements by the names that they bind; those that bind none as :data:`EFFECTS`."""
    imports: dict[str, str]
    """The dotted names that imported ones stand for."""


@cache
def _spec(module: str) -> ModuleSpec | None:
    """The place of a module, found without importing it."""
    parent = module.rpartition(".")[0]
    if not parent:
        return find_spec(module)
    above = _spec(parent)
    inside = above and above.submodule_search_locations
    return PathFinder.find_spec(module, inside) if inside else None


def _package(module: str) -> str:
    """The package that relative imports in a module start from."""
    spec = _spec(module)
    return module if spec and spec.submodule_search_locations else module.rpartition(".")[0]


@cache
def _module(name: str) -> _Module | None:
    """A module whose definitions count, if there is one of that name."""
    spec = None if f"{name}.".startswith(tuple(f"{silent}." for silent in SILENT)) else _spec(name)
    if spec is None or (spec.origin and not spec.origin.endswith(".py")):
        return None
    module = _Module({}, {})
    source = Path(spec.origin).read_bytes() if spec.origin else b""  # a folder without __init__.py
    for statement in _purified(ast.parse(source)).body:
        if isinstance(statement, DEFINITIONS):
            # Its imports are looked up where its digest is taken.
            imports, bound = {}, {statement.name}
        else:
            imports, bound = _imported(statement, _package(name)), _bound(statement)
        module.imports.update(imports)
        for each in bound or (() if imports else (EFFECTS,)):
            module.statements.setdefault(each, []).append(statement)
    return module


def _bound(statement: ast.stmt) -> set[str]:
    """The names that a statement binds, those of imports apart."""
    nodes = list(ast.walk(statement))
    stored = {each.id for each in nodes if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}
    return stored | {each.name for each in nodes if isinstance(each, DEFINITIONS)}


def _imported(tree: ast.AST, package: str) -> dict[str, str]:
    """The names that import statements in ``tree`` bind, and the dotted names that they stand for."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), package)
            names.update({alias.asname or alias.name: f"{source}.{alias.name}" for alias in node.names})
        elif isinstance(node, ast.Import):
            for alias in node.names:
                top = _top(alias.name)  # `import a.b` binds a.
                names[alias.asname or top] = alias.name if alias.asname else top
    return names


@cache
def _place(dotted: str, followed: frozenset[str]) -> tuple[str, str] | None:
    """The module and the name of the definition that a dotted name begins with, imports followed.

    The name is ``*`` if it stands for a whole module. None outside the packages and in silent modules.
    """
    module, *names = dotted.split(".")
    if module not in followed:
        return None
    while (content := _module(module)) is not None:
        if not names:
            return module, "*"
        name = names.pop(0)
        if name in content.statements:
            return module, name
        inside = _spec(f"{module}.{name}")
        if name in content.imports and not (inside and inside.origin):
            return _place(".".join([content.imports[name], *names]), followed)
        module = f"{module}.{name}"
    return None


@cache
def _examined(module: str, name: str) -> tuple[str, list[str]]:
    """The digest of a definition, empty if there is none, and the dotted names to which it refers.

    A whole module, ``*``, has no digest and refers to everything in it.
    """
    content = _module(module)
    if content is not None and name == "*":
        return "", [f"{module}.{each}" for each in (*content.statements, *content.imports)]
    if content is None or name not in content.statements:
        return "", []
    trees, names = content.statements[name], dict(content.imports)
    for tree in trees:
        names |= _imported(tree, _package(module))
    references = {
        ".".join([names.get(first, f"{module}.{first}"), *rest])
        for tree in trees
        for first, *rest in _references(tree)
    }
    digest = hashlib.sha256(json.dumps([_plain(tree) for tree in trees]).encode()).hexdigest()[:16]
    return digest, sorted(references)


def _references(tree: ast.AST) -> Iterator[list[str]]:
    """The names in a syntax tree, each with the attributes after it."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if parts := _parts(node):
            yield parts
        else:
            waiting += ast.iter_child_nodes(node)


def _parts(node: ast.AST) -> list[str]:
    """``a``, ``b`` and ``c`` of the expression ``a.b.c``; nothing of another one."""
    match node:
        case ast.Name(id=name):
            return [name]
        case ast.Attribute(value=value, attr=name) if parts := _parts(value):
            return [*parts, name]
        case ast.Constant(value=str(text)) if text.isidentifier():
            return [text]  # It may be a quoted annotation.
    return []


def _top(name: str) -> str:
    return name.partition(".")[0]


def _purified(tree: ast.Module) -> ast.Module:
    """``tree`` without what changes no number: docstrings, and the messages of errors and assertions."""
    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody"):
            if isinstance(block := getattr(node, field, None), list):
                block[:] = [each for each in block if not _is_idle(each)]
        if isinstance(node, ast.Raise):
            node.exc, node.cause = node.exc.func if isinstance(node.exc, ast.Call) else node.exc, None
        elif isinstance(node, ast.Assert):
            node.msg = None
    return tree


def _is_idle(statement: ast.stmt) -> bool:
    """Whether a statement is ``pass``, a docstring or another string that stands alone."""
    match statement:
        case ast.Pass() | ast.Expr(value=ast.Constant(value=str())):
            return True
    return False


def _plain(node: Any) -> Any:
    """A syntax tree as nested lists, the same under all versions of Python."""
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if name not in NO_NUMBER)
        return [
            type(node).__name__,
            [[name, _plain(value)] for name, value in fields if value not in (None, [])],
        ]
    if isinstance(node, list):
        plain = [_plain(each) for each in node]
        return sorted(plain) if node and isinstance(node[0], ast.alias) else plain
    return node if isinstance(node, str | int | bool | None) else repr(node)
