# Reads and checks parameters once; everything else here is names and paths.
import re
import sys
from collections import Counter
from functools import cache
from itertools import product
from pathlib import Path

from couplet.config import Invalid, Layout, read_params
from couplet.config.base import choices
from couplet.config.params import knows_scale as has_scale
from couplet.config.sources import check_running
from couplet.config.stages import PROBES
from couplet.errors import UserError


def stop(message):
    """Ends Snakemake with one line, as the command line does."""
    print(f"couplet: {message}", file=sys.stderr)
    sys.exit(2)


if unknown := sorted(set(config) - {"params", "scale"}):
    stop(f"--config {unknown[0]}: {choices(unknown[0], ['params', 'scale'])}")

try:
    check_running(Path())
except UserError as error:
    stop(error)

# A table per parameter file: results/table1.csv from params.yaml (`--config params=other.yaml` takes
# another file), results/gc.csv from workflow/papers/gc.yaml. `--config scale=small` is for all of them.
# A study, workflow/studies/gc-mu.yaml, has a figure as well: results/paper/gc-mu.csv, .svg and .png.
SCALE = config.get("scale")
FILES = {"table1": Path(config.get("params", "params.yaml"))}
STUDIES = sorted(Path("workflow/studies").glob("[!_]*.yaml"))
for path in (*STUDIES, *sorted(Path("workflow/papers").glob("*.yaml"))):
    if path.stem in FILES or not re.fullmatch(r"[\w.+-]+", path.stem):
        stop(f"{path}: a table cannot be called {path.stem!r}; rename the file")
    FILES[path.stem] = path


wildcard_constraints:
    table=rf"({'|'.join(map(re.escape, FILES))})(/[\w.+-]+)?",
    data="[^/]+",
    extractor="[^/]+",
    run="[^/]+",
    eval="eval-[^/]+",
    study="|".join(re.escape(path.stem) for path in STUDIES),
    kind="|".join(PROBES),
    probe="[0-9a-f]{8}",


@cache
def layout(table):
    """Paths of a table's files, and the parameters that they follow from."""
    try:
        return Layout(read_params(FILES[table], SCALE), Path("results"))
    except UserError as error:
        stop(error)


@cache
def knows_scale(file):
    """Whether a parameter file has the scale that is asked for."""
    try:
        return SCALE is None or has_scale(file, SCALE)
    except UserError as error:
        stop(error)


@cache
def archives(table):
    """Data sets by their folder."""
    where = layout(table)
    return {where.data(name).name: name for name in where.params.datasets}


@cache
def extractors(table):
    """Data set and extractor by the extractor's folder."""
    where = layout(table)
    pairs = product(where.params.datasets, where.params.features)
    return {where.features(*pair).name: pair for pair in pairs}


@cache
def runs(table):
    """Cells by their folder."""
    where = layout(table)
    return {where.run(cell).name: cell for cell in where.params.cells()}


@cache
def evals(table):
    """Cell and extractor by the measurement's folder within the run's."""
    where = layout(table)
    folders = {pair: where.evaluation(*pair) for pair in where.params.measured()}
    return {f"{at.parent.name}/{at.name}": pair for pair, at in folders.items()}


@cache
def probes(table):
    """Cells by the file of a probe within the run's folder."""
    where = layout(table)
    files = {
        where.probe(cell, kind): cell
        for cell in where.params.cells()
        for kind in PROBES
    }
    return {f"{at.parent.name}/{at.name}": cell for at, cell in files.items()}


def found(folders, name):
    """The first table that has the folder or file ``name``, and what it has there."""
    # A file is read only when a job is looked for in it.
    for table, file in FILES.items():
        if knows_scale(file) and name in folders(table):
            return table, folders(table)[name]
    stop(f"{name}: no parameter file leads to this name in results/")


def threads_of_extractor(wildcards):
    table, _ = found(extractors, wildcards.extractor)
    return layout(table).params.threads


def threads_of_run(wildcards):
    table, _ = found(runs, wildcards.run)
    return layout(table).params.threads


def gpus_of_extractor(wildcards):
    table, _ = found(extractors, wildcards.extractor)
    return layout(table).params.gpus


def gpus_of_run(wildcards):
    table, _ = found(runs, wildcards.run)
    return layout(table).params.gpus


def retries_of_training():
    """As many as `--retries` says, at least one; on a cluster's node none, where what was told to end must."""
    if workflow.remote_exec:
        return 0
    asked = workflow.execution_settings
    return max(1, asked.retries if asked else 0)


def flags(table):
    """Parameter file and scale as command-line options."""
    return f"--params {FILES[table]}" + (f" --scale {SCALE}" if SCALE else "")


def name_and_file_of_archive(wildcards):
    table, name = found(archives, wildcards.data)
    return f"{name} --params {FILES[table]}"


def originals_of_archive(wildcards):
    """What images come from that lie where the parameters say, not in the folder of originals."""
    table, name = found(archives, wildcards.data)
    config = layout(table).params.datasets[name]
    return [config.path] if hasattr(config, "path") else []


def flags_of_extractor(wildcards):
    table, (_, extractor) = found(extractors, wildcards.extractor)
    return f"--params {FILES[table]} --extractor {extractor}"


