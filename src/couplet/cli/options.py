"""Options that commands share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from couplet.config.datasets import DatasetConfig
from couplet.config.resolve import resolved_content
from couplet.config.variants import load_plugins
from couplet.errors import UserError
from couplet.plan.stages import record_of
from couplet.plan.stored import dataset_in

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


def _with_name(path: Path | None) -> Path | None:
    """Refuse a path such as `/` or `.`, beside which a record cannot be written."""
    if path is not None and path.name in ("", ".."):
        raise UserError(f"--out = {path}: must end in the name of a file or folder")
    return path


def out(text: str, **more: Any) -> Any:
    """The option `--out`, a file or folder to write."""
    return typer.Option("--out", help=text, callback=_with_name, **more)


Out = Annotated[Path, out("Where to write.")]


def from_prepared(name: str | None, folder: Path, params: Path, scale: str | None) -> list[str]:
    """The change that makes a data set of that name known, if only `couplet prepare` knows it.

    Args:
        name: the data set.
        folder: its archive, whose record has its settings.
        params: the parameter file, which may know it already.
        scale: a name from its `scales`.
    """
    if name is None or not record_of("prepare", folder).exists():
        return []
    load_plugins()
    content = resolved_content(params, scale)
    known = (content.get("datasets") if isinstance(content, Mapping) else None) or {}
    if name in DatasetConfig.family or not isinstance(known, Mapping) or name in known:
        return []
    return [f"datasets={json.dumps({name: dataset_in(folder).model_dump(mode='json')})}"]


def changes_of(more: list[str] | None = None, **given: str | int | None) -> list[str]:
    """What is ``given``, such as a cell's names, as changes of a parameter file, and ``more`` of them."""
    return [*(f"{key}={value}" for key, value in given.items() if value is not None), *(more or ())]
