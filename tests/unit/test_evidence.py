"""docs/evidence/ is whole: table, records, scores, pictures, parameter file and page agree with one another.

They need not agree with the present code: what was run stays true when keys and formats change.
"""

import csv
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from couplet.cli.app import app

EVIDENCE = Path(__file__).parents[2] / "docs/evidence"
FOLDERS = sorted(path.parent for path in EVIDENCE.glob("*/table1.csv"))
PAGE = (EVIDENCE / "README.md").read_text(encoding="utf-8")

folders = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def content(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def rows(folder: Path) -> Iterator[dict[str, str]]:
    """The rows of a table that have numbers."""
    with (folder / "table1.csv").open(encoding="utf-8", newline="") as file:
        yield from (row for row in csv.DictReader(file) if row["runs"])


def within(part: Any, whole: Any) -> bool:
    """Whether every setting of ``part`` stands in ``whole``."""
    if isinstance(part, dict):
        return all(key in whole and within(value, whole[key]) for key, value in part.items())
    return bool(part == whole)


@pytest.mark.parametrize("params", sorted(EVIDENCE.glob("*.yaml")), ids=lambda path: path.stem)
def test_parameter_file_is_accepted(params: Path) -> None:
    result = CliRunner().invoke(app, ["check", "--params", str(params)])
    assert result.exit_code == 0, result.exception


@folders
def test_files_have_the_digests_of_the_records(folder: Path) -> None:
    """And every file is named by a record, or is one."""
    records = {path for path in folder.rglob("*") if path.name.endswith("record.json")}
    named = set()
    for record in records:
        recorded = content(record)
        for name, digest in {**recorded["inputs"], **recorded["outputs"]}.items():
            path = (record.parent / name).resolve()
            named.add(path)
            if path.is_file() and path.is_relative_to(folder):
                assert hashlib.sha256(path.read_bytes()).hexdigest() == digest, path
    assert {path for path in folder.rglob("*") if path.is_file()} <= records | named


def test_page_quotes_digests_of_the_records() -> None:
    quoted = re.findall(r"`([0-9a-f]{16})`…", PAGE)
    texts = [path.read_text(encoding="utf-8") for path in EVIDENCE.rglob("*record.json")]
    assert not texts or all(any(f'"{digest}' in text for text in texts) for digest in quoted)


@folders
def test_every_number_of_the_table_is_the_mean_of_scores(folder: Path) -> None:
    columns = [column for column in next(rows(folder)) if column.endswith("_mean")]
    assert columns
    for row in rows(folder):
        runs = row["runs"].split()
        assert len(runs) == int(row["seeds"].split()[0])
        scores = [content(path) for run in runs for path in folder.glob(f"runs/{run}/*/evaluation.json")]
        assert len(scores) == len(runs)
        for column in columns:
            metric, _, extractor = column.removesuffix("_mean").rpartition("_")
            wanted = {"metric": metric, "extractor": extractor, "nfe": int(row["nfe"])}
            numbers = [number for score in scores for number in score["numbers"]]
            found = [number["value"] for number in numbers if within(wanted, number)]
            _, _, places = row[column].partition(".")
            assert row[column] == f"{mean(found):.{len(places)}f}"


@folders
def test_runs_have_the_settings_of_the_parameter_file(folder: Path) -> None:
    params = yaml.safe_load((EVIDENCE / f"{folder.name}.yaml").read_text(encoding="utf-8"))
    grid = params["table1"]
    cells = set()
    for path in folder.glob("runs/*/train/record.json"):
        record = content(path)
        cell, settings = record["cell"], record["settings"]
        recipe = dict(params["recipes"][cell["recipe"]])
        for measuring in ("mid_sigmas", "boundary"):
            recipe.pop(measuring)
        assert within(recipe, settings["recipe"])
        assert within(params["couplings"][cell["coupling"]], settings["coupling"])
        assert len(settings["train"]["snapshots"]) == params["train"]["snapshots"]
        assert cell["dataset"] in grid["datasets"]
        assert not record["dirty"]
        cells.add((cell["coupling"], cell["seed"]))
    assert cells <= {(coupling, seed) for coupling in grid["couplings"] for seed in grid["seeds"]}
    assert len(cells) == sum(int(row["seeds"].split()[0]) for row in rows(folder) if row["nfe"] == "1")


@folders
def test_page_shows_the_table_its_pictures_and_the_commit(folder: Path) -> None:
    name = folder.name
    shown = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", PAGE, re.DOTALL)
    assert shown
    for row in rows(folder):
        numbers = [value for column, value in row.items() if column.endswith("_mean")]
        assert any(all(f" {number} " in line for number in numbers) for line in shown[1].splitlines()), row
    pictures = {EVIDENCE / path for path in re.findall(r"!\[.*?\]\((.*?)\)", shown[1])}
    assert pictures == {*folder.glob("*.figures/*.png")}
    params = yaml.safe_load((EVIDENCE / f"{name}.yaml").read_text(encoding="utf-8"))
    for picture in pictures:
        assert picture.stat().st_size < 300_000 * params["datasets"][name]["channels"]
    commits = {content(path)["commit"] for path in folder.glob("runs/*/train/record.json")}
    assert {commit for commit in commits if commit[:7] not in PAGE} == set()
