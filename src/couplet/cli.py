"""The command line: one subcommand per stage, and a few for people.

torch is imported inside the commands, so that ``couplet --help`` answers at once.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from couplet.errors import Stopped, UserError

if TYPE_CHECKING:
    import torch

    from couplet.config import Cell, Measurement, Params, Training
    from couplet.config.datasets import DatasetConfig
    from couplet.ranks import Ranks

app = typer.Typer(
    name="couplet",
    help="Train, sample and compare consistency models, stage by stage.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

ParamsFile = Annotated[Path, typer.Option("--params", help="The parameter file.")]
Scale = Annotated[str | None, typer.Option(help="A name from `scales`: another size of the same rows.")]
Dataset = Annotated[str | None, typer.Option(help="A name from `datasets`.")]
Recipe = Annotated[str | None, typer.Option(help="A name from `recipes`.")]
Kernel = Annotated[str | None, typer.Option(help="ve or li.")]
Coupling = Annotated[str | None, typer.Option(help="A name from `couplings`.")]
Extractor = Annotated[str | None, typer.Option(help="A name from `features`.")]
Seed = Annotated[int | None, typer.Option(help="Training seed.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads of this process.", min=1)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Processes = Annotated[int, typer.Option(help="As `torchrun --nproc-per-node`: one for each GPU.", min=1)]
Data = Annotated[Path, typer.Option(help="Folder of `couplet prepare`.")]
Features = Annotated[Path, typer.Option(help="Folder of `couplet features`.")]
Reference = Annotated[Path, typer.Option(help="Folder of `couplet reference`.")]
Train = Annotated[Path, typer.Option(help="Folder of `couplet train`.")]
Out = Annotated[Path, typer.Option(help="Where to write.")]
Live = Annotated[
    Path | None, typer.Option(help="Folder for a live view that DVC shows: curves, numbers, sample grids.")
]
TensorBoard = Annotated[Path | None, typer.Option(help="Folder for the same as events of TensorBoard.")]
Frozen = Annotated[
    Path | None,
    typer.Option(help="For a coupling with a `pretrained` predictor: the folder of that `couplet train`."),
]
AcceptCode = Annotated[
    bool,
    typer.Option(
        "--accept-code", help="Go on with a training that other code began: the edit changes no number."
    ),
]

DEFAULT_PARAMS = Path("params.yaml")

RANK_PATIENCE = 10.0
"""Seconds before a process other than the first one tells its error."""


def _start(threads: int | None, device: str = "cpu") -> torch.device:
    """Holds torch to its threads, a rank of torchrun's to its share of them, and finds the device.

    Raises:
        UserError: the device is unknown or not there.
    """
    # Before torch is imported: a second OpenMP thread on a busy core slows every step many times.
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    count = max(1, threads // processes) if threads else int(os.environ.get("OMP_NUM_THREADS") or 1)
    os.environ["OMP_NUM_THREADS"] = str(count)
    import torch

    from couplet.devices import find

    torch.set_num_threads(count)
    return find(device)


@contextmanager
def _shared(threads: int | None, device: str, processes: int) -> Iterator[tuple[torch.device, Ranks]]:
    """As :func:`_start`, with the processes that torchrun started; all but the first are silent.

    Raises:
        typer.Exit: this process has started ``processes`` others with its command line, which have ended.
    """
    if processes > 1 and not _torchrun():
        from couplet.ranks import launch

        raise typer.Exit(launch(processes, ["-m", "couplet", *sys.argv[1:]]))
    chosen = _start(threads, device)
    import torch

    from couplet.ranks import joined

    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    with joined() as ranks:
        if ranks.first:
            yield chosen, ranks
            return
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield chosen, ranks


def _rank() -> int:
    """Which of torchrun's processes this is, before they are connected."""
    return int(os.environ["RANK"]) if _torchrun() else 0


def _torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def _say(text: str) -> None:
    typer.echo(text, err=True)


