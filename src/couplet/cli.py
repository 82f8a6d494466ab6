"""The command line: one subcommand per stage, and a few for people.

torch is imported inside the commands, so that ``couplet --help`` answers at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from couplet.errors import UserError

if TYPE_CHECKING:
    import torch

    from couplet.config import Cell, Measurement, Params, Training

app = typer.Typer(
    name="couplet",
    help="Train, sample and compare consistency models, stage by stage.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

ParamsFile = Annotated[Path, typer.Option("--params", help="The parameter file.")]
Dataset = Annotated[str | None, typer.Option(help="A name from `datasets`.")]
Recipe = Annotated[str | None, typer.Option(help="A name from `recipes`.")]
Kernel = Annotated[str | None, typer.Option(help="ve or li.")]
Coupling = Annotated[str | None, typer.Option(help="A name from `couplings`.")]
Seed = Annotated[int | None, typer.Option(help="Training seed.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads of this process.", min=1)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Data = Annotated[Path, typer.Option(help="Folder of `couplet prepare`.")]
Features = Annotated[Path, typer.Option(help="Folder of `couplet features`.")]
Reference = Annotated[Path, typer.Option(help="Folder of `couplet reference`.")]
Train = Annotated[Path, typer.Option(help="Folder of `couplet train`.")]
Out = Annotated[Path, typer.Option(help="Where to write.")]

DEFAULT_PARAMS = Path("params.yaml")


def _start(threads: int | None, device: str = "cpu") -> torch.device:
    """Holds torch to its threads and finds the device.

    Raises:
        UserError: the device is unknown or not there.
    """
    # Before torch is imported: a second OpenMP thread on a busy core slows every step many times.
    count = threads or int(os.environ.get("OMP_NUM_THREADS") or 1)
    os.environ["OMP_NUM_THREADS"] = str(count)
    import torch

    torch.set_num_threads(count)
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError):
        raise UserError(f"--device {device}: not on this machine; use auto, cpu or cuda") from None
    return chosen


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _params(path: Path) -> Params:
    from couplet.config import read_params

    return read_params(path)


def _cell(params: Params, **names: Any) -> Cell:
    """The experiment's cell with the given names in place of its own."""
    from couplet.config import Cell
    from couplet.config.base import validated

    given = {key: value for key, value in names.items() if value is not None}
    return validated(Cell, {**params.experiment.model_dump(), **given}, "command line")


def _settings(path: Path, **names: Any) -> tuple[Training, Measurement]:
    """What the cell of ``names`` is trained and measured with."""
    from couplet.config import Invalid

    params = _params(path)
    cell = _cell(params, **names)
    try:
        return params.training(cell), params.measurement(cell)
    except Invalid as error:
        raise UserError(f"{path}: {error}") from None


def _dataset(params: Params, path: Path, name: str | None) -> str:
    """The data set of that name, or the experiment's."""
    from couplet.config import Invalid

    try:
        return params.dataset_named(name or params.dataset)
    except Invalid as error:
        raise UserError(f"{path}: {error}") from None


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"couplet {installed('couplet')}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def check(
    params: ParamsFile = DEFAULT_PARAMS,
    out: Annotated[Path | None, typer.Option(help="Folder for the experiment's resolved settings.")] = None,
) -> None:
    """Check the parameter file and say what it describes."""
    checked = _params(params)
    if out is not None:
        from couplet.stages.check import write_settings

        write_settings(checked, out)
    cells = len(list(checked.table1.cells()))
    typer.echo(f"{params}: experiment {checked.experiment}; table1 has {cells} cells")


@app.command()
def prepare(out: Out, params: ParamsFile = DEFAULT_PARAMS, dataset: Dataset = None) -> None:
    """Write a data set as an archive of arrays with a card."""
    checked = _params(params)
    name = _dataset(checked, params, dataset)
    _start(1)
    from couplet.stages.prepare import prepare as stage

    card = stage(checked, name, out)
    counts = ", ".join(f"{count} {split}" for split, count in card.counts.items())
    typer.echo(f"{out}: {name}, {'×'.join(map(str, card.shape))}, {counts} images")


