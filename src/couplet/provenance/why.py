"""`couplet why`: from a number, or a stage's file, back to checkpoint, configuration, data and commit."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from couplet.errors import UserError
from couplet.files import read_json
from couplet.provenance.chain import Record, chain, changed_code, check_small_files, maker

NAMES = ("dataset", "scale", "recipe", "kernel", "coupling", "nfe", "extractor")
"""The columns by which a row can be chosen; `seed` chooses among the runs of a row."""

FILES = 3
"""Files of a stage that are shown one by one; of more, the folder is shown."""

LISTED = 12
"""Rows that a message names at most."""


class Run(NamedTuple):
    """Where one seed's number comes from."""

    name: str
    numbers: Mapping[str, float]
    chain: Sequence[Record]
    """The latest stage first."""


class Why(NamedTuple):
    """What a file, or a row of a table, is made from."""

    file: Path
    row: Mapping[str, str]
    """Empty where the file is no table."""
    runs: Sequence[Run]

    @property
    def plain(self) -> dict[str, Any]:
        """The same as JSON."""
        return {
            "file": str(self.file),
            "row": dict(self.row),
            "runs": [
                {
                    "run": run.name,
                    "numbers": dict(run.numbers),
                    "chain": [{"record": str(r.path), **r.content} for r in run.chain],
                }
                for run in self.runs
            ],
        }


def why(file: Path, row: str | None) -> Why:
    """The chain of a recorded ``file``; of a table's CSV, the chains of all seeds of one ``row``.

    ``row`` is a number from 1 on, or ``column=value`` pairs or values alone with commas between them:
    ``3``, ``coupling=vae,nfe=2``, ``vae,nfe=2,seed=1``.

    Raises:
        UserError: the file has no record or is not what the record says, ``row`` fits no row or several, or
            the chain is broken.
    """
    made_by = maker(Path(os.path.normpath(file)))
    if made_by is None:
        there = "no record beside it names it" if file.exists() else "not there"
        raise UserError(f"{file}: {there}; give a table's CSV or another file that a stage wrote")
    check_small_files(made_by)
    if made_by.stage != "table":
        if row is not None:
            raise UserError(f"--row {row}: {file} is not a table's CSV")
        return Why(file, {}, [Run(str(made_by.content.get("run", made_by.stage)), {}, _chain(made_by))])
    if file.suffix != ".csv":
        raise UserError(f"{file}: is made from a whole table; ask for a row of its CSV")
    with file.open() as text:
        rows = list(csv.DictReader(text))
    chosen, seed = _chosen(file, rows, row)
    runs = [_run(made_by, chosen, name) for name in chosen["runs"].split()]
    if seed is not None:
        runs, others = [run for run in runs if _seed(run) == seed], [_seed(run) for run in runs]
        if not runs:
            raise UserError(f"--row {row}: the row has no seed {seed}; it has {', '.join(others) or 'none'}")
    return Why(file, chosen, runs)


def _chain(end: Record) -> Sequence[Record]:
    found = chain(end)
    for record in found:
        check_small_files(record)
    return found


def _run(table: Record, row: Mapping[str, str], name: str) -> Run:
    """The chain of one run of a row, and its numbers."""
    path = Path(
        os.path.normpath(table.path.parent / table.content["evaluations"][f"{name} {row['extractor']}"])
    )
    record = maker(path)
    if record is None:
        raise UserError(f"{path}: not there or without its record; run `couplet evaluate` again")
    if record.outputs[path] != table.inputs[path]:
        raise UserError(f"{path}: is not what {table.path} was made from; run `couplet table` again")
    suffix = f"_nfe{row['nfe']}"
    numbers = {
        metric.removesuffix(suffix): value
        for metric, value in read_json(path.with_suffix(".metrics.json")).items()
        if metric.endswith(suffix)
    }
    return Run(name, numbers, _chain(record))


def _seed(run: Run) -> str:
    return str(run.chain[0].content["cell"]["seed"])