@contextmanager
def _signals() -> Iterator[Callable[[], str | None]]:
    """A function that names the signal to stop that has come, if any; they no longer end the process.

    Only a second Ctrl-C does, at once. Signals that were ignored before stay so.
    """
    came: list[str] = []

    def note(number: int, frame: object) -> None:
        came.append(signal.Signals(number).name)
        signal.signal(signal.SIGINT, before.get(signal.SIGINT, signal.SIG_IGN))

    wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = {s: handler for s in wanted if (handler := signal.getsignal(s)) not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: came[0] if came else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _params(path: Path, scale: str | None = None) -> Params:
    from couplet.config import read_params

    return read_params(path, scale)


def _cell(params: Params, **names: Any) -> Cell:
    """The experiment's cell with the given names in place of its own."""
    from couplet.config import Cell
    from couplet.config.base import validated

    given = {key: value for key, value in names.items() if value is not None}
    return validated(Cell, {**params.experiment.model_dump(), **given}, "command line")


def _settings(
    path: Path, scale: str | None, *, extractor: str | None = None, **names: Any
) -> tuple[Training, Measurement]:
    """What the cell of ``names`` is trained and measured with."""
    params = _params(path, scale)
    return _checked(path, params, _cell(params, **names), extractor)


def _checked(
    path: Path, params: Params, cell: Cell, extractor: str | None = None
) -> tuple[Training, Measurement]:
    """What ``cell`` is trained and measured with, by the parameters of ``path``."""
    from couplet.config import Invalid

    try:
        return params.training(cell), params.measurement(cell, extractor)
    except Invalid as error:
        raise UserError(f"{path}: {error}") from None


def _dataset(path: Path, name: str | None) -> tuple[str, DatasetConfig, Path]:
    """Name, settings and folder of originals: as the parameter file has them, or of a kind as it comes."""
    from couplet.config.base import choices
    from couplet.config.datasets import DatasetConfig, ImagesConfig
    from couplet.config.plugins import load_plugins

    load_plugins()
    named: dict[str, DatasetConfig] = {}
    raw = Path("raw")
    if name is None or path.exists() or path != DEFAULT_PARAMS:
        params = _params(path)
        name, named, raw = name or params.dataset, params.datasets, Path(params.raw)
    if name in named:
        return name, named[name], raw
    kinds: dict[str, Any] = {
        k: config for k, config in DatasetConfig.family.items() if config is not ImagesConfig
    }
    if name not in kinds:
        raise UserError(
            f"dataset = {name}: {choices(name, {*named, *kinds})}; "
            "for a folder, zip, tar, IDX file or LMDB of images: --from PATH --resolution N"
        )
    return name, kinds[name](), raw


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
    else:
        from couplet.config.sources import check_running

        check_running(Path())


@app.command()
def check(
    params: ParamsFile = DEFAULT_PARAMS,
    scale: Scale = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the experiment's resolved settings.")] = None,
) -> None:
    """Check the parameter file and say what it describes."""
    checked = _params(params, scale)
    if out is not None:
        from couplet.stages.check import write_settings

        write_settings(checked, out)
    at = f" at scale {checked.scale}" if checked.scale else ""
    typer.echo(f"{params}{at}: experiment {checked.experiment}; table1 has {len(checked.cells())} cells")


@app.command()
def prepare(
    dataset: Annotated[
        str | None,
        typer.Argument(
            help="A name from `datasets`, a kind of data set, or with --from a name of your own.",
            show_default="the experiment's",
        ),
    ] = None,
    params: ParamsFile = DEFAULT_PARAMS,
    out: Annotated[Path | None, typer.Option(help="Where to write.", show_default="data/NAME")] = None,
    from_: Annotated[
        str | None,
        typer.Option("--from", help="A folder, zip, tar, IDX file or LMDB of images to make it from."),
    ] = None,
    resolution: Annotated[int | None, typer.Option(help="With --from: pixels per side.")] = None,
    channels: Annotated[
        int | None, typer.Option(help="With --from: 3 for colour, 1 for grey.", show_default="as they are")
    ] = None,
    test_images: Annotated[
        int | None, typer.Option(help="With --from: images held out where there is no test split.")
    ] = None,
    skip_corrupt: Annotated[
        bool, typer.Option("--skip-corrupt", help="With --from: leave out images that cannot be read.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Threads that decode images.", min=1)] = 1,
) -> None:
    """Write a data set as an archive of arrays with a card and a picture of what is in it."""
    if from_ is None:
        for flag, given in (
            ("--resolution", resolution is not None),
            ("--channels", channels is not None),
            ("--test-images", test_images is not None),
            ("--skip-corrupt", skip_corrupt),
        ):
            if given:
                raise UserError(f"{flag}: belongs to --from; a named data set is set up in {params}")
        name, config, raw = _dataset(params, dataset)
    elif dataset is None:
        raise UserError("--from: needs a name for the data set, as in `couplet prepare NAME --from PATH`")
    else:
        from couplet.config.datasets import from_path

        name, raw = dataset, Path("raw")
        config = from_path(
            name,
            from_,
            resolution=resolution,
            channels=channels,
            test_images=test_images,
            skip_corrupt=skip_corrupt,
        )
    _start(1)
    from couplet.progress import counting
    from couplet.stages.prepare import prepare as stage

    folder = out or Path("data") / name
    card = stage(name, config, folder, raw=raw, workers=workers, counting=counting)
    counts = ", ".join(f"{count} {split}" for split, count in card.counts.items())
    typer.echo(f"{folder}: {name}, {'×'.join(map(str, card.shape))}, {counts} images; see preview.png")


@app.command()
def features(
    data: Data,
    out: Out,
    params: ParamsFile = DEFAULT_PARAMS,
    extractor: Extractor = None,
    threads: Threads = None,
    device: Device = "auto",
) -> None:
    """Make an extractor ready for a data set: train the classifier, or find weights and check them."""
    from couplet.config import Invalid

    checked = _params(params)
    try:
        config = checked.extractor_named(checked.extractor if extractor is None else extractor)
    except Invalid as error:
        raise UserError(f"{params}: {error}") from None
    chosen = _start(threads, device)
    from couplet.stages.features import features as stage

    card = stage(config, data, out, chosen)
    accuracy = card.get("test_accuracy")
    right = "" if accuracy is None else f", {accuracy:.1%} of test images right"
    typer.echo(f"{out}: {card['kind']} {card['sha256'][:8]}{right}")


@app.command()
def reference(
    data: Data,
    features: Features,
    out: Out,
    threads: Threads = None,
    device: Device = "auto",
    processes: Processes = 1,
) -> None:
    """Write features and moments of the real images, a file per split."""
    with _shared(threads, device, processes) as (chosen, ranks):
        from couplet.progress import counting
        from couplet.stages.reference import images_of
        from couplet.stages.reference import reference as stage

        with counting(f"{data}: reference", images_of(data)) as advance:
            stage(data, features, out, chosen, advance, ranks)
        typer.echo(f"{out}: reference statistics")


@app.command()
def train(
    data: Data,
    out: Out,
    params: ParamsFile = DEFAULT_PARAMS,
    scale: Scale = None,
    dataset: Dataset = None,
    recipe: Recipe = None,
    kernel: Kernel = None,
    coupling: Coupling = None,
    seed: Seed = None,
    live: Live = None,
    tensorboard: TensorBoard = None,
    threads: Threads = None,
    device: Device = "auto",
    processes: Processes = 1,
    frozen: Frozen = None,
    accept_code: AcceptCode = False,
) -> None:
    """Train one cell; started again after an interruption, go on from its last state."""
    checked = _params(params, scale)
    names = {"dataset": dataset, "recipe": recipe, "kernel": kernel, "coupling": coupling, "seed": seed}
    cell = _cell(checked, **names)
    settings, _ = _checked(params, checked, cell)
    with _shared(threads, device, processes) as (chosen, ranks):
        from couplet.live import sinks, watched
        from couplet.progress import training_progress
        from couplet.stages.train import lent
        from couplet.stages.train import train as stage

        predictor = lent(checked, cell, frozen)

        shown = sinks(live, tensorboard) if ranks.first else []
        with (
            training_progress(str(settings.cell), settings.recipe.steps) as progress,
            watched(progress, out, shown, chosen, _say) as report,
        ):
            stage(
                *(settings, data, out, chosen, report, _say, _signals(), ranks),
                frozen=predictor,
                accept_code=accept_code,
            )
        typer.echo(f"{out}: {settings.cell}, {settings.recipe.steps} steps")


@app.command()
def watch(
    train: Annotated[Path, typer.Argument(help="Folder that a `couplet train` is going to write.")],
    live: Live = None,
    tensorboard: TensorBoard = None,
    every: Annotated[float, typer.Option(help="Seconds between looks.", min=0.1)] = 10.0,
    threads: Threads = None,
    device: Device = "cpu",
) -> None:
    """Show a training that another process does, on another node or under Snakemake, until it is whole."""
    if live is None and tensorboard is None:
        raise UserError("couplet watch: give --live FOLDER or --tensorboard FOLDER")
    chosen = _start(threads, device)
    from couplet.live import follow, sinks

    follow(train, sinks(live, tensorboard), chosen, every)


@app.command()
def select(
    train: Train,
    features: Features,
    reference: Reference,
    out: Out,
    params: ParamsFile = DEFAULT_PARAMS,
    scale: Scale = None,
    dataset: Dataset = None,
    recipe: Recipe = None,
    kernel: Kernel = None,
    coupling: Coupling = None,
    extractor: Extractor = None,
    seed: Seed = None,
    threads: Threads = None,
    device: Device = "auto",
    processes: Processes = 1,
) -> None:
    """Score every snapshot and name the best."""
    settings, measurement = _settings(
        params,
        scale,
        dataset=dataset,
        recipe=recipe,
        kernel=kernel,
        coupling=coupling,
        extractor=extractor,
        seed=seed,
    )
    with _shared(threads, device, processes) as (chosen, ranks):
        from couplet.progress import counting
        from couplet.stages.select import images_to_select
        from couplet.stages.select import select as stage

        images = images_to_select(settings, measurement)
        with counting(f"{settings.cell}: select", images) as advance:
            best = stage(settings, measurement, train, features, reference, out, chosen, advance, ranks)
        typer.echo(f"{out}: step {best.step}, Fréchet distance {best.fd[measurement.select.nfe]:.3f}")


@app.command()
def sample(
    train: Train,
    selection: Annotated[Path, typer.Option(help="File of `couplet select`.")],
    out: Out,
    params: ParamsFile = DEFAULT_PARAMS,
    scale: Scale = None,
    dataset: Dataset = None,
    recipe: Recipe = None,
    kernel: Kernel = None,
    coupling: Coupling = None,
    extractor: Extractor = None,
    seed: Seed = None,
    threads: Threads = None,
    device: Device = "auto",
    processes: Processes = 1,
) -> None:
    """Generate images from the selected snapshot."""
    settings, measurement = _settings(
        params,
        scale,
        dataset=dataset,
        recipe=recipe,
        kernel=kernel,
        coupling=coupling,
        extractor=extractor,
        seed=seed,
    )
    with _shared(threads, device, processes) as (chosen, ranks):
        from couplet.progress import counting
        from couplet.stages.sample import sample as stage

        with counting(f"{settings.cell}: sample", measurement.sample.samples) as advance:
            stage(settings, measurement, train, selection, out, chosen, advance, ranks)
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
    scale: Scale = None,
    dataset: Dataset = None,
    recipe: Recipe = None,
    kernel: Kernel = None,
    coupling: Coupling = None,
    extractor: Extractor = None,
    seed: Seed = None,
    threads: Threads = None,
    device: Device = "auto",
    processes: Processes = 1,
) -> None:
    """Compare samples with the training split: Fréchet distance, KID and what the extractor adds."""
    settings, measurement = _settings(
        params,
        scale,
        dataset=dataset,
        recipe=recipe,
        kernel=kernel,
        coupling=coupling,
        extractor=extractor,
        seed=seed,
    )
    with _shared(threads, device, processes) as (chosen, ranks):
        from couplet.progress import counting
        from couplet.stages.evaluate import evaluate as stage
        from couplet.stages.evaluate import images_to_evaluate

        with counting(f"{settings.cell}: evaluate", images_to_evaluate(measurement)) as advance:
            metrics = stage(
                settings,
                measurement,
                train,
                selection,
                samples,
                features,
                reference,
                out,
                chosen,
                advance,
                ranks,
            )
        typer.echo(f"{out}: " + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))