@app.command()
def features(
    data: Data,
    out: Out,
    params: ParamsFile = DEFAULT_PARAMS,
    dataset: Dataset = None,
    threads: Threads = None,
) -> None:
    """Train the classifier whose features measure a data set."""
    checked = _params(params)
    name = _dataset(checked, params, dataset)
    _start(threads)
    from couplet.stages.features import features as stage

    card = stage(checked, name, data, out)
    typer.echo(f"{out}: {card['test_accuracy']:.1%} of test images right, {card['sha256'][:8]}")


@app.command()
def reference(
    data: Data, features: Features, out: Out, threads: Threads = None, device: Device = "auto"
) -> None:
    """Write features and moments of the real images, a file per split."""
    chosen = _start(threads, device)
    from couplet.stages.reference import reference as stage

    stage(data, features, out, chosen)
    typer.echo(f"{out}: reference statistics")


@app.command()
def train(
    data: Data,
    out: Out,
    params: ParamsFile = DEFAULT_PARAMS,
    dataset: Dataset = None,
    recipe: Recipe = None,
    kernel: Kernel = None,
    coupling: Coupling = None,
    seed: Seed = None,
    threads: Threads = None,
    device: Device = "auto",
) -> None:
    """Train one cell; started again after an interruption, go on from its last state."""
    settings, _ = _settings(
        params, dataset=dataset, recipe=recipe, kernel=kernel, coupling=coupling, seed=seed
    )
    chosen = _start(threads, device)
    from couplet.progress import training_progress
    from couplet.stages.train import train as stage

    with training_progress(str(settings.cell), settings.recipe.steps) as report:
        stage(settings, data, out, chosen, report, _say)
    typer.echo(f"{out}: {settings.cell}, {settings.recipe.steps} steps")


@app.command()
def select(
    train: Train,
    features: Features,
    reference: Reference,
    out: Out,
    params: ParamsFile = DEFAULT_PARAMS,
    dataset: Dataset = None,
    recipe: Recipe = None,
    kernel: Kernel = None,
    coupling: Coupling = None,
    seed: Seed = None,
    threads: Threads = None,
    device: Device = "auto",
) -> None:
    """Score every snapshot on the test split and name the best."""
    settings, measurement = _settings(
        params, dataset=dataset, recipe=recipe, kernel=kernel, coupling=coupling, seed=seed
    )
    chosen = _start(threads, device)
    from couplet.progress import counting
    from couplet.stages.select import images_to_select
    from couplet.stages.select import select as stage

    images = images_to_select(settings, measurement)
    with counting(f"{settings.cell}: select", images) as advance:
        best = stage(settings, measurement, train, features, reference, out, chosen, advance)
    typer.echo(f"{out}: step {best.step}, Fréchet distance {best.fd[measurement.select.nfe]:.3f}")


@app.command()
def sample(
    train: Train,
    selection: Annotated[Path, typer.Option(help="File of `couplet select`.")],
    out: Out,
    params: ParamsFile = DEFAULT_PARAMS,
    dataset: Dataset = None,
    recipe: Recipe = None,
    kernel: Kernel = None,
    coupling: Coupling = None,
    seed: Seed = None,
    threads: Threads = None,
    device: Device = "auto",
) -> None:
    """Generate images from the selected snapshot."""
    settings, measurement = _settings(
        params, dataset=dataset, recipe=recipe, kernel=kernel, coupling=coupling, seed=seed
    )
    chosen = _start(threads, device)
    from couplet.progress import counting
    from couplet.stages.sample import sample as stage

    with counting(f"{settings.cell}: sample", measurement.sample.samples) as advance:
        stage(settings, measurement, train, selection, out, chosen, advance)
    wanted = ", ".join(map(str, measurement.sample.nfe))
    typer.echo(f"{out}: {measurement.sample.samples} images for each NFE of {wanted}")


