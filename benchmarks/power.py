"""How many seeds show a difference between two rows, from the runs of a pilot: what sizes of grids rest on.

    python benchmarks/power.py results/table1.csv --numbers benchmarks/results/pilot.csv \
        --json benchmarks/results/power.json
    python benchmarks/power.py benchmarks/results/pilot.csv
    python benchmarks/power.py results/paper/vct-kl.csv --than vae --size 0.5

Reads finished tables, whose records lead to the numbers of every seed and snapshot, or CSV files with a line
for each seed: those of studies, or of `--numbers`. Each row is compared with the one that `--than` names in
the same context, seed by seed: mean and spread of the paired differences, the correlation that pairing uses,
and the seeds with which an interval of the corrected level excludes 0 with 90 % probability, for the observed
difference and for given ones. Snapshots tell what fewer steps would give; they are of runs whose learning
rate falls later, so a run of that length does a little better. It takes a second.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import report

from couplet.plan.stages import beside
from couplet.reporting.intervals import paired, pairs_needed, simultaneous
from couplet.reporting.statements import DIMENSIONS

SELECTED = 0
"""In place of a step: the selected snapshot, with other samples."""
COLUMNS = (*DIMENSIONS, "seed", "nfe", "step", "value", "commit")


def of_table(path: Path) -> Iterator[dict[str, Any]]:
    """The Fréchet distances of a table's runs: of the selected snapshot, and of each by `select`."""
    for name in json.loads(beside(path).read_text())["inputs"]:
        file = path.parent / name
        if file.name == "evaluation.json":
            for number in json.loads(file.read_text())["numbers"]:
                if number["metric"] == "fd":
                    yield {**cell(file), "nfe": number["nfe"], "step": SELECTED, "value": number["value"]}
        if file.name == "selection.json":
            for score in json.loads(file.read_text())["scores"]:
                for key, value in score.items():
                    if key.startswith("fd_nfe"):
                        nfe = int(key.removeprefix("fd_nfe"))
                        yield {**cell(file), "nfe": nfe, "step": score["step"], "value": value}


def cell(file: Path) -> dict[str, Any]:
    """The names of the cell that a stage's output is of, and the commit that made it."""
    record = json.loads(beside(file).read_text())
    return {**record["cell"], "commit": record["commit"]}


def numbers_of(path: Path) -> pd.DataFrame:
    """A line for each cell, NFE and step, with the columns of :data:`COLUMNS`."""
    read = pd.read_csv(path)
    if "value" not in read:
        return pd.DataFrame(of_table(path))[[*COLUMNS]]
    if "against" in read:
        read = read[read["against"] == "steps"].assign(step=lambda rows: rows["x"].astype(int))
    defaults = {"nfe": 1, "step": SELECTED, "commit": ""}
    return read.assign(**{key: value for key, value in defaults.items() if key not in read})[[*COLUMNS]]


def comparisons(rows: pd.DataFrame, of: str, than: str) -> Iterator[tuple[dict[str, Any], list[list[float]]]]:
    """Each row with the one called ``than`` in the same context: names, and the values of the same seeds."""
    others = [key for key in (*DIMENSIONS, "nfe", "step") if key != of]
    for context, group in rows.groupby(others, sort=False):
        values = {name: each.set_index("seed")["value"] for name, each in group.groupby(of, sort=False)}
        for name in values:
            if name != than and than in values:
                both = pd.concat([values[name], values[than]], axis=1, join="inner")
                names = {of: name, "than": than, **dict(zip(others, context, strict=True))}
                yield names, both.to_numpy().T.tolist()


def power_of(
    names: dict[str, Any], pair: list[list[float]], level: float, sizes: Sequence[float]
) -> dict[str, Any]:
    """A comparison's spread, and the seeds that it takes."""
    first, second = pair
    result = paired(first, second, level)
    mean = sum(second) / len(second)
    return {
        **names,
        "pairs": result.size,
        "mean": sum(first) / len(first),
        "mean_than": mean,
        "difference": result.difference,
        "low": result.low,
        "high": result.high,
        "std": result.std,
        "correlation": pd.Series(first).corr(pd.Series(second)),
        "seeds_for_observed": pairs_needed(result.difference, result.std, level),
        **{f"seeds_for_{size:g}": pairs_needed(size * mean, result.std, level) for size in sizes},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", type=Path, nargs="+", help="tables, or CSV files with a line for each seed")
    parser.add_argument("--of", choices=DIMENSIONS, default="coupling", help="what the compared names are of")
    parser.add_argument("--than", default="independent", help="the name that others are compared with")
    parser.add_argument(
        "--size",
        type=float,
        nargs="*",
        default=[0.1, 0.25, 0.5],
        help="differences, in units of --than's mean",
    )
    parser.add_argument(
        "--statements", type=int, help="statements that hold at once; by default those printed"
    )
    parser.add_argument("--numbers", type=Path, help="write the numbers of all seeds as CSV")
    parser.add_argument("--json", type=Path, help="write the comparisons as JSON")
    arguments = parser.parse_args()
    rows = pd.concat([numbers_of(path) for path in arguments.paths]).drop_duplicates(
        [*DIMENSIONS, "seed", "nfe", "step"]
    )
    found = list(comparisons(rows, arguments.of, arguments.than))
    final = SELECTED if (rows["step"] == SELECTED).any() else rows["step"].max()
    level = simultaneous(arguments.statements or sum(names["step"] == final for names, _ in found))
    measured = [power_of(*each, level, arguments.size) for each in found]
    shown = pd.DataFrame(measured).drop(columns=["dataset", "than", "low", "high"], errors="ignore")
    print(f"intervals of {100 * level:.4g} %; step {SELECTED}: the selected snapshot")
    print(shown.to_string(index=False, float_format=lambda value: f"{value:.3g}"))
    if arguments.numbers:
        rows.to_csv(arguments.numbers, index=False, float_format="%.6g")
    if arguments.json:
        commits = sorted({*rows["commit"].dropna()} - {""})
        report.write(arguments.json, commits=commits, level=level, comparisons=measured)


if __name__ == "__main__":
    main()
