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
from importlib.util import find_spec
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


class Symbol(NamedTuple):
    """A definition at the top level of a module; without a name, the whole module."""

    module: str
    name: str | None

    def __str__(self) -> str:
        return f"{self.module}:{self.name or '*'}"


@cache
def definitions(*entries: str) -> dict[str, str]:
    """The definitions that ``entries`` reach, themselves included, each with sixteen digits of its digest.

    Args:
        entries: ``package.module:name`` of functions and classes.

    Raises:
        ValueError: an entry is not in the source of its package.
    """
    followed = {_top(__name__), *(_top(entry.partition(":")[0]) for entry in entries)}
    waiting: list[Symbol] = []
    for entry in entries:
        source, _, defined = entry.partition(":")
        if _resolve(Symbol(source, defined), followed) is None:
            raise ValueError(f"{entry}: no such definition")
        waiting.append(Symbol(source, defined))
    digests: dict[str, str] = {}
    while waiting:
        symbol = _resolve(waiting.pop(), followed)
        if symbol is None or str(symbol) in digests:
            continue
        content = _module(symbol.module)
        assert content is not None
        if symbol.name is None:
            digests[str(symbol)] = ""
            waiting += [Symbol(symbol.module, each) for each in (*content.statements, *content.imports)]
            continue
        for name, statements in ((symbol.name, content.statements[symbol.name]), (EFFECTS, content.effects)):
            digest, references = _examined(symbol.module, name, tuple(statements))
            digests[f"{symbol.module}:{name}"] = digest
            waiting += references
    return dict(sorted((name, digest) for name, digest in digests.items() if digest))


def current(definition: str) -> str | None:
    """The present digest of a definition that :func:`definitions` named; None if it is gone."""
    module, _, name = definition.partition(":")
    content = _module(module)
    if content is None or name not in (*content.statements, EFFECTS):
        return None
    statements = content.effects if name == EFFECTS else content.statements[name]
    return _examined(module, name, tuple(statements))[0]


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


def _sources(package: Path) -> dict[str, bytes]:
    return {str(file.relative_to(package)): file.read_bytes() for file in package.rglob("*.py")}


class _Module(NamedTuple):
    """The top level of a module."""

    statements: dict[str, list[ast.stmt]]
    """Statements that bind a name, by name."""
    imports: dict[str, Symbol]
    """What imported names stand for."""
    effects: list[ast.stmt]
    """Statements that bind no name."""


@cache
def _path(module: str) -> Path | None:
    """The source file of a module, found without importing it; None if it is none or a built-in one."""
    top, *rest = module.split(".")
    spec = find_spec(top)
    if spec is None or spec.origin is None:
        return None
    if not spec.submodule_search_locations:
        return Path(spec.origin) if not rest else None
    for root in spec.submodule_search_locations:
        place = Path(root, *rest)
        for path in (place.with_suffix(".py") if rest else place / "__init__.py", place / "__init__.py"):
            if path.is_file():
                return path
    return None


def _is_package(module: str) -> bool:
    path = _path(module)
    return path is not None and path.name == "__init__.py"


@cache
def _module(name: str) -> _Module | None:
    path = _path(name)
    if path is None or path.suffix != ".py":
        return None
    tree = ast.parse(path.read_bytes())
    package = name if _is_package(name) else name.rpartition(".")[0]
    module = _Module({}, {}, [])
    for statement in tree.body:
        # The imports of a function or class are looked up where its digest is taken.
        names = {} if isinstance(statement, DEFINITIONS) else dict(_imported(statement, package))
        module.imports.update(names)
        bound = _bound(statement)
        for each in bound:
            module.statements.setdefault(each, []).append(statement)
        if not names and not bound and not _is_text(statement):
            module.effects.append(statement)
    return module


