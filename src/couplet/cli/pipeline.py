"""Commands of the pipeline: one for each stage, and the tables and figures at its end."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any

import typer

from couplet.cli import options as o
from couplet.config.base import choices, refused
from couplet.config.cells import (
    EvaluateConfig,
    Measurement,
    ReferenceConfig,
    SampleConfig,
    SelectConfig,
    Training,
)
from couplet.config.datasets import DatasetConfig, from_path
from couplet.config.probes import ProbeConfig
from couplet.config.published import published_list
from couplet.config.resolve import resolve
from couplet.config.variants import load_plugins
from couplet.errors import UserError
from couplet.plan.layout import Layout
from couplet.plan.stages import (
    RECORD_SUFFIX,
    STAGES,
    Settings,
    dataset_in,
    extractor_in,
    record_of,
    training_in,
)
from couplet.process import console, process, start
from couplet.provenance.record import read_record


def commands() -> list[Callable[..., None]]:
    """The function of every command, in the order in which stages run."""
    own: dict[str, Callable[..., None]] = {
        "prepare": prepare,
        "train": train,
        "probe": probe,
        "time": time,
    }
    stages = (own[name] if name in own else stage_command(name) for name in STAGES)
    return [*stages, table, figure, paper, published]


def stage_command(name: str) -> Callable[..., None]:
    """The command of a stage, with an option for each output that it reads."""
    stage = STAGES[name]
    inputs = {
        STAGES[read].option: Annotated[Path, typer.Option(help=f"Output of `couplet {read}`.")]
        for read in stage.reads
    }
    options = {option: (annotation, Parameter.empty) for option, annotation in inputs.items()} | {
        "out": (o.File if Path(stage.output).suffix else o.Folder, Parameter.empty),
        "params": (o.OwnParams, None),
        "scale": (o.Scale, None),
        **({"extractor": (o.Extractor, None)} if name == "features" else {}),
        "threads": (o.Threads, None),
        "device": (o.Device, "auto"),
        "processes": (o.Processes, 1),
    }

    @o.with_options(options)
    def command(**given: Any) -> None:
        paths, out = {option: given[option] for option in inputs}, given["out"]
        settings = settings_for(paths, given["params"], given["scale"], given.get("extractor"))
        device = o.device_of(given["device"], settings.gpus)
        with process(given["threads"], device, given["processes"]) as context:
            run = import_module(f"couplet.stages.{name}").run
            typer.echo(f"{out}: {run(context, settings, **paths, out=out)}")

    command.__name__, command.__doc__ = name, stage.summary
    return command


def settings_for(
    paths: dict[str, Path], params: Path | None, scale: str | None, extractor: str | None = None
) -> Any:
    """The settings of a stage: cell, extractor and data set from its inputs, the rest from the file."""
    if scale is not None and params is None:
        raise UserError(f"--scale {scale}: belongs to --params FILE")
    checked = None if params is None else resolve(params, scale)
    gpus = checked.gpus if checked else 1
    config = extractor_in(paths["features"]) if "features" in paths else None
    if "train" not in paths:
        if config is None:
            checked = checked or resolve(o.DEFAULT)
            config = located(params or o.DEFAULT, checked.extractor_named, extractor or checked.extractor)
        real = checked.reference if checked else ReferenceConfig()
        return Settings(dataset_in(paths["data"]), config, real=real, gpus=gpus)
    training = training_in(paths["train"])
    if checked is not None:
        measurement = located(params, checked.measurement, training.cell)
        training = checked.training(training.cell)
    else:
        measurement = measured_as(training, paths)
    return Settings.of(training, measurement=measurement, extractor=config, gpus=gpus)


def measured_as(training: Training, paths: dict[str, Path]) -> Measurement:
    """How a run was measured, as the records of its selection and samples say, else by default."""
    recipe = training.recipe
    sampling: dict[str, Any] = {"mid_sigmas": recipe.mid_sigmas, "boundary": recipe.boundary.sampling}
    select: dict[str, Any] = {}
    sample: dict[str, Any] = {"nfe": (1, 2) if recipe.mid_sigmas else (1,)}
    if "selection" in paths:
        made = _settings_of("select", paths["selection"])
        select = {key: made[key] for key in SelectConfig.model_fields}
        sampling = {key: made[key] for key in sampling}
        sample = {key: made[key] for key in ("quantise", "labels") if key in made}
        sample["nfe"] = made["scored_nfe"]
    if "samples" in paths:
        made = _settings_of("sample", paths["samples"])
        sample = {key: made[key] for key in SampleConfig.model_fields if key in made}
    real = _settings_of("reference", paths["reference"]) if "reference" in paths else {}
    return Measurement(
        **sampling,
        select=SelectConfig(**select),
        sample=SampleConfig(**sample),
        evaluate=EvaluateConfig(),
        reference=ReferenceConfig(**real),
    )


def _settings_of(stage: str, output: Path) -> Any:
    """The settings in the record of an output."""
    return read_record(record_of(stage, output), f"run `couplet {stage}` to make it").content["settings"]


def located(path: Path | str | None, function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of ``function``; where a value is not allowed, the message begins with ``path``."""
    with refused(path):
        return function(*arguments)