@app.command()
def probe(
    kind: Annotated[str, typer.Argument(help="gradient, transport, regulariser or plane.")],
    train: Train,
    data: Data,
    out: Out,
    params: ParamsFile = DEFAULT_PARAMS,
    scale: Scale = None,
    dataset: Dataset = None,
    recipe: Recipe = None,
    kernel: Kernel = None,
    coupling: Coupling = None,
    seed: Seed = None,
    frozen: Frozen = None,
    threads: Threads = None,
    device: Device = "auto",
) -> None:
    """Measure a finished training besides its samples, as CSV.

    gradient: its variance from batch to batch, for each snapshot. transport: the squared distance between the
    ends of the coupling's pairs, for each noise level. regulariser: how far their velocity is from the mean
    velocity, for each noise level; needs a training whose schedule is `denoising`. plane: one-step samples,
    pairs and posteriors of a training of points.
    """
    from couplet.config import Invalid

    checked = _params(params, scale)
    cell = _cell(checked, dataset=dataset, recipe=recipe, kernel=kernel, coupling=coupling, seed=seed)
    try:
        settings, config = checked.training(cell), checked.probing(cell)
    except Invalid as error:
        raise UserError(f"{params}: {error}") from None
    chosen = _start(threads, device)
    from couplet.progress import counting
    from couplet.stages.probe import images_to_probe
    from couplet.stages.probe import probe as stage
    from couplet.stages.train import lent

    predictor = lent(checked, cell, frozen)
    with counting(f"{cell}: {kind}", images_to_probe(kind, settings, config)) as advance:
        rows = stage(kind, settings, config, train, data, out, chosen, advance, predictor)
    typer.echo(f"{out}: {kind}, {len(rows)} rows")


