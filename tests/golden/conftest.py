"""Prints the table of the golden comparison and fails a full run that left an array out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness
import pytest
import torch

HERE = Path(__file__).parent
LISTED = 10

_collected: set[Path] = set()
_narrowed: list[str] = []


@pytest.fixture(params=["float32", "float64"])
def precision(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Runs a test as we compute, and with our casts to float32 turned into casts to float64.

    The double-precision references were made from the official code in the same way.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, request.param))
    if request.param == "float64":
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    yield request.param
    torch.set_default_dtype(before)


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> Callable[..., harness.Group]:
    """Makes a group that leaves no trace in the table."""

    def make(arrays: dict[str, Any], values: dict[str, Any], cases: dict[str, Any]) -> harness.Group:
        group = object.__new__(harness.Group)
        group.name, group.arrays, group._values, group.cases = "made-up", arrays, values, cases
        monkeypatch.setattr(harness, "TALLIES", harness.defaultdict(harness.Tally))
        monkeypatch.setattr(harness, "load", lambda name: group)
        return group

    return make


def _mine(item: pytest.Item) -> bool:
    return item.path.parent == HERE


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    harness.begin_test()
    yield
    harness.end_test()


def pytest_deselected(items: list[pytest.Item]) -> None:
    _narrowed.extend(item.nodeid for item in items if _mine(item))


def pytest_collection_finish(session: pytest.Session) -> None:
    _collected.update(item.path for item in session.items if _mine(item))


def _full(config: pytest.Config) -> bool:
    """Whether every test of this folder was to run, and did."""
    if config.option.collectonly or any("::" in argument for argument in config.args):
        return False
    return not _narrowed and _collected >= set(HERE.glob("test_*.py"))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if _full(session.config) and harness.verdict() and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    config = terminalreporter.config
    if not _collected or config.option.collectonly:
        return
    terminalreporter.section("golden vectors")
    for line in harness.summary():
        terminalreporter.write_line(line)
    missing = harness.verdict()
    if missing and _full(config):
        shown = ", ".join(missing[:LISTED])
        terminalreporter.write_line(f"FAILED: {len(missing)} arrays not used: {shown}", red=True)
