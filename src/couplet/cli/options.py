"""Options that commands share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any

import typer

from couplet.config.base import Invalid
from couplet.config.datasets import DatasetConfig
from couplet.config.resolve import dataset_names
from couplet.config.track import FORMS, Track
from couplet.config.variants import load_plugins
from couplet.errors import UserError
from couplet.plan.stages import dataset_in, record_of
from couplet.process import MOST_THREADS

DEFAULT = Path("params.yaml")


def checked_output(path: Path, shown: str, folder: bool) -> Path:
    """The path of an output; UserError, before any work, if no file or folder can be made there."""
    if path.name in ("", ".."):
        raise UserError(f"{shown}: must end in the name of a {'folder' if folder else 'file'}")
    above = next(each for each in path.absolute().parents if each.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"{shown}: {above} is no folder that can be written")
    if path.exists() and path.is_dir() != folder:
        found, wanted = ("a file", "folder") if folder else ("a folder", "file")
        raise UserError(f"{shown}: is {found}; give another {wanted}")
    return path


def output(help: str, *names: str, folder: bool, **more: Any) -> Any:
    """An option for a path to write, a ``folder`` or a file; ``--out`` unless it has other ``names``."""

    def checked(param: typer.CallbackParam, path: Path | None) -> Path | None:
        return None if path is None else checked_output(path, f"{param.opts[0]} {path}", folder)

    return typer.Option(*(names or ("--out", "-o")), help=help, callback=checked, **more)


Folder = Annotated[Path, output("Folder to write.", folder=True)]
File = Annotated[Path, output("File to write.", folder=False)]
Params = Annotated[Path, typer.Option("--params", help="The parameter file.")]
Scale = Annotated[str | None, typer.Option(help="A name from `scales`: another size of the same rows.")]
Extractor = Annotated[str | None, typer.Option(help="A name from `features`.")]
OwnParams = Annotated[
    Path | None,
    typer.Option(help="The parameter file; without one, the run's own settings and measuring defaults."),
]
Threads = Annotated[
    int | None,
    typer.Option(
        help="CPU threads of this process.", show_default="OMP_NUM_THREADS, or 1", min=1, max=MOST_THREADS
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Processes = Annotated[
    int,
    typer.Option(
        help="Processes that share the work: one for each GPU; 0: one, on the CPU.", min=0, max=MOST_THREADS
    ),
]
Data = Annotated[Path, typer.Option(help="Output of `couplet prepare`.")]


def device_of(given: str, gpus: int) -> str:
    """The device of a command whose parameter file has so many `gpus`: with none, `auto` is the CPU."""
    return "cpu" if given == "auto" and gpus == 0 else given


def track(text: str) -> Track:
    """A tracker that is given as ``text``; UserError, before any work, if it cannot be one."""
    try:
        found = Track.parse(text)
    except Invalid as error:
        raise UserError(f"--track {text}: {error.expected}") from None
    if found.in_folder:
        checked_output(Path(found.place), f"--track {found}", True)
    return found


Tracks = Annotated[
    list[Track] | None,
    typer.Option(
        "--track",
        parser=track,
        metavar="KIND[=PLACE]",
        help=f"Show curves and samples in a tracker, besides those of `track`: {', '.join(FORMS.values())}.",
    ),
]
Frozen = Annotated[
    Path | None,
    typer.Option(help="For a coupling with a `pretrained` predictor: the folder of that `couplet train`."),
]
Root = Annotated[Path, typer.Option(help="Folder of the grid's results.")]

Changes = Annotated[
    list[str] | None, typer.Option("--set", help="KEY=VALUE, as in `dvc exp run -S`; wins over the file.")
]

INSTEAD = {
    "scale": "give --scale NAME",
    "threads": "give --threads N",
    "gpus": "give --processes N",
    "table1": "a command of one cell has no table; give a file with --params",
    "study": "a command of one cell has no study; give a file with --params",
}
"""Advice for keys of a parameter file that are no settings of a cell."""

Options = dict[str, tuple[Any, Any]]
"""Annotation and default of options, by name."""

CELL: Options = {
    "params": (Params, DEFAULT),
    "scale": (Scale, None),
    "dataset": (Annotated[str | None, typer.Option(help="A name from `datasets`.")], None),
    "recipe": (Annotated[str | None, typer.Option(help="A name from `recipes`.")], None),
    "kernel": (Annotated[str | None, typer.Option(help="A name from `kernels`: ve or li.")], None),
    "coupling": (Annotated[str | None, typer.Option(help="A name from `couplings`.")], None),
    "seed": (Annotated[int | None, typer.Option(help="Training seed.")], None),
    "changes": (Changes, None),
}
"""The options that choose a cell of a parameter file."""


def with_options(options: Options) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command with ``**keywords`` these options in their place, after the required ones."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        given = signature(command, eval_str=True).parameters.values()
        own = [each.replace(kind=each.KEYWORD_ONLY) for each in given if each.kind != each.VAR_KEYWORD]
        more = [
            Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
            for name, (annotation, default) in options.items()
        ]
        every = sorted([*more, *own], key=lambda each: each.default is not each.empty)
        command.__signature__ = Signature(every)  # type: ignore[attr-defined]
        return command

    return decorate


def chosen(
    params: Path, scale: str | None, changes: list[str] | None, **names: str | int | None
) -> tuple[Path, str | None, list[str]]:
    """The parameter file, its scale and the changes of it, from the options of a cell."""
    for change in changes or ():
        if advice := INSTEAD.get(change.partition("=")[0].partition(".")[0]):
            raise UserError(f"--set {change}: {advice}")
    return params, scale, changes_of(changes, **names)


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
    if name in {*DatasetConfig.family, *dataset_names(params, scale)}:
        return []
    return [f"datasets={json.dumps({name: dataset_in(folder).model_dump(mode='json')})}"]


def changes_of(more: list[str] | None = None, **given: str | int | None) -> list[str]:
    """What is ``given``, such as a cell's names, as changes of a parameter file, and ``more`` of them."""
    return [*(f"{key}={value}" for key, value in given.items() if value is not None), *(more or ())]


def tracks(given: list[Track] | None, more: Iterable[str]) -> list[Track]:
    """The trackers of a command line, and ``more`` of a parameter file, each once."""
    return list(dict.fromkeys((*(given or ()), *map(track, more))))
