"""Commands that only read: parameters, runs, records, recipes."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import zip_longest
from pathlib import Path
from textwrap import TextWrapper
from typing import Annotated, Any

import typer

from couplet.cli import options as o
from couplet.config.cells import Training
from couplet.config.layers import leaves
from couplet.config.metrics import described
from couplet.config.resolve import resolve, settings_with_origins
from couplet.errors import UserError
from couplet.files import read_json
from couplet.plan.dvc import write_plan
from couplet.plan.layout import checkpoint_name
from couplet.plan.stages import record_of, training_in
from couplet.process import counted, shown, silent, start
from couplet.provenance import verify as verifying
from couplet.provenance import why as asking
from couplet.reporting.markdown import table as markdown_table


def check(
    params: o.Params = o.DEFAULT,
    scale: o.Scale = None,
    out: Annotated[
        Path | None,
        o.output("Folder for the settings and code of each stage of the experiment, for DVC.", folder=True),
    ] = None,
) -> None:
    """Check the parameter file and summarise it."""
    checked = resolve(params, scale)
    if out is not None:
        write_plan(checked, out)
    at = f" at scale {checked.scale}" if checked.scale else ""
    typer.echo(f"{params}{at}: experiment {checked.experiment}; table1 has {len(checked.cells())} cells")


@o.with_options(o.CELL | {"extractor": (o.Extractor, None)})
def settings(**cell: Any) -> None:
    """Print the resolved settings of a cell with the file or layer that each value is from."""
    rows = settings_with_origins(*o.chosen(**cell))
    table = ((key, json.dumps(value, ensure_ascii=False), origin) for key, value, origin in rows)
    print_table(table, ("setting", "value", "from"))


def show(
    path: Annotated[Path, typer.Argument(help="Folder of a run, or the .csv file of a table or figure.")],
) -> None:
    """Show the result of a run, a table or a figure, and where its files lie."""
    if path.suffix != ".csv":
        print_table(_contents(path))
    elif path.with_suffix(".md").exists():
        _show_table(path)
    else:
        _show_figure(path)


def _show_table(path: Path) -> None:
    """Print a table, the columns in which all rows agree on one line."""
    lines = path.with_suffix(".md").read_text().splitlines()
    heads, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    columns = [*zip(*rows, strict=True)]
    differ = [i for i, column in enumerate(columns) if len({*column}) > 1]
    common = (f"{heads[i]} {rows[0][i]}" for i, _ in enumerate(heads) if i not in differ and rows[0][i])
    typer.echo(f"{path}: {len(rows)} rows; {', '.join(common)}\n")
    print_table(([row[i] for i in differ] for row in rows), [heads[i] for i in differ])
    page, index = path.with_suffix(".html"), path.with_name("index.html")
    if page.exists() and index.exists() and index.samefile(page):
        page = index
    places = [("to read", page), ("pictures", path.with_suffix(".figures"))]
    typer.echo()
    print_table(
        [
            *((name, str(place)) for name, place in places if place.exists()),
            ("a number's origin", f"couplet why {path} --row 1"),
        ]
    )


def _show_figure(path: Path) -> None:
    """Print the claim of a study and what the numbers say of it."""
    caption = read_json(path.with_suffix(".json"))
    statements = ((statement["verdict"], str(statement["text"])) for statement in caption["statements"])
    picture = ("picture", str(path.with_suffix(".png")))
    print_table([("claim", caption["claim"]), *statements, picture])


def compare(runs: Annotated[list[Path], typer.Argument(help="Folders of two runs or more.")]) -> None:
    """Put runs side by side: the settings in which they differ, and their numbers."""
    if len(runs) < 2:
        raise UserError(f"couplet compare {runs[0]}: give the folders of two runs or more")
    columns = []
    for folder in runs:
        _, training, record = _run(folder)
        settings = {".".join(key): value for key, value in leaves(training.model_dump(mode="json"))}
        column = {key: json.dumps(value, ensure_ascii=False) for key, value in settings.items()}
        numbers = {"wall clock (s)": f"{record['seconds']:.1f}"}
        for file in sorted(folder.rglob("evaluation.json")):
            for row in read_json(file)["numbers"]:
                name = f"{row['metric']} ({row['extractor']}), NFE {row['nfe']}"
                numbers[name] = described(row["metric"]).text(row["value"])
        columns.append((column, numbers))
    differ = {
        key: None
        for column, _ in columns
        for key in column
        if len({other.get(key) for other, _ in columns}) > 1
    }
    named = [*differ, *dict.fromkeys(name for _, numbers in columns for name in numbers)]
    rows = [(name, *((column | numbers).get(name, "") for column, numbers in columns)) for name in named]
    print_table(rows, ("", *map(str, runs)))


def _run(folder: Path) -> tuple[Path, Training, dict[str, Any]]:
    """Folder, settings and record of the training in the folder of a run."""
    train = folder / "train"
    if not (train / "config.json").exists():
        partial = "; a run is unfinished" if (folder / "train.partial").exists() else ""
        raise UserError(f"{folder}: no run here, expected train/config.json{partial}")
    return train, training_in(train), read_json(record_of("train", train))


def _contents(folder: Path) -> Iterator[tuple[str, str]]:
    """Pairs of name and value, from configuration to metrics."""
    train, training, record = _run(folder)
    recipe, coupling = training.recipe, training.coupling.model_dump()
    yield "run", f"{training.cell}-{record['key']}"
    yield "coupling", " ".join([coupling.pop("kind"), *(f"{key}={value}" for key, value in coupling.items())])
    yield "training", f"{recipe.steps} steps of {recipe.batch} images, {recipe.network.kind}"
    speed = f"{record['seconds']:.1f} s of wall clock, {record['images_per_second']:.0f} images/s"
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
            yield f"{row['metric']}, NFE {row['nfe']}", described(row["metric"]).text(row["value"])
    if (folder / "samples.png").exists():
        yield "picture", str(folder / "samples.png")


def verify(folder: Annotated[Path, typer.Argument(help="Folder of a grid, an experiment or a run.")]) -> None:
    """Read every recorded file again and compare it with its record; exit code 1 if one differs.

    Prints a line for each file that is missing or has another SHA-256 than its record. Notes are no failure:
    files that no record names, and results of other code than is installed.
    """

    def counting(size: int) -> AbstractContextManager[Callable[[int], None]]:
        show = silent if size < 1 << 28 else shown
        return counted(show, f"verify {folder}, MiB", size, unit="MiB/s", size=1 << 20)

    findings = verifying.verify(folder, counting)
    for line in (*findings.problems, *(f"note: {note}" for note in findings.notes)):
        typer.echo(line)
    count = len(findings.problems)
    result = f"{count} problem{'s' if count > 1 else ''}" if count else "all as recorded"
    typer.echo(f"{folder}: {findings.files} files of {findings.records} records read: {result}")
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
        print_table(asking.described(answer))


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
        print_table(papers.settings(row), ("setting", "value", "source"), markdown)
        return
    listed = list(papers.rows(files, scale))
    lines = [papers.summary(row, tflops) for row in listed]
    print_table([list(line.values()) for line in lines], list(lines[0]), markdown)
    counts = ", ".join(f"{count} {table}" for table, count in Counter(row.table for row in listed).items())
    typer.echo(
        f"\n{len(listed)} rows ({counts}). GPU-hours are modelled: operations counted, "
        f"{tflops:g} TFLOP/s assumed. Column `assumed`: number of settings that no source states."
    )


def print_table(rows: Iterable[Sequence[str]], heads: Sequence[str] = (), markdown: bool = False) -> None:
    """Print rows below their heads, or as Markdown; nothing is cut.

    In a terminal that is too narrow, the second of two columns is folded; more columns become paragraphs.
    """
    if markdown:
        typer.echo(markdown_table(heads, rows), nl=False)
        return
    from rich.console import Console
    from rich.table import Table

    rows = list(rows)
    console = Console(width=None if sys.stdout.isatty() else 10_000, markup=False, emoji=False)
    widths = [max(map(len, column)) for column in zip(*filter(None, (heads, *rows)), strict=True)]
    fits = sum(widths) + 2 * len(widths) <= console.width
    if not fits and (len(widths) != 2 or widths[0] > console.width // 2):
        for cells in rows:
            named = (
                f"{head} {cell}".strip() for head, cell in zip_longest(heads, cells, fillvalue="") if cell
            )
            typer.echo(_paragraph(named, console.width))
        return
    table = Table(box=None, header_style="bold", pad_edge=False, show_header=bool(heads))
    for number in range(len(widths)):
        table.add_column(*heads[number : number + 1], no_wrap=number == 0, overflow="fold")
    for cells in rows:
        table.add_row(*cells)
    console.print(table, highlight=bool(heads))


def _paragraph(items: Iterable[str], width: int) -> str:
    """Items with semicolons between them; a line ends within an item only if it must, never in a word."""
    wrapper = TextWrapper(width - 1, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    lines: list[str] = []
    for item in items:
        if lines and len(lines[-1]) + len(item) + 3 <= width:
            lines[-1] += f"; {item}"
            continue
        if lines:
            lines[-1] += ";"
        lines += wrapper.wrap(f"  {item}" if lines else item)
    return "\n".join(lines)
