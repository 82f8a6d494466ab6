"""Write the table of studies into docs/results.md."""

import re
from pathlib import Path

from couplet.config.networks import MLPConfig
from couplet.config.resolve import resolve
from couplet.config.study import PAPERS, ProbeFigureConfig

PAGE = Path("docs/results.md")
HEAD = """| paper | result | title | target | figure | default scale |
| --- | --- | --- | --- | --- | --- |
"""


def row(path: Path) -> tuple[tuple[int, int], str]:
    """A study's place in the table, and its line."""
    params = resolve(path)
    study, cell = params.study, params.cells()[0]
    assert study is not None, path
    network = "MLP" if isinstance(params.training(cell).recipe.network, MLPConfig) else "U-Net"
    figure = study.figure.kind
    if isinstance(study.figure, ProbeFigureConfig):
        figure += f" of {study.figure.probe}"
    cells = (
        "beyond" if study.paper == "couplet" else study.paper,
        study.result,
        study.title,
        f"`results/paper/{path.stem}.csv`",
        figure,
        f"{cell.dataset}, {network}",
    )
    return ([*PAPERS].index(study.paper), study.order), f"| {' | '.join(cells)} |\n"


def page(text: str, studies: Path) -> str:
    """``text`` with the table of ``studies`` between its markers."""
    rows = sorted(row(path) for path in studies.glob("[!_]*.yaml"))
    table = HEAD + "".join(line for _, line in rows)
    return re.sub(
        r"(<!-- studies.*? -->\n).*?(<!-- /studies -->)", rf"\1\n{table}\n\2", text, flags=re.DOTALL
    )


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(), Path("workflow/studies")))
