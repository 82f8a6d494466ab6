"""Puts the pipeline's table and pictures, and the modelled costs, into README.md: `make readme`."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

FIGURES = Path("docs/figures")


def between(text: str, name: str, content: str) -> str:
    """``text`` with ``content`` between the comments ``name`` and ``/name``."""
    pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
    return re.sub(pattern, lambda found: f"{found[1]}\n{content}\n{found[2]}", text, flags=re.S)


def main() -> None:
    readme, results = Path("README.md"), Path("results")
    FIGURES.mkdir(parents=True, exist_ok=True)
    pictures = []
    for figure in sorted(results.glob("figures/table1-*.png"), reverse=True):
        shutil.copyfile(figure, FIGURES / figure.name)
        pictures.append(f"![{figure.stem}]({FIGURES / figure.name})")
    table = (results / "table1.md").read_text()
    done = subprocess.run([sys.executable, "benchmarks/cost.py"], capture_output=True, text=True, check=True)
    text = between(
        readme.read_text(), "results", "\n\n".join([*pictures[:1], table.strip(), *pictures[1:]]) + "\n"
    )
    readme.write_text(between(text, "cost", done.stdout))


if __name__ == "__main__":
    main()