def _imported(statement: ast.AST, package: str) -> Iterator[tuple[str, Symbol]]:
    """The names that import statements in ``statement`` bind, outside functions if it is one, and inside."""
    for node in ast.walk(statement):
        if isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            source = ".".join(filter(None, (above, node.module)))
            for alias in node.names:
                yield alias.asname or alias.name, Symbol(source, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname is not None:
                    yield alias.asname, Symbol(alias.name, None)
                    continue
                # `import a.b` binds a, by which a.b is reached too.
                parts = alias.name.split(".")
                for end in range(1, len(parts) + 1):
                    yield ".".join(parts[:end]), Symbol(".".join(parts[:end]), None)


def _bound(statement: ast.stmt) -> list[str]:
    """The names that a statement at the top level binds, those of imports apart."""
    if isinstance(statement, DEFINITIONS):
        return [statement.name]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return []
    inner = [statement] if not hasattr(statement, "body") else list(ast.iter_child_nodes(statement))
    names = [
        node.id
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    ]
    names += [n.name for n in inner if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    return list(dict.fromkeys(names))


def _resolve(symbol: Symbol, followed: set[str]) -> Symbol | None:
    """Where a symbol is defined, imports followed; None outside the packages and in silent modules."""
    for _ in range(100):
        module, name = symbol
        if _top(module) not in followed or f"{module}.".startswith(tuple(f"{silent}." for silent in SILENT)):
            return None
        content = _module(module)
        if content is None:
            return None
        if name is None or name in content.statements:
            return symbol
        if name in content.imports:
            symbol = content.imports[name]
        elif _is_package(module) and _module(f"{module}.{name}") is not None:
            symbol = Symbol(f"{module}.{name}", None)
        else:
            return None
    return None


@cache
def _examined(module: str, name: str, statements: tuple[ast.stmt, ...]) -> tuple[str, list[Symbol]]:
    """The digest of statements of a module, and what they refer to."""
    content = _module(module)
    assert content is not None
    package = module if _is_package(module) else module.rpartition(".")[0]
    if not statements:
        return "", []
    pure = [_purified(statement) for statement in statements]
    local = {**content.imports, **{k: v for tree in pure for k, v in _imported(tree, package)}}
    references = list(dict.fromkeys(symbol for tree in pure for symbol in _references(tree, module, local)))
    digest = hashlib.sha256(json.dumps([_plain(tree) for tree in pure]).encode()).hexdigest()[:16]
    return digest, references


def _references(tree: ast.AST, module: str, imports: dict[str, Symbol]) -> Iterator[Symbol]:
    """Symbols that a syntax tree names; of an attribute of a module, the attribute."""
    # Modules of other packages are not followed, so they need not be read.
    waiting, own = [tree], (_top(__name__), _top(module))
    modules = {name: symbol for name, symbol in imports.items() if _top(symbol.module) in own}
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Attribute) and (symbol := _of_module(node, modules)) is not None:
            yield symbol
            continue
        if isinstance(node, ast.Name):
            yield imports.get(node.id, Symbol(module, node.id))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            # It may be a quoted annotation.
            yield imports.get(node.value, Symbol(module, node.value))
        waiting += ast.iter_child_nodes(node)


def _top(module: str) -> str:
    return module.partition(".")[0]


def _of_module(node: ast.Attribute, modules: dict[str, Symbol]) -> Symbol | None:
    """The attribute of an imported module that ``node``, as ``a.b.name``, stands for or begins with."""
    parts: list[str] = []
    value: ast.expr = node
    while isinstance(value, ast.Attribute):
        parts.insert(0, value.attr)
        value = value.value
    if not isinstance(value, ast.Name):
        return None
    parts.insert(0, value.id)
    for end in range(len(parts) - 1, 0, -1):
        symbol = modules.get(".".join(parts[:end]))
        module = None if symbol is None else _as_module(symbol)
        if module is not None:
            return Symbol(module, parts[end])
    return None


def _as_module(symbol: Symbol) -> str | None:
    """The module that an imported name stands for, if it is one."""
    if symbol.name is None:
        return symbol.module if _module(symbol.module) is not None else None
    inside = _module(symbol.module)
    if inside is not None and (symbol.name in inside.statements or symbol.name in inside.imports):
        return None
    name = f"{symbol.module}.{symbol.name}"
    return name if _path(name) is not None else None


def _is_text(statement: ast.stmt) -> bool:
    """Whether a statement is a docstring or another string that stands alone."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _purified(tree: ast.stmt) -> ast.stmt:
    """``tree`` without what changes no number: docstrings, and the messages of errors and assertions."""
    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody"):
            if isinstance(block := getattr(node, field, None), list):
                block[:] = [each for each in block if not _is_text(each) and not isinstance(each, ast.Pass)]
        if isinstance(node, ast.Raise):
            node.exc, node.cause = node.exc.func if isinstance(node.exc, ast.Call) else node.exc, None
        elif isinstance(node, ast.Assert):
            node.msg = None
    return tree


def _plain(node: Any) -> Any:
    """A syntax tree as nested lists, the same under all versions of Python."""
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if name not in NO_NUMBER)
        return [
            type(node).__name__,
            [[name, _plain(value)] for name, value in fields if value not in (None, [])],
        ]
    if isinstance(node, list):
        if node and all(isinstance(each, ast.alias) for each in node):
            return sorted(_plain(each) for each in node)
        return [_plain(each) for each in node]
    return node if isinstance(node, str | int | bool | None) else repr(node)
