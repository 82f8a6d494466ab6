"""`couplet why`: from a number, or a stage's file, back to checkpoint, configuration, data and commit."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from couplet.errors import UserError
from couplet.files import read_json
from couplet.provenance.record import Record, chain, changed_code, check_small_files, maker

NAMES = ("dataset", "scale", "recipe", "kernel", "coupling", "nfe", "extractor")
"""The columns by which a row can be chosen; `seed` chooses among the runs of a row."""

FILES, ROWS = 3, 12
"""Most files of a stage that are listed one by one, not as a folder, and most rows that a message names."""


class Run(NamedTuple):
    """The origin of one seed's numbers."""

    name: str
    numbers: Mapping[str, float]
    chain: Sequence[Record]
    """The latest stage first."""


class Why(NamedTuple):
    """The origin of a file, or of a row of a table."""

    file: Path
    row: Mapping[str, str]
    """Empty unless the file is a table."""
    runs: Sequence[Run]

    @property
    def plain(self) -> dict[str, Any]:
        """The same as JSON."""
        runs = []
        for name, numbers, records in self.runs:
            contents = [{"record": str(record.path), **record.content} for record in records]
            runs.append({"run": name, "numbers": numbers, "chain": contents})
        return {"file": str(self.file), "row": self.row, "runs": runs}


def why(file: Path, row: str | None) -> Why:
    """The chain of a recorded ``file``; of a table's CSV, the chains of all seeds of one ``row``.

    ``row`` is a number from 1 on, or ``column=value`` pairs or values alone with commas between them:
    ``3``, ``coupling=vae,nfe=2``, ``vae,nfe=2,seed=1``.

    Raises:
        UserError: the file has no record or another digest than recorded, ``row`` fits no row or several, or
            the chain is broken.
    """
    end = maker(Path(os.path.normpath(file)))
    if end is None:
        problem = "no record beside it names it" if file.exists() else "not there"
        raise UserError(f"{file}: {problem}; give a table's CSV or another file that a stage wrote")
    check_small_files(end)
    if end.stage == "published" and row is not None:
        return _of_published(file, row)
    if end.stage != "table":
        if row is not None:
            raise UserError(f"--row {row}: {file} is not a table's CSV")
        return Why(file, {}, [Run(str(end.content.get("run", end.stage)), {}, chain(end))])
    if file.suffix != ".csv":
        raise UserError(f"{file}: is made from a whole table; ask for a row of its CSV")
    with file.open() as text:
        rows = list(csv.DictReader(text))
    chosen, seed = _chosen(file, rows, row)
    runs = {str(run.chain[0].content["cell"]["seed"]): run for run in _runs(end, chosen)}
    if seed is not None and seed not in runs:
        raise UserError(f"--row {row}: the row has no seed {seed}; it has {', '.join(runs) or 'none'}")
    return Why(file, chosen, [*runs.values()] if seed is None else [runs[seed]])


def _of_published(file: Path, row: str) -> Why:
    """The chain of the measured number in a row of the table of published models."""
    with file.with_suffix(".csv").open() as text:
        rows = list(csv.DictReader(text))
    if not (row.isdecimal() and 1 <= int(row) <= len(rows)):
        raise UserError(f"--row {row}: {file} has rows 1 to {len(rows)}")
    chosen = rows[int(row) - 1]
    end = maker(Path(os.path.normpath(file.parent / chosen["score"]))) if chosen["score"] else None
    if end is None:
        raise UserError(f"--row {row}: {chosen['model']} with NFE {chosen['nfe']} is not measured")
    return Why(file, {}, [Run(chosen["model"], {"measured": float(chosen["measured"])}, chain(end))])


def _runs(table: Record, row: Mapping[str, str]) -> Iterator[Run]:
    """The runs of a row, with their numbers and chains."""
    for name in row["runs"].split():
        relative = table.content["evaluations"][f"{name} {row['extractor']}"]
        path = Path(os.path.normpath(table.path.parent / relative))
        record = maker(path)
        if record is None:
            raise UserError(f"{path}: not there or without its record; run `couplet evaluate` again")
        if record.outputs[path] != table.inputs[path]:
            raise UserError(f"{path}: is not what {table.path} was made from; run `couplet table` again")
        yield Run(name, numbers_of(path, row["nfe"]), chain(record))


def numbers_of(evaluation: Path, nfe: str) -> dict[str, float]:
    """The numbers of an NFE that a file of `couplet evaluate` holds, by metric in its features."""
    metrics, suffix = read_json(evaluation.with_suffix(".metrics.json")).items(), f"_nfe{nfe}"
    return {key.removesuffix(suffix): value for key, value in metrics if key.endswith(suffix)}