def prepare(
    dataset: Annotated[
        str | None,
        typer.Argument(
            help="A name from `datasets`, a kind of data set, or with --from a name of your own.",
            show_default="the experiment's",
        ),
    ] = None,
    params: o.Params = o.DEFAULT,
    scale: o.Scale = None,
    out: Annotated[Path | None, o.output("Folder to write.", folder=True, show_default="data/NAME")] = None,
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
    workers: Annotated[int, typer.Option(help="Threads that decode images.", min=1, max=1024)] = 1,
) -> None:
    """Write a data set as an archive of arrays with a card and a picture."""
    given = {
        "resolution": resolution,
        "channels": channels,
        "test_images": test_images,
        "skip_corrupt": skip_corrupt or None,
    }
    own: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if from_ is None:
        if own:
            flag = next(iter(own)).replace("_", "-")
            raise UserError(f"--{flag}: belongs to --from; a named data set is set up in {params}")
        name, config, raw = _dataset(params, scale, dataset)
    elif dataset is None:
        raise UserError("--from: needs a name for the data set, as in `couplet prepare NAME --from PATH`")
    else:
        name, config, raw = dataset, from_path(dataset, from_, **own), Path("raw")
    folder = out or Path("data") / name
    from couplet.stages.prepare import run

    message = run(console(), Settings(config), name=name, out=folder, raw=raw, workers=workers)
    typer.echo(f"{folder}: {message}")


def _dataset(path: Path, scale: str | None, name: str | None) -> tuple[str, Any, Path]:
    """Name, settings and folder of originals of an entry in the parameter file, or of a kind of data set."""
    load_plugins()
    known, raw = dict[str, Any](), Path("raw")
    if name is None or path.exists() or path != o.DEFAULT:
        params = resolve(path, scale)
        known, raw, name = params.datasets, Path(params.raw), name or params.dataset
    family: dict[str, Any] = dict(DatasetConfig.family)
    allowed = {*known, *(kind for kind, config in family.items() if not config.by_content)}
    if name not in allowed:
        raise UserError(
            f"dataset = {name}: {choices(name, allowed)}; "
            "for a folder, zip, tar, IDX file or LMDB of images: --from PATH --resolution N"
        )
    config = known[name] if name in known else located(f"dataset = {name}", DatasetConfig.parse, name)
    return name, config, raw


@o.with_options(o.CELL)
def train(
    data: o.Data,
    out: o.Folder,
    track: o.Tracks = None,
    frozen: o.Frozen = None,
    threads: o.Threads = None,
    device: o.Device = "auto",
    processes: o.Processes = 1,
    **cell: Any,
) -> None:
    """Train one cell; started again after an interruption, resume from its last state."""
    params, scale, changes = o.chosen(**cell)
    changes = [*o.from_prepared(cell["dataset"], data, params, scale), *changes]
    checked = resolve(params, scale, changes)
    trained, tracks = checked.experiment, o.tracks(track, checked.track)
    # Measuring decides no weight; that it cannot be done is to be known before.
    settings = Settings.of(
        checked.training(trained),
        measurement=checked.measurement(trained),
        extractor=checked.extractor_named(checked.selector(trained)),
    )
    with process(threads, o.device_of(device, checked.gpus), processes) as context:
        from couplet.live import meter, observed
        from couplet.stages.train import run

        measure = meter(settings.training, data, context, checked.peak_tflops)
        with observed(out, context, tracks if context.ranks.first else (), measure) as observe:
            message = run(context, settings, data=data, out=out, frozen=frozen, observe=observe)
        typer.echo(f"{out}: {message}")