@app.command()
def table(
    out: Out,
    params: ParamsFile = DEFAULT_PARAMS,
    scale: Scale = None,
    root: Annotated[Path, typer.Option(help="Folder of the grid's results.")] = Path("results"),
    part: Annotated[str, typer.Option(help="Only cells whose names begin so: cifar10-gc-ict.")] = "",
    partial: Annotated[
        bool, typer.Option("--partial", help="Leave out cells that are missing, and say which.")
    ] = False,
) -> None:
    """Write the grid's table (CSV and Markdown) and its figures."""
    _start(1)
    from couplet.stages.table import table as stage

    rows = stage(_params(params, scale), root, out, part, partial=partial)
    typer.echo(f"{out}: {len(rows)} rows")


@app.command()
def figure(
    params: Annotated[Path, typer.Option(help="A parameter file with a `study`.")],
    out: Annotated[Path, typer.Option(help="The .csv file; .svg, .png and .json are written beside it.")],
    root: Annotated[Path, typer.Option(help="Folder of the grid's results.")] = Path("results"),
    scale: Scale = None,
) -> None:
    """Draw what a study's cells show, with a caption that says what the seeds carry."""
    if out.suffix != ".csv":
        raise UserError(f"--out = {out}: must end in .csv")
    checked = _params(params, scale)
    _start(1)
    from couplet.stages.figure import figure as stage

    caption = stage(checked, out.stem, root, out)
    verdicts = Counter(found["verdict"] for found in caption["statements"])
    said = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    typer.echo(f"{out}: {caption['paper']}, {caption['result']}: {said or 'no statement'}")