def flags_of_run(wildcards):
    table, cell = found(runs, wildcards.run)
    return f"{flags(table)} {cell.flags}"


def flags_of_eval(wildcards):
    table, (cell, extractor) = found(evals, f"{wildcards.run}/{wildcards.eval}")
    return f"{flags(table)} {cell.flags} --extractor {extractor}"


def flags_of_probe(wildcards):
    name = f"{wildcards.run}/probe-{wildcards.kind}-{wildcards.probe}.csv"
    table, cell = found(probes, name)
    return f"{flags(table)} {cell.flags}"


def flags_of_table(wildcards):
    table, _, part = wildcards.table.partition("/")
    return flags(table) + (f" --part {part}" if part else "")


def about_table(wildcards):
    """What the captions of the report say of a table."""
    table, _, part = wildcards.table.partition("/")
    params = layout(table).params
    measured = params.measured(part)
    trainings = {cell.name: params.training(cell) for cell, _ in measured}
    seeds = Counter(cell.name for cell in params.cells(part)).values()
    kinds = {params.extractor_named(extractor).kind for _, extractor in measured}
    return {
        "scale": params.scale or "as written",
        "seeds": " to ".join(map(str, sorted({min(seeds), max(seeds)}))),
        "extractors": sorted({extractor for _, extractor in measured}),
        "inception": "inception" in kinds,
        "budgets": sorted(
            {
                (t.cell.dataset, t.cell.recipe, t.recipe.steps, t.recipe.batch)
                for t in trainings.values()
            }
        ),
        "select": (params.select.samples, params.select.split, params.select.nfe),
        "samples": params.sample.samples,
        "subsets": [
            f"{kid.subsets} subsets of {kid.subset_size}"
            for kid in params.evaluate.metrics.values()
            if kid.kind == "kid"
        ],
    }


# The names of folders carry the settings and the code that made what is in them. So an input counts as it
# is, whatever its time: a clone's and a pulled folder's times say nothing.
def as_it_is(path):
    return ancient(str(path))


def archive_of_run(wildcards):
    table, cell = found(runs, wildcards.run)
    return as_it_is(layout(table).data(cell.dataset) / "card.json")


def lender_of_run(wildcards):
    """The training whose model predicts, where a coupling has it from another."""
    table, cell = found(runs, wildcards.run)
    lender = layout(table).params.pretrained(cell)
    return [as_it_is(layout(table).train(lender[0]) / "record.json")] if lender else []


def flag_of_lender(wildcards, input):
    return "".join(f"--frozen {Path(record).parent} " for record in input.frozen)


def archive_of_extractor(wildcards):
    table, (dataset, _) = found(extractors, wildcards.extractor)
    return as_it_is(layout(table).data(dataset) / "card.json")


def extractor_of_eval(wildcards):
    table, (cell, extractor) = found(evals, f"{wildcards.run}/{wildcards.eval}")
    return as_it_is(layout(table).features(cell.dataset, extractor) / "card.json")


def reference_of_eval(wildcards):
    table, (cell, extractor) = found(evals, f"{wildcards.run}/{wildcards.eval}")
    return as_it_is(layout(table).reference(cell.dataset, extractor))


def key_of_table(wildcards):
    table, _, part = wildcards.table.partition("/")
    return layout(table).table_key(part)


def results_of_table(wildcards):
    """Every file that a table is made from."""
    table, _, part = wildcards.table.partition("/")
    where = layout(table)
    try:
        measured = where.params.measured(part)
    except Invalid as error:
        stop(f"results/{wildcards.table}.csv: {error}")
    force_if_old(f"results/{wildcards.table}.csv", where.table_key(part))
    for cell, extractor in measured:
        folder = where.evaluation(cell, extractor)
        yield as_it_is(where.data(cell.dataset) / "card.json")
        yield from (
            as_it_is(folder / name)
            for name in ("selection.json", "evaluation.json", "samples")
        )
        yield from map(as_it_is, where.records(cell, extractor).values())


def probes_of_grid(wildcards):
    """A file for every cell of the grid and kind of probe that it can have."""
    where = layout("table1")
    for cell in where.params.cells():
        for kind in where.params.probes(cell):
            yield as_it_is(where.probe(cell, kind))


def key_of_figure(wildcards):
    return layout(wildcards.study).figure_key()


def files_of_figure(wildcards):
    """Every file that a study's figure is made from."""
    where = layout(wildcards.study)
    try:
        files = where.figure_files()
    except Invalid as error:
        stop(f"{FILES[wildcards.study]}: {error}")
    force_if_old(where.figure(wildcards.study).as_posix(), where.figure_key())
    return list(map(as_it_is, files))


def force_if_old(made, key):
    """Has Snakemake make a table or figure that is of other settings or code than now, as its .key file says.

    Snakemake goes by times, and by records of its own that a clone does not have. Going back to former
    settings, or to a table that DVC kept, leaves no trace in either.
    """
    about = Path(made).with_suffix(".key")
    if Path(made).exists() and not (
        about.exists() and about.read_text().strip() == key
    ):
        workflow.dag.forcefiles.add(made)