def _chosen(
    file: Path, rows: Sequence[dict[str, str]], wanted: str | None
) -> tuple[dict[str, str], str | None]:
    """The one row that ``wanted`` fits, and the seed that it asks for."""
    if wanted is None:
        if len(rows) == 1:
            return rows[0], None
        raise UserError(f"{file}: which row? --row N or --row COLUMN=VALUE,…: {_listed(rows, rows)}")
    if wanted.isdecimal():
        if 1 <= int(wanted) <= len(rows):
            return rows[int(wanted) - 1], None
        raise UserError(f"--row {wanted}: {file} has rows 1 to {len(rows)}")
    seed, fitting = None, rows
    for column, _, value in (part.strip().rpartition("=") for part in wanted.split(",")):
        if column == "seed":
            seed = value
        elif column and column not in NAMES:
            raise UserError(f"--row {wanted}: no column {column!r}; choose by {', '.join(NAMES)} or seed")
        else:
            columns = [column] if column else NAMES
            fitting = [row for row in fitting if value in (row[name] for name in columns)]
    if len(fitting) == 1:
        return fitting[0], seed
    problem = f"{len(fitting)} rows fit" if fitting else "no row fits"
    raise UserError(f"--row {wanted}: {problem}; {file} has {_listed(fitting or rows, rows)}")


def _listed(some: Sequence[dict[str, str]], rows: Sequence[dict[str, str]]) -> str:
    """Rows with their numbers, by the columns in which the rows of the table differ."""
    differing = [name for name in NAMES if len({row[name] for row in rows}) > 1]
    lines = []
    for row in some[:ROWS]:
        names = ",".join(f"{name}={row[name]}" for name in differing)
        lines.append(f"{rows.index(row) + 1} ({names})")
    return ", ".join(lines) + (", …" if len(some) > ROWS else "")


def described(answer: Why) -> Iterator[tuple[str, str]]:
    """Pairs of name and value for reading."""
    if row := answer.row:
        yield str(answer.file), " ".join(f"{name}={row[name]}" for name in NAMES if row[name])
        for column, value in row.items():
            if column.endswith("_mean") and value and (metric := column.removesuffix("_mean")):
                spread = row[f"{metric}_std"]
                yield metric, f"{value} ± {spread}" if spread else value
        yield "seeds", row["seeds"] + (f"; {row['missing']}" if row.get("missing") else "")
    chains = [{record.path for record in run.chain} for run in answer.runs]
    shared = set.intersection(*chains) if len(chains) > 1 else set()
    for run, own in zip(answer.runs, chains, strict=True):
        yield from (("", ""), ("run", run.name))
        if run.numbers:
            yield "numbers", ", ".join(f"{name} {value:.6g}" for name, value in run.numbers.items())
        yield from _described(run.chain, own - shared)
    if shared:
        yield from (("", ""), ("all runs", "from"))
        yield from _described(answer.runs[0].chain, shared)


def _described(records: Sequence[Record], chosen: set[Path]) -> Iterator[tuple[str, str]]:
    """Lines for the ``chosen`` records of a chain, each beginning with its stage."""
    for number, record in enumerate(records):
        if record.path in chosen:
            # `select` reads every snapshot, but the number is of one.
            later = [each for each in records[:number] if each.stage != "select"]
            lines = _lines(record, used={path for each in later for path in each.inputs})
            yield record.stage, next(lines)
            yield from (("", line) for line in lines)


def _lines(record: Record, used: set[Path]) -> Iterator[str]:
    """The files of a record that later stages used, with digests; key, commit, code and time; environment."""
    files = [path for path in record.outputs if path in used] or list(record.outputs)
    if len(files) > FILES:
        yield f"{os.path.commonpath(files)}: {len(files)} files"
    else:
        yield from (f"{path}  {record.outputs[path][:12]}" for path in files)
    content = record.content
    commit = f"commit {content['commit'][:10]}" if content["commit"] else "no repository"
    facts = [f"key {content['key']}", f"{commit} with changes" if content["dirty"] else commit]
    if changed := changed_code(record):
        facts.append(f"code has changed since, first in {changed[0]}")
    for proof in content.get("adopted", ()):
        facts.append(f"taken over from key {proof['key']} after {proof['steps']} replayed steps")
    yield ", ".join([*facts, f"{content['seconds']:.1f} s"])
    if record.stage == "prepare":
        card = read_json(next(path for path in record.outputs if path.name == "card.json"))
        yield f"{card['dataset']}: {card['source']}"
    if record.stage == "generate" and "source" in content["settings"]:
        yield "a model of others: " + ", ".join(
            " ".join(fact) for fact in content["settings"]["source"].items()
        )
    if record.stage == "train":
        device = content["cpu"] if content["device"] == "cpu" else content["device"]
        torch = content["packages"]["torch"]
        yield f"{device}, {content['threads']} threads, Python {content['python']}, torch {torch}"
