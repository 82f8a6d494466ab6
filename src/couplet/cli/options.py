"""Options that commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Params = Annotated[Path, typer.Option("--params", help="The parameter file.")]
Scale = Annotated[str | None, typer.Option(help="A name from `scales`: another size of the same rows.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", help="KEY=VALUE, as in `dvc exp run -S`; wins over the file.")
]
Dataset = Annotated[str | None, typer.Option(help="A name from `datasets`.")]
Recipe = Annotated[str | None, typer.Option(help="A name from `recipes`.")]
Kernel = Annotated[str | None, typer.Option(help="A name from `kernels`: ve or li.")]
Coupling = Annotated[str | None, typer.Option(help="A name from `couplings`.")]
Extractor = Annotated[str | None, typer.Option(help="A name from `features`.")]
Seed = Annotated[int | None, typer.Option(help="Training seed.")]
OwnParams = Annotated[
    Path | None,
    typer.Option(help="The parameter file; without one, the run's own settings and measuring defaults."),
]
Threads = Annotated[int | None, typer.Option(help="CPU threads of this process.", min=1)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Processes = Annotated[int, typer.Option(help="As `torchrun --nproc-per-node`: one for each GPU.", min=1)]
Out = Annotated[Path, typer.Option(help="Where to write.")]
Live = Annotated[
    Path | None, typer.Option(help="Folder for a live view that DVC shows: curves, numbers, sample grids.")
]
TensorBoard = Annotated[Path | None, typer.Option(help="Folder for the live view as events of TensorBoard.")]
Frozen = Annotated[
    Path | None,
    typer.Option(help="For a coupling with a `pretrained` predictor: the folder of that `couplet train`."),
]
Root = Annotated[Path, typer.Option(help="Folder of the grid's results.")]

DEFAULT = Path("params.yaml")


def changes_of(more: list[str] | None = None, **given: str | int | None) -> list[str]:
    """What is ``given``, such as a cell's names, as changes of a parameter file, and ``more`` of them."""
    return [*(f"{key}={value}" for key, value in given.items() if value is not None), *(more or ())]
