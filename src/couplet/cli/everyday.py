"""Commands outside the pipeline: a single run, its live view, adoption of a run, import of weights."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from couplet.cli import options as o
from couplet.cli.inspection import print_table, show
from couplet.config.resolve import resolve, standalone
from couplet.errors import UserError
from couplet.files import locked
from couplet.process import process, start


@o.with_options(o.CELL | {"extractor": (o.Extractor, None)})
def run(
    out: Annotated[Path, o.output("Folder for all results of this run.", folder=True)],
    steps: Annotated[int | None, typer.Option(help="Training steps.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images per training step.")] = None,
    track: o.Tracks = None,
    threads: o.Threads = None,
    device: o.Device = "auto",
    **cell: Any,
) -> None:
    """Run one cell ad hoc, from data to numbers and a picture, into one folder."""
    params, scale, changes = o.chosen(**cell)
    name = cell["dataset"]
    changes = [*o.from_prepared(name, Path("data", name or ""), params, scale), *changes]
    recipe = resolve(params, scale, changes).recipe
    changes += [f"recipes.{recipe}.{change}" for change in o.changes_of(steps=steps, batch=batch)]
    checked = resolve(params, scale, changes)
    text, tracks = standalone(params, scale, changes), o.tracks(track, checked.track)
    size = checked.training(checked.experiment).recipe
    # Before torch is imported, which takes seconds.
    typer.echo(f"{out}: {checked.experiment}, {size.steps} steps of {size.batch} images")
    with process(threads, o.device_of(device, checked.gpus)) as context:
        from couplet.adhoc import run_cell

        with locked(out.absolute().with_name(f"{out.absolute().name}.lock"), context.say):
            run_cell(context, checked, out, text=text, tracks=tracks)
    show(out)
    quoted = shlex.quote(str(out))
    typer.echo()
    print_table(
        [
            ("next", f"couplet why {quoted}/evaluation.json"),
            ("", f"couplet verify {quoted}"),
            ("", f"couplet run --params {quoted}/params.yaml --seed 1 --out {quoted}-s1"),
        ]
    )


def watch(
    train: Annotated[Path, typer.Argument(help="Output folder of a `couplet train` at work.")],
    track: o.Tracks = None,
    every: Annotated[float, typer.Option(help="Seconds between updates.")] = 10.0,
    threads: o.Threads = None,
    device: o.Device = "cpu",
) -> None:
    """Show the run of another process, on another node or under Snakemake, until it is finished."""
    if not track:
        raise UserError(f"couplet watch: give --track with one of {', '.join(o.FORMS.values())}")
    if not 0.1 <= every <= 86400:
        raise UserError(f"--every {every}: must lie between 0.1 and 86400 seconds")
    with process(threads, device) as context:
        from couplet.live import follow

        follow(train, track, context, every)
        typer.echo(f"{train}: finished")


def adopt(
    folder: Annotated[
        Path, typer.Argument(help="A run of earlier code: a folder of `couplet train`, or its .partial.")
    ],
    data: o.Data,
    out: Annotated[
        Path | None,
        o.output(
            "The run under its new key.", folder=True, show_default="beside it in a grid, else in place"
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps to replay, at most.", min=1, max=1_000_000_000)] = 50,
    frozen: o.Frozen = None,
    threads: o.Threads = None,
    device: o.Device = "auto",
) -> None:
    """Take a run over to today's code, if that code reproduces the losses of its first steps.

    The steps are replayed from the run's own settings. On the same kind of machine every scalar must be equal
    to the last bit, elsewhere to a relative 1e-4. The record keeps the proof.
    """
    with process(threads, device) as context:
        from couplet.adopt import adopt as take_over

        run = folder.absolute().with_name(folder.absolute().name.removesuffix(".partial"))
        with locked(run.with_name(f"{run.name}.lock"), context.say):
            typer.echo(take_over(context, folder, data=data, out=out, steps=steps, frozen=frozen))


def import_(
    source: Annotated[str, typer.Argument(help="A file, a folder, or owner/name on the Hugging Face hub.")],
    out: Annotated[Path, o.output("The safetensors file to write.", folder=False)],
    weights: Annotated[
        str | None, typer.Option(help="Which of the file's weights; default: those the authors evaluate.")
    ] = None,
    head_channels: Annotated[
        int | None, typer.Option(min=1, help="Channels of an attention head, where the file does not tell.")
    ] = None,
    resolution: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Height of the images, where the file does not tell.")
    ] = None,
    mid_sigma: Annotated[
        list[float] | None,
        typer.Option(min=1e-6, max=1e6, help="Level of a further evaluation; repeat."),
    ] = None,
) -> None:
    """Turn a published model into a file of couplet, without executing any of it.

    Families: EDM, EDM2, ECT, TCM, CMT, VCT, GC, OpenAI's consistency models, diffusers' pipelines of them.
    """
    start(1)
    from couplet.interop.convert import Options, import_model

    mid = None if mid_sigma is None else tuple(mid_sigma)
    typer.echo(import_model(source, out, Options(weights, head_channels, resolution, mid)))


def init(
    folder: Annotated[Path, typer.Argument(help="Folder of the project; new, or empty.")],
) -> None:
    """Begin a project of your own: Snakefile, dvc.yaml, params.yaml, workflow/ and a README."""
    from couplet.project import create

    entries = create(o.checked_output(folder, f"folder {folder}", folder=True))
    typer.echo(f"{folder}: {', '.join(entries)}\n")
    print_table(
        [
            ("next", f"cd {shlex.quote(str(folder))}"),
            ("", "snakemake --cores all results/table1-smoke.csv"),
            ("to read", f"{folder}/README.md"),
        ]
    )
