"""Reads golden vectors, compares results with them, and counts the arrays that were read and compared.

A set of vectors is a folder with ``index.json`` and one ``.npz`` file per group. The environment
variable COUPLET_GOLDEN names another set in the same format; without it the set beside this file
is used. Nothing about a value, a shape or a number of cases is known here or in the tests.
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

DIRECTORY = Path(os.environ.get("COUPLET_GOLDEN") or Path(__file__).parent / "data")
INDEX: dict[str, Any] = json.loads((DIRECTORY / "index.json").read_text(encoding="utf-8"))

FORMAT = 1
if INDEX.get("format_version") != FORMAT:
    raise ValueError(f"{DIRECTORY}: format {INDEX.get('format_version')!r}, expected {FORMAT}")

DOUBLE_RTOL = 1e-9
"""Agreement asked of a double-precision run with the double-precision reference."""

_GROUPS: dict[str, dict[str, Any]] = {entry["name"]: entry for entry in INDEX["groups"]}


@dataclass
class Tally:
    """The arrays of one group that tests used, and how closely they agreed."""

    read: set[str] = field(default_factory=set)
    compared: set[str] = field(default_factory=set)
    by_this_test: set[str] = field(default_factory=set)
    """Arrays that the running test has read, or compared in either precision."""
    doubles: set[str] = field(default_factory=set)
    relative: float = 0.0
    used: float = 0.0
    tightest: str = ""


TALLIES: dict[str, Tally] = defaultdict(Tally)


def begin_test() -> None:
    """Forget the arrays that the previous test used."""
    for tally in TALLIES.values():
        tally.by_this_test.clear()


def end_test() -> None:
    """Fail a test that compared every output of a case without reading every input.

    Where tests share a case, each may need a part of the inputs: :func:`verdict` holds all of them together
    to the rest.
    """
    for name in [name for name, tally in TALLIES.items() if tally.by_this_test]:
        group, used = load(name), TALLIES[name].by_this_test
        for case in group.cases or [""]:
            outputs = group.outputs(f"{case}/" if case else "")
            unread = group.unread(case)
            if outputs and used.issuperset(outputs):
                assert not unread, f"{name}: the test of {case or 'this group'} does not read {unread}"


def names(prefix: str = "") -> list[str]:
    """The groups of the set whose name starts with ``prefix``."""
    return [name for name in _GROUPS if name.startswith(prefix)]


def cases(prefix: str, within: str = "") -> list[tuple[str, str]]:
    """Pairs (group, case) of the groups with ``prefix``; case names start with ``within``."""
    return [(name, case) for name in names(prefix) for case in load(name).cases if case.startswith(within)]


def outputs(prefix: str, pattern: str) -> list[tuple[str, str]]:
    """Pairs (group, output) of the groups with ``prefix``; outputs match ``pattern`` whole."""
    return [
        (name, array)
        for name in names(prefix)
        for array in load(name).outputs()
        if re.fullmatch(pattern, array)
    ]


@functools.cache
def load(name: str) -> Group:
    """One group of the set, read once."""
    return Group(_GROUPS[name])


class Group:
    """The parameters and arrays of one group."""

    def __init__(self, entry: dict[str, Any]) -> None:
        self.name: str = entry["name"]
        self.params: dict[str, Any] = entry["params"]
        self.notes: list[str] = entry["notes"]
        self.cases: dict[str, dict[str, Any]] = entry["cases"]
        self.arrays: dict[str, dict[str, Any]] = entry["arrays"]
        with np.load(DIRECTORY / entry["file"], allow_pickle=False) as stored:
            self._values = {name: stored[name] for name in stored.files}
        if missing := sorted(set(self.arrays) - set(self._values)):
            raise KeyError(f"{self.name}: {entry['file']} lacks {missing[:5]}")

    def __repr__(self) -> str:
        return f"Group({self.name})"

    def has(self, array: str) -> bool:
        """Whether the group holds ``array``."""
        return array in self.arrays

    def get(self, array: str) -> np.ndarray:
        """A copy of a stored array."""
        TALLIES[self.name].read.add(array)
        TALLIES[self.name].by_this_test.add(array)
        return self._values[array].copy()

    def tensor(self, array: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        """A stored array as a tensor, in its own type unless ``dtype`` is given."""
        return torch.from_numpy(self.get(array)).to(dtype)

    def said(self, array: str, pattern: str) -> tuple[float, ...]:
        """Numbers that the description of ``array`` gives, one per group of ``pattern``.

        Raises:
            ValueError: the description does not match.
        """
        found = re.search(pattern, self.arrays[array]["meaning"])
        if found is None:
            raise ValueError(f"{self.name}: the description of {array} does not match {pattern!r}")
        return tuple(float(number) for number in found.groups())

    def outputs(self, prefix: str = "") -> list[str]:
        """The arrays to be reproduced whose name starts with ``prefix``."""
        return [
            name
            for name, meta in self.arrays.items()
            if name.startswith(prefix) and meta["role"] == "output" and not _documentary(meta)
        ]

    def inputs(self, case: str = "") -> list[str]:
        """The inputs of a case, or of the group."""
        prefix = f"{case}/" if case else ""
        return [
            name for name, meta in self.arrays.items() if name.startswith(prefix) and meta["role"] == "input"
        ]

    def unread(self, case: str) -> list[str]:
        """The inputs of a case that the running test has not read."""
        return [name for name in self.inputs(case) if name not in TALLIES[self.name].by_this_test]

    def unused(self) -> list[str]:
        """The outputs that no test has compared so far, and the inputs that none has read."""
        tally = TALLIES[self.name]
        return [name for name in self.outputs() if name not in tally.compared] + [
            name for name in self.inputs() if name not in tally.read
        ]

    def check(self, array: str, value: Any) -> None:
        """Compares ``value`` with a stored output, element by element, within its tolerance.

        Positions of infinities and NaNs must agree, and so must shapes, except that singleton
        dimensions of the stored array may be missing.

        Raises:
            AssertionError: they differ; the message names the worst element, and inputs of the case that
                the test has not read so far.
        """
        meta = self.arrays[array]
        assert meta["role"] == "output", f"{self.name}: {array} is of role {meta['role']}"
        tolerance = meta["tol"]
        stored = _numbers(self._values[array])
        mine = self._shaped(array, value, stored.shape)
        bound = tolerance["atol"] + tolerance["rtol"] * np.abs(stored)
        relative, used = self._compare(array, mine, stored, bound)
        tally = TALLIES[self.name]
        tally.compared.add(array)
        tally.by_this_test.add(array)
        tally.relative = max(tally.relative, relative)
        if used > tally.used:
            tally.used, tally.tightest = used, array

    def check64(self, array: str, value: Any) -> None:
        """Compares a double-precision ``value`` with the reference in double precision.

        Does nothing where the set holds no such reference.
        """
        reference = f"{array}__f64"
        TALLIES[self.name].by_this_test.add(array)
        if reference not in self.arrays:
            return
        assert self.arrays[reference]["role"] == "reference64"
        stored = _numbers(self._values[reference])
        mine = self._shaped(reference, value, stored.shape)
        finite = np.abs(stored[np.isfinite(stored)])
        floor = 1e-2 * DOUBLE_RTOL * (finite.max() if finite.size else 0.0)
        self._compare(reference, mine, stored, DOUBLE_RTOL * np.abs(stored) + floor)
        TALLIES[self.name].doubles.add(reference)

    def _shaped(self, array: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
        mine = _numbers(value)
        if mine.shape == tuple(n for n in shape if n != 1):
            mine = mine.reshape(shape)
        assert mine.shape == shape, f"{self.name}: {array} has shape {mine.shape}, stored {shape}"
        return mine

    def _hint(self, array: str) -> str:
        case = max((key for key in self.cases if array.startswith(f"{key}/")), key=len, default="")
        unread = [] if self.cases and not case else self.unread(case)
        return f"; this test has not read {unread}" if unread else ""

    def _compare(
        self, array: str, mine: np.ndarray, stored: np.ndarray, bound: np.ndarray
    ) -> tuple[float, float]:
        """The largest difference relative to the largest value, and the share of ``bound`` used."""
        finite = np.isfinite(stored)
        same = np.where(finite, np.isfinite(mine), (mine == stored) | _both_nan(mine, stored))
        if not same.all():
            where = tuple(int(i) for i in np.argwhere(~same)[0])
            raise AssertionError(
                f"{self.name}: {array}{list(where)} is {mine[where]!r}, stored {stored[where]!r}"
            )
        if not finite.any():
            return 0.0, 0.0
        difference = np.abs(np.subtract(mine, stored, where=finite, out=np.zeros_like(stored)))
        bound = np.where(finite, bound, math.inf)
        with np.errstate(divide="ignore", invalid="ignore"):
            used = np.where(difference == 0.0, 0.0, difference / bound)
        where = np.unravel_index(int(used.argmax()), used.shape)
        if used[where] > 1.0:
            position = [int(i) for i in where]
            raise AssertionError(
                f"{self.name}: {array}{position} is {mine[where]!r}, stored {stored[where]!r}: "
                f"difference {difference[where]:.3g}, allowed {bound[where]:.3g} "
                f"({int((used > 1.0).sum())} of {used.size} elements are off){self._hint(array)}"
            )
        scale = float(np.abs(stored[finite]).max())
        largest = float(difference.max())
        return (largest / scale if scale else largest), float(used[where])


def verdict() -> list[str]:
    """What keeps a full run from being complete: ``group: array`` for each one that no test used."""
    return [f"{name}: {array}" for name in names() for array in load(name).unused()]


def summary() -> list[str]:
    """A table with one row per group: how much was compared, and how closely it agreed."""
    rows = [("group", "outputs", "relative error", "tolerance used", "in double", "closest call")]
    for name in names():
        group, tally = load(name), TALLIES[name]
        references = sum(meta["role"] == "reference64" for meta in group.arrays.values())
        rows.append(
            (
                name,
                f"{len(tally.compared)}/{len(group.outputs())}",
                f"{tally.relative:.1e}",
                f"{tally.used:.1%}",
                f"{len(tally.doubles)}/{references}",
                tally.tightest,
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _documentary(meta: dict[str, Any]) -> bool:
    """Whether an output records a flaw of the official code and is not to be reproduced."""
    return meta["tol"]["basis"].startswith("do not test")


def _numbers(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    return np.asarray(value, dtype=np.float64)


def _both_nan(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.isnan(a) & np.isnan(b)