def _chosen(
    file: Path, rows: Sequence[dict[str, str]], wanted: str | None
) -> tuple[dict[str, str], str | None]:
    """The one row that ``wanted`` fits, and the seed that it asks for."""
    if wanted is None:
        if len(rows) == 1:
            return rows[0], None
        raise UserError(f"{file}: which row? --row N or --row COLUMN=VALUE,…: {_listed(rows, rows)}")
    if wanted.isdigit():
        if 1 <= int(wanted) <= len(rows):
            return rows[int(wanted) - 1], None
        raise UserError(f"--row {wanted}: {file} has rows 1 to {len(rows)}")
    conditions = [part.strip().rpartition("=") for part in wanted.split(",")]
    seed = next((value for column, _, value in conditions if column == "seed"), None)
    conditions = [condition for condition in conditions if condition[0] != "seed"]
    for column, _, _ in conditions:
        if column and column not in NAMES:
            raise UserError(f"--row {wanted}: no column {column!r}; choose by {', '.join(NAMES)} or seed")
    fit = [
        row
        for row in rows
        if all(
            value == row[column] if column else value in (row[name] for name in NAMES)
            for column, _, value in conditions
        )
    ]
    if len(fit) == 1:
        return fit[0], seed
    how_many = f"{len(fit)} rows fit" if fit else "no row fits"
    raise UserError(f"--row {wanted}: {how_many}; {file} has {_listed(fit or rows, rows)}")


def _listed(shown: Sequence[dict[str, str]], rows: Sequence[dict[str, str]]) -> str:
    """Rows with their numbers, by the columns in which the rows of the table differ."""
    differing = [name for name in NAMES if len({row[name] for row in rows}) > 1]
    lines = [
        f"{rows.index(row) + 1} ({','.join(f'{name}={row[name]}' for name in differing)})" for row in shown
    ]
    return ", ".join([*lines[:LISTED], *(["…"] if len(lines) > LISTED else [])])


def described(found: Why) -> Iterator[tuple[str, str]]:
    """Pairs of name and value for reading."""
    if found.row:
        names = " ".join(f"{name}={found.row[name]}" for name in NAMES if found.row[name])
        yield str(found.file), names
        for column, value in found.row.items():
            if column.endswith("_mean") and value and (metric := column.removesuffix("_mean")):
                spread = found.row[f"{metric}_std"]
                yield metric, f"{value} ± {spread}" if spread else value
        yield "seeds", found.row["seeds"] + (f"; {found.row['missing']}" if found.row.get("missing") else "")
    chains = [{record.path for record in run.chain} for run in found.runs]
    shared = set.intersection(*chains) if len(chains) > 1 else set()
    for run in found.runs:
        yield "", ""
        yield "run", run.name
        if run.numbers:
            yield "numbers", ", ".join(f"{name} {value:.6g}" for name, value in run.numbers.items())
        yield from _lines(run.chain, lambda record: record.path not in shared)
    if shared:
        yield "", ""
        yield "all runs", "from"
        yield from _lines(found.runs[0].chain, lambda record: record.path in shared)


def _lines(records: Sequence[Record], wanted: Callable[[Record], bool]) -> Iterator[tuple[str, str]]:
    """What there is to say of the ``wanted`` ones of a chain."""
    for number, record in enumerate(records):
        if not wanted(record):
            continue
        for line, value in enumerate(_what(record, records[:number])):
            yield "" if line else record.stage, value
        if record.stage == "prepare":
            card = read_json(next(path for path in record.outputs if path.name == "card.json"))
            yield "", f"{card['dataset']}: {card['source']}"
        if record.stage == "train":
            about = record.content
            device = about["cpu"] if about["device"] == "cpu" else about["device"]
            torch = about["packages"]["torch"]
            yield "", f"{device}, {about['threads']} threads, Python {about['python']}, torch {torch}"


def _what(record: Record, later: Sequence[Record]) -> Iterator[str]:
    """The files of a record that later stages used, with digests, and how they were made."""
    # `select` reads every snapshot, but the number is of one.
    used = {path for each in later if each.stage != "select" for path in each.inputs}
    files = [path for path in record.outputs if path in used] or list(record.outputs)
    if len(files) > FILES:
        yield f"{os.path.commonpath(files)}: {len(files)} files"
    else:
        yield from (f"{path}  {record.outputs[path][:12]}" for path in files)
    content = record.content
    about = [f"key {content['key']}"] if "key" in content else []
    about.append(f"commit {content['commit'][:10]}" if content["commit"] else "no repository")
    about[-1] += " with changes" if content["dirty"] else ""
    if changed := changed_code(record):
        about.append(f"code has changed since, first in {changed[0]}")
    for proof in content.get("adopted", ()):
        about.append(f"taken over from key {proof['key']} after {proof['steps']} replayed steps")
    yield ", ".join([*about, f"{content['seconds']:.1f} s"])
