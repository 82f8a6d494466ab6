"""Write the index of all results into docs/results.md, and the table of other systems into docs/field.md."""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from couplet.config.networks import UNetConfig
from couplet.config.resolve import resolve
from couplet.config.study import PAPERS
from couplet.reporting.markdown import table

ITEMS = Path(__file__).with_name("results.yaml")
HEAD = ("paper", "item", "content", "target", "runs on")
ANSWERS = ("study", "table", "missing")
"""The keys of a line of results.yaml, of which it has exactly one."""


def items() -> Iterator[tuple[str, Mapping[str, str]]]:
    """The lines of results.yaml, each with its paper.

    Raises:
        ValueError: a paper is unknown, or a line has not exactly one answer, or an unknown key.
    """
    for paper, lines in yaml.safe_load(ITEMS.read_text(encoding="utf-8")).items():
        for line in lines:
            answers = [key for key in ANSWERS if line.get(key)]
            named = answers == ["study"] or {"item", "content"} <= line.keys()
            known = paper in PAPERS and line.keys() <= {"item", "content", *ANSWERS}
            if not (known and named and len(answers) == 1):
                need = f"must have an item, a content and one of {', '.join(ANSWERS)}"
                raise ValueError(f"{ITEMS.name}: {paper}: {line}: {need}")
            yield paper, line


def row(paper: str, line: Mapping[str, Any], workflow: Path) -> Sequence[str]:
    """A row of the table."""
    item, content = line.get("item"), line.get("content")
    if "missing" in line:
        target, place = "–", f"could not be sourced: {line['missing']}"
    elif "table" in line:
        resolve(workflow / "papers" / f"{line['table']}.yaml")
        target, place = f"`results/{line['table']}.csv`", "needs a GPU"
    else:
        params = resolve(workflow / "studies" / f"{line['study']}.yaml")
        assert params.study is not None, line
        item, content = item or params.study.result, params.study.title
        cell = params.cells()[0]
        network = params.training(cell).recipe.network
        target = f"`results/paper/{line['study']}.csv`"
        place = f"CPU: {cell.dataset}, {'U-Net' if isinstance(network, UNetConfig) else 'MLP'}"
    return "beyond" if paper == "couplet" else paper, str(item), str(content), target, place


def index(workflow: Path) -> str:
    """The table of docs/results.md."""
    return table(HEAD, (row(paper, line, workflow) for paper, line in items()))


def field(path: Path) -> str:
    """The table of docs/field.md: the columns and lines of ``path``."""
    with path.open(encoding="utf-8") as file:
        head, *lines = csv.reader(file)
    return table(head, lines)


def page(text: str, name: str, table: str) -> str:
    """``text`` with ``table`` between the markers of that name."""
    pattern = rf"(<!-- {name}:.*? -->\n).*?(<!-- /{name} -->)"
    return re.sub(pattern, lambda found: f"{found[1]}\n{table}\n{found[2]}", text, flags=re.DOTALL)


def pages(root: Path) -> Iterator[tuple[Path, str]]:
    """The two pages, each with its new text."""
    tables = {
        "results": ("studies", index(root / "workflow")),
        "field": ("field", field(root / "src/couplet/reporting/field.csv")),
    }
    for document, (name, text) in tables.items():
        path = root / f"docs/{document}.md"
        yield path, page(path.read_text(encoding="utf-8"), name, text)


if __name__ == "__main__":
    for document, text in pages(Path()):
        document.write_text(text, encoding="utf-8")
