"""No call passes five or more things by position."""

import ast
from pathlib import Path

import pytest

import couplet

PACKAGE = Path(couplet.__file__).parent
VARIADIC = {"_git", "generator", "product", "reshape", "transpose"}
"""Functions that take any number of things of one kind."""


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_no_call_passes_five_things_by_position(path):
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    long = [
        call
        for call in calls
        if len(call.args) >= 5 and ast.unparse(call.func).split(".")[-1] not in VARIADIC
    ]
    assert [f"{path.name}:{call.lineno}" for call in long] == []