@app.command()
def evaluate(
    train: Train,
    selection: Annotated[Path, typer.Option(help="File of `couplet select`.")],
    samples: Annotated[Path, typer.Option(help="Folder of `couplet sample`.")],
    features: Features,
    reference: Reference,
    out: Out,
    params: ParamsFile = DEFAULT_PARAMS,
    dataset: Dataset = None,
    recipe: Recipe = None,
    kernel: Kernel = None,
    coupling: Coupling = None,
    seed: Seed = None,
    threads: Threads = None,
    device: Device = "auto",
) -> None:
    """Compare samples with the training split: Fréchet distance and KID."""
    settings, measurement = _settings(
        params, dataset=dataset, recipe=recipe, kernel=kernel, coupling=coupling, seed=seed
    )
    chosen = _start(threads, device)
    from couplet.stages.evaluate import evaluate as stage

    metrics = stage(settings, measurement, train, selection, samples, features, reference, out, chosen)
    typer.echo(f"{out}: " + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))


@app.command()
def table(
    out: Out,
    params: ParamsFile = DEFAULT_PARAMS,
    root: Annotated[Path, typer.Option(help="Folder of the grid's results.")] = Path("results"),
) -> None:
    """Write the grid's table (CSV and Markdown) and its figures."""
    from couplet.stages.table import table as stage

    rows = stage(_params(params), root, out)
    typer.echo(f"{out}: {len(rows)} rows")


@app.command()
def run(
    out: Annotated[Path, typer.Option(help="Folder for everything this run makes.")],
    params: ParamsFile = DEFAULT_PARAMS,
    dataset: Dataset = None,
    recipe: Recipe = None,
    kernel: Kernel = None,
    coupling: Coupling = None,
    seed: Seed = None,
    steps: Annotated[int | None, typer.Option(help="Training steps.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images per training step.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE, as in `dvc exp run -S`.")
    ] = None,
    threads: Threads = None,
    device: Device = "auto",
) -> None:
    """Run one cell ad hoc, from data to numbers and a picture, into one folder."""
    from couplet.config.changes import changed_params

    names = {
        "dataset": dataset,
        "recipe": recipe,
        "kernel": kernel,
        "coupling": coupling,
        "seed": seed,
    }
    checked = changed_params(params, names, {"steps": steps, "batch": batch}, set_ or [], out)
    chosen = _start(threads, device)
    from couplet.adhoc import run_cell

    run_cell(checked, out, chosen, _say)
    show(out)


@app.command()
def show(folder: Annotated[Path, typer.Argument(help="Folder of a run.")]) -> None:
    """Show what a run folder holds: configuration, selected checkpoint, metrics."""
    from rich.console import Console
    from rich.table import Table

    from couplet.stages.show import contents

    grid = Table.grid(padding=(0, 2))
    for name, value in contents(folder):
        grid.add_row(name, value)
    Console().print(grid)


@app.command("import-edm")
def import_edm(
    file: Annotated[Path, typer.Argument(help="A network snapshot (.pkl) of EDM or EDM2.")],
    out: Annotated[Path, typer.Option(help="The safetensors file to write.")],
) -> None:
    """Turn a published EDM or EDM2 snapshot into safetensors, without executing any of it."""
    _start(1)
    from couplet.stages.import_edm import import_edm as stage

    typer.echo(str(stage(file, out)))


def main() -> None:
    """The console script: errors of the user's become one line on stderr and exit code 2."""
    try:
        code = typer.main.get_command(app)(standalone_mode=False)
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename or 'input or output'}: {error.strerror or error}")
    except typer.Abort:
        sys.exit(130)
    except Exception as error:
        # Usage errors of click, whichever copy of click typer carries.
        if not hasattr(error, "format_message"):
            raise
        _fail(error.format_message())
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str) -> None:
    print(f"couplet: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
