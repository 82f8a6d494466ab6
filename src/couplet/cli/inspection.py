"""Commands that only read: parameters, runs, records, recipes."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from couplet.cli import options as o
from couplet.config.resolve import resolve, settings_with_origins
from couplet.errors import UserError
from couplet.files import read_json
from couplet.plan.dvc import write_plan
from couplet.plan.layout import checkpoint_name
from couplet.plan.stages import record_of
from couplet.plan.stored import training_in
from couplet.process import counted, shown, silent, start
from couplet.provenance import verify as verifying
from couplet.provenance import why as asking


def check(
    params: o.Params = o.DEFAULT,
    scale: o.Scale = None,
    out: Annotated[
        Path | None,
        o.out("Folder for the settings and code of each stage of the experiment, for DVC."),
    ] = None,
) -> None:
    """Check the parameter file and summarise it."""
    checked = resolve(params, scale)
    if out is not None:
        write_plan(checked, out)
    at = f" at scale {checked.scale}" if checked.scale else ""
    typer.echo(f"{params}{at}: experiment {checked.experiment}; table1 has {len(checked.cells())} cells")


def settings(
    params: o.Params = o.DEFAULT,
    scale: o.Scale = None,
    dataset: o.Dataset = None,
    recipe: o.Recipe = None,
    kernel: o.Kernel = None,
    coupling: o.Coupling = None,
    extractor: o.Extractor = None,
    seed: o.Seed = None,
    changes: o.Changes = None,
) -> None:
    """Print the resolved settings of a cell with the file or layer that each value is from."""
    given = o.changes_of(
        changes,
        dataset=dataset,
        recipe=recipe,
        kernel=kernel,
        coupling=coupling,
        extractor=extractor,
        seed=seed,
    )
    rows = settings_with_origins(params, scale, given)
    table = ((key, json.dumps(value, ensure_ascii=False), origin) for key, value, origin in rows)
    print_table(("setting", "value", "from"), table)


def show(folder: Annotated[Path, typer.Argument(help="Folder of a run.")]) -> None:
    """Show the content of a run's folder: configuration, selected snapshot, metrics."""
    print_pairs(_contents(folder))


def _contents(folder: Path) -> Iterator[tuple[str, str]]:
    """Pairs of name and value, from configuration to metrics.

    Raises:
        UserError: the folder holds no run.
    """
    train = folder / "train"
    if not (train / "config.json").exists():
        partial = "; a run is unfinished" if (folder / "train.partial").exists() else ""
        raise UserError(f"{folder}: no run here, expected train/config.json{partial}")
    training, record = training_in(train), read_json(record_of("train", train))
    recipe, coupling = training.recipe, training.coupling.model_dump()
    yield "run", f"{training.cell}-{record['key']}"
    yield "coupling", " ".join([coupling.pop("kind"), *(f"{key}={value}" for key, value in coupling.items())])
    yield "training", f"{recipe.steps} steps of {recipe.batch} images, {recipe.network.kind}"
    speed = f"{record['seconds']:.1f} s, {record['images_per_second']:.0f} images/s"
    device = f"{record['device']} ({record['threads']} threads)"
    yield "took", f"{speed} on {device}, {record['parameters']:,} parameters"
    yield "commit", (record["commit"] or "no repository") + (" with changes" if record["dirty"] else "")
    checkpoints = {step: train / "checkpoints" / checkpoint_name(step) for step in training.snapshot_steps}
    saved = (str(step) for step, path in checkpoints.items() if path.exists())
    yield "snapshots", "after steps " + ", ".join(saved)
    for file in sorted(folder.rglob("evaluation.json")):
        evaluation = read_json(file)
        yield "measured in", str(file)
        yield "selected", f"step {evaluation['selected']['step']}"
        yield "features", evaluation["extractor"]
        yield "samples", str(evaluation["samples"]["count"])
        for row in evaluation["numbers"]:
            yield f"{row['metric']}, NFE {row['nfe']}", f"{row['value']:.4f}"
    if (folder / "samples.png").exists():
        yield "picture", str(folder / "samples.png")