@app.command()
def paper(
    captions: Annotated[list[Path], typer.Argument(help=".json files of `couplet figure`.")],
    out: Annotated[Path, typer.Option(help="The page to write.")],
    rebuild: Annotated[
        str, typer.Option(help="The command that makes one of the figures, with {name}.")
    ] = "snakemake --cores all results/paper/{name}.csv",
) -> None:
    """Put all figures with their captions on one page."""
    _start(1)
    from couplet.stages.paper import paper as stage

    typer.echo(f"{out}: {stage(captions, out, rebuild)} figures")


@app.command()
def run(
    out: Annotated[Path, typer.Option(help="Folder for everything this run makes.")],
    params: ParamsFile = DEFAULT_PARAMS,
    scale: Scale = None,
    dataset: Dataset = None,
    recipe: Recipe = None,
    kernel: Kernel = None,
    coupling: Coupling = None,
    extractor: Extractor = None,
    seed: Seed = None,
    steps: Annotated[int | None, typer.Option(help="Training steps.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images per training step.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE, as in `dvc exp run -S`.")
    ] = None,
    live: Live = None,
    tensorboard: TensorBoard = None,
    threads: Threads = None,
    device: Device = "auto",
    accept_code: AcceptCode = False,
) -> None:
    """Run one cell ad hoc, from data to numbers and a picture, into one folder."""
    from couplet.config.changes import changed_params

    names = {
        "dataset": dataset,
        "recipe": recipe,
        "kernel": kernel,
        "coupling": coupling,
        "extractor": extractor,
        "seed": seed,
    }
    checked = changed_params(params, scale, names, {"steps": steps, "batch": batch}, set_ or [], out)
    chosen = _start(threads, device)
    from couplet.adhoc import run_cell
    from couplet.files import locked
    from couplet.live import sinks

    shown = sinks(live, tensorboard)
    with locked(out.absolute().with_name(f"{out.absolute().name}.lock"), _say):
        run_cell(checked, out, chosen, _say, _signals(), shown, accept_code=accept_code)
    show(out)