def probe(
    name: Annotated[str, typer.Argument(help="A name from `probes`, or a kind of probe.")],
    train: Annotated[Path, typer.Option(help="Output of `couplet train`.")],
    data: o.Data,
    out: o.File,
    params: o.OwnParams = None,
    scale: o.Scale = None,
    frozen: o.Frozen = None,
    threads: o.Threads = None,
    device: o.Device = "auto",
) -> None:
    """Measure a finished run besides its samples, as CSV.

    gradient: its variance from batch to batch, for each snapshot. transport: the squared distance between the
    ends of the coupling's pairs, for each noise level. regulariser: the distance of their velocity from the
    mean velocity, for each noise level; needs a run whose schedule is `denoising`. plane: one-step samples,
    pairs and posteriors of a run on points.
    """
    settings = settings_for({"train": train}, params, scale)
    find = ProbeConfig.parse if params is None else resolve(params, scale).probe_named
    config = located(params or "probe", find, name)
    with process(threads, o.device_of(device, settings.gpus)) as context:
        from couplet.stages.probe import run

        chosen = Settings.of(settings.training, probe=config)
        typer.echo(f"{out}: {run(context, chosen, data=data, train=train, out=out, frozen=frozen)}")


def time(
    data: o.Data,
    out: o.File,
    part: Annotated[
        str,
        typer.Option(help="Only cells whose names begin with it: cifar10. Needed with several data sets."),
    ] = "",
    params: o.Params = o.DEFAULT,
    scale: o.Scale = None,
    threads: o.Threads = None,
    device: o.Device = "auto",
    processes: o.Processes = 1,
) -> None:
    """Measure the time of a training step, of all trainings of a grid on one data set by turns.

    In every round each training takes some steps; a busy machine slows all alike. On the CPU it is the CPU
    time of the process, on a GPU the time between events.
    """
    layout = Layout(resolve(params, scale), Path("results"))
    names = list(located("--part", layout.timed, part))
    if len(names) != 1:
        problem = (
            f"has {', '.join(names)}; name one of them" if names else "time.rounds = 0: measures nothing"
        )
        raise UserError(f"--part {part or 'not given'}: {params} {problem}")
    with process(threads, o.device_of(device, layout.params.gpus), processes) as context:
        from couplet.stages.time import run

        typer.echo(f"{out}: {run(context, layout.timing(names[0]), data=data, out=out)}")


def table(
    out: o.File,
    params: o.Params = o.DEFAULT,
    scale: o.Scale = None,
    root: o.Root = Path("results"),
    part: Annotated[str, typer.Option(help="Only cells whose names begin with it: cifar10-gc-ict.")] = "",
    partial: Annotated[
        bool, typer.Option("--partial", help="Leave out cells that are missing, and name them.")
    ] = False,
) -> None:
    """Write the grid's table (CSV and Markdown) and its figures."""
    checked = resolve(params, scale)
    start(1)
    from couplet.stages.table import run

    typer.echo(f"{out}: {run(checked, root, out, part, partial=partial)}")


def figure(
    params: Annotated[Path, typer.Option(help="A parameter file with a `study`.")],
    out: Annotated[Path, o.output("The .csv file; .svg, .png and .json are beside it.", folder=False)],
    root: o.Root = Path("results"),
    scale: o.Scale = None,
) -> None:
    """Draw the cells of a study, with a caption of what the seeds show."""
    if out.suffix != ".csv":
        raise UserError(f"--out = {out}: must end in .csv")
    checked = resolve(params, scale)
    start(1)
    from couplet.stages.figure import run

    typer.echo(f"{out}: {run(checked, out.stem, root, out)}")


def paper(
    captions: Annotated[
        list[Path], typer.Argument(help=".json files of `couplet figure`; records beside them are left out.")
    ],
    out: Annotated[Path, o.output("The page to write.", folder=False)],
    rebuild: Annotated[
        str, typer.Option(help="The command that makes one of the figures, with {name}.")
    ] = "snakemake --cores all results/paper/{name}.csv",
) -> None:
    """Put all figures with their captions on one page."""
    start(1)
    from couplet.stages.paper import run

    chosen = [path for path in captions if not path.name.endswith(RECORD_SUFFIX)]
    typer.echo(f"{out}: {run(chosen, out, rebuild)}")


def published(
    models: Annotated[Path, typer.Argument(help="The list of models, such as workflow/published.yaml.")],
    out: o.File,
    score: Annotated[
        list[Path] | None, typer.Option(help="A file of `couplet score` in a folder of the workflow; repeat.")
    ] = None,
) -> None:
    """Put what others report of their models beside what is measured here."""
    if out.suffix != ".csv":
        raise UserError(f"--out {out}: must end in .csv")
    listed = published_list(models)
    start(1)
    from couplet.stages.published import run

    typer.echo(f"{out}: {run(listed, score or [], out)}")