def verify(folder: Annotated[Path, typer.Argument(help="Folder of a grid, an experiment or a run.")]) -> None:
    """Read every recorded file again and compare it with its record; exit code 1 if one differs.

    Prints a line for each file that is missing or has another SHA-256 than its record. Notes are no failure:
    files that no record names, and results of other code than is installed.
    """
    inventory = verifying.inventory(folder)
    show = silent if inventory.size < 1 << 28 else shown
    with counted(show, f"{folder}: verify, MiB", inventory.size, unit="MiB/s", size=1 << 20) as advance:
        findings = verifying.verify(inventory, advance)
    for line in (*findings.problems, *(f"note: {note}" for note in findings.notes)):
        typer.echo(line)
    count = len(findings.problems)
    result = f"{count} problem{'s' if count > 1 else ''}" if count else "all as recorded"
    typer.echo(f"{folder}: {len(inventory.files)} files of {len(inventory.records)} records read: {result}")
    raise typer.Exit(1 if count else 0)


def why(
    file: Annotated[Path, typer.Argument(help="A table's CSV, or a file that a stage wrote.")],
    row: Annotated[
        str | None, typer.Option(help="Of a table: 3, or coupling=vae,nfe=2, or vae,nfe=2,seed=1.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the complete records as JSON.")] = False,
) -> None:
    """Print the chain from a number to its checkpoint, configuration, data and commit."""
    answer = asking.why(file, row)
    if json_:
        typer.echo(json.dumps(answer.plain, indent=2))
    else:
        print_pairs(asking.described(answer))


def recipes(
    name: Annotated[
        str | None, typer.Argument(help="A row, `gc/cifar10-gc-ict-ve-ot`: all its settings, with sources.")
    ] = None,
    params: Annotated[
        list[Path] | None,
        typer.Option("--params", help="Parameter files.", show_default="params.yaml, workflow/papers/*.yaml"),
    ] = None,
    scale: o.Scale = None,
    tflops: Annotated[
        float, typer.Option(help="Throughput that GPU-hours assume, TFLOP/s; an H200 has 990 dense in bf16.")
    ] = 200.0,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
) -> None:
    """List the rows of the papers' tables, or print one with the source of every setting."""
    if not 0 < tflops < float("inf"):
        raise UserError(f"--tflops {tflops}: must be a positive number")
    files = params or [o.DEFAULT, *sorted(Path("workflow/papers").glob("*.yaml"))]
    start(1)
    from couplet import recipes as papers

    if name is not None:
        row = papers.find(files, name, scale)
        print_table(("setting", "value", "source"), papers.settings(row), markdown)
        return
    listed = list(papers.rows(files, scale))
    print_table(papers.SUMMARY, (papers.summary(row, tflops) for row in listed), markdown)
    counts = ", ".join(f"{count} {table}" for table, count in Counter(row.table for row in listed).items())
    typer.echo(
        f"\n{len(listed)} rows ({counts}). GPU-hours are modelled: operations counted, "
        f"{tflops:g} TFLOP/s assumed."
    )


def print_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """Print names and values in two columns."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    for pair in pairs:
        grid.add_row(*pair)
    _print(grid, highlight=False)


def print_table(heads: Sequence[str], rows: Iterable[Sequence[str]], markdown: bool = False) -> None:
    """Print a table, or the same as Markdown."""
    if markdown:
        for cells in (heads, ["---"] * len(heads), *rows):
            escaped = (cell.replace("|", r"\|") for cell in cells)
            typer.echo(f"| {' | '.join(escaped)} |")
        return
    from rich.table import Table

    table = Table(*heads, box=None, header_style="bold", pad_edge=False)
    for cells in rows:
        table.add_row(*cells)
    _print(table)


def _print(table: Any, highlight: bool | None = None) -> None:
    """Print as wide as a terminal, or uncut in a pipe."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 10_000
    Console(width=width, markup=False, emoji=False).print(table, highlight=highlight)