@app.command()
def show(folder: Annotated[Path, typer.Argument(help="Folder of a run.")]) -> None:
    """Show what a run folder holds: configuration, selected checkpoint, metrics."""
    from couplet.stages.show import contents

    _print_pairs(contents(folder))


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="Folder of a grid, an experiment or a run.")],
) -> None:
    """Read every recorded file again and compare it with its record: exit code 1 if one is not what it was.

    A line for each file that is missing or has another SHA-256 than a record says. Notes are no failure:
    files that no record names, and results of other code than is installed.
    """
    from couplet.progress import reading
    from couplet.stages import verify as stage

    found = stage.inventory(folder)
    with reading(f"{folder}: verify, MiB", found.size) as advance:
        findings = stage.verify(found, advance)
    for problem in findings.problems:
        typer.echo(problem)
    for note in findings.notes:
        typer.echo(f"note: {note}")
    count = len(findings.problems)
    wrong = f"{count} problem{'s' if count > 1 else ''}" if count else "all as recorded"
    typer.echo(f"{folder}: {len(found.files)} files of {len(found.records)} records read: {wrong}")
    raise typer.Exit(1 if count else 0)


@app.command()
def why(
    file: Annotated[Path, typer.Argument(help="A table's CSV, or a file that a stage wrote.")],
    row: Annotated[
        str | None, typer.Option(help="Of a table: 3, or coupling=vae,nfe=2, or vae,nfe=2,seed=1.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the whole records as JSON.")] = False,
) -> None:
    """Print the chain from a number to its checkpoint, configuration, data and commit."""
    from couplet.stages import why as stage

    found = stage.why(file, row)
    if json_:
        import json

        typer.echo(json.dumps(found.plain, indent=2))
    else:
        _print_pairs(stage.described(found))


