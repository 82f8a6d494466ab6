"""Puts the pipeline's table and pictures into README.md: `make readme`."""

import re
import shutil
from collections.abc import Container
from pathlib import Path

FIGURES = Path("docs/figures")
STUDIES = ("vct-fig1",)
"""Figures of studies that the documentation shows."""
UNREAD = ("data set", "scale", "recipe", "kernel", "step (ms)", "images/s", "features", "compared with")
"""Columns that README.md leaves out: its text has them, or they follow from others."""


def between(text: str, name: str, content: str) -> str:
    """``text`` with ``content`` between the comments ``name`` and ``/name``."""
    pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
    return re.sub(pattern, lambda found: f"{found[1]}\n{content}\n{found[2]}", text, flags=re.S)


def narrowed(table: str, unread: Container[str]) -> str:
    """A Markdown table without the columns of the headings ``unread``."""
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table.strip().splitlines()]
    kept = [i for i, heading in enumerate(rows[0]) if heading.strip() not in unread]
    return "\n".join(f"|{'|'.join(row[i] for i in kept)}|" for row in rows)


def main() -> None:
    readme, results = Path("README.md"), Path("results")
    FIGURES.mkdir(parents=True, exist_ok=True)
    for study in STUDIES:
        shutil.copyfile(results / f"paper/{study}.png", FIGURES / f"{study}.png")
    pictures = []
    for figure in sorted(results.glob("table1.figures/*.png"), reverse=True):
        kept = FIGURES / f"table1-{figure.name}"
        shutil.copyfile(figure, kept)
        pictures.append(f"![{kept.stem}]({kept})")
    table = narrowed((results / "table1.md").read_text(), UNREAD)
    shown = "\n\n".join([*pictures[:1], table, *pictures[1:]]) + "\n"
    readme.write_text(between(readme.read_text(), "results", shown))


if __name__ == "__main__":
    main()