@app.command()
def recipes(
    name: Annotated[
        str | None, typer.Argument(help="A row, `gc/cifar10-gc-ict-ve-ot`: all its settings, with sources.")
    ] = None,
    params: Annotated[
        list[Path] | None,
        typer.Option("--params", help="Parameter files.", show_default="params.yaml, workflow/papers/*.yaml"),
    ] = None,
    scale: Scale = None,
    tflops: Annotated[
        float, typer.Option(help="Throughput that GPU-hours assume, TFLOP/s; an H200 has 990 dense in bf16.")
    ] = 200.0,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
) -> None:
    """List the rows of the papers' tables, or print one with the source of every setting."""
    if not 0 < tflops < float("inf"):
        raise UserError(f"--tflops {tflops}: must be a positive number")
    files = params or [DEFAULT_PARAMS, *sorted(Path("workflow/papers").glob("*.yaml"))]
    _start(1)
    from couplet.stages import recipes as stage

    if name is not None:
        row = stage.find(files, name, scale)
        _print_table(("setting", "value", "source"), stage.settings(row), markdown)
        return
    listed = list(stage.rows(files, scale))
    _print_table(stage.SUMMARY, (stage.summary(row, tflops) for row in listed), markdown)
    counts = ", ".join(f"{count} {table}" for table, count in Counter(row.table for row in listed).items())
    typer.echo(
        f"\n{len(listed)} rows ({counts}). GPU-hours are modelled: operations counted, "
        f"{tflops:g} TFLOP/s assumed."
    )


def _print_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """Names and values in two columns."""
    from rich.console import Console
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    for name, value in pairs:
        grid.add_row(name, value)
    width = None if sys.stdout.isatty() else 10_000
    Console(width=width, markup=False, emoji=False, highlight=False).print(grid)


def _print_table(heads: Sequence[str], rows: Iterable[Sequence[str]], markdown: bool) -> None:
    """A table for a terminal, whole in a pipe, or Markdown."""
    if markdown:
        for cells in (heads, ["---"] * len(heads), *rows):
            escaped = (cell.replace("|", r"\|") for cell in cells)
            typer.echo(f"| {' | '.join(escaped)} |")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*heads, box=None, header_style="bold", pad_edge=False)
    for cells in rows:
        table.add_row(*cells)
    width = None if sys.stdout.isatty() else 10_000
    Console(width=width, markup=False, emoji=False).print(table)


@app.command("import-edm")
def import_edm(
    file: Annotated[Path, typer.Argument(help="A network snapshot (.pkl) of EDM or EDM2.")],
    out: Annotated[Path, typer.Option(help="The safetensors file to write.")],
) -> None:
    """Turn a published EDM or EDM2 snapshot into safetensors, without executing any of it."""
    _start(1)
    from couplet.interop.import_edm import import_edm as stage

    typer.echo(str(stage(file, out)))


def main() -> None:
    """The console script.

    Errors of the user's become one line on stderr and exit code 2, a signal that stopped a training and left
    it to be gone on from one line and exit code 75.
    """
    try:
        code = typer.main.get_command(app)(standalone_mode=False)
    except UserError as error:
        _fail(str(error))
    except Stopped as stop:
        if _rank() == 0:
            print(f"couplet: {stop}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL)
    except OSError as error:
        _fail(f"{error.filename or 'input or output'}: {error.strerror or error}")
    except MemoryError as error:
        _fail(f"not enough memory: {error or 'for what was asked'}")
    except typer.Abort:
        sys.exit(130)
    except Exception as error:
        # Usage errors of click, whichever copy of click typer carries.
        if not hasattr(error, "format_message"):
            raise
        _fail(error.format_message())
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str) -> None:
    if rank := _rank():
        # What the first process meets as well it says itself, and torchrun then ends this one.
        time.sleep(RANK_PATIENCE)
        message = f"process {rank}: {message}"
    print(f"couplet: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
