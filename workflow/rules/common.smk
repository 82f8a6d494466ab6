# Reads and checks parameters once; everything else here is names and paths.
import os
import re
import sys
from collections import Counter
from functools import cache
from pathlib import Path

from couplet.config.base import Invalid, choices
from couplet.config.resolve import knows_scale, resolve
from couplet.errors import UserError
from couplet.plan import summaries
from couplet.plan.code import check_running
from couplet.plan.layout import Layout
from couplet.plan.stages import beside, record_of


def stop(message):
    """End Snakemake with one line, as the command line does."""
    print(f"couplet: {message}", file=sys.stderr)
    sys.exit(2)


def checked(function, *arguments, where=""):
    """The result of a function of couplet's; a user's error ends Snakemake."""
    try:
        return function(*arguments)
    except (UserError, Invalid) as error:
        stop(f"{where}{error}")


if unknown := sorted(set(config) - {"params", "scale"}):
    stop(f"--config {unknown[0]}: {choices(unknown[0], ['params', 'scale'])}")
checked(check_running, Path())

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
    features="[^/]+",
    reference="[^/]+",
    run="[^/]+",
    selection="select-[^/]+",
    samples="sample-[^/]+",
    evaluation="evaluate-[^/]+",
    study="|".join(re.escape(path.stem) for path in STUDIES),
    probe="[^/]+",
    key="[0-9a-f]{8}",


@cache
def layout(table):
    """The paths of a table's files."""
    return Layout(checked(resolve, FILES[table], SCALE), Path("results"))


@cache
def jobs(table):
    """Cell and extractor, where it has one, by the path of every output of a table's cells."""
    where = layout(table)
    named = {}
    for cell, extractor in where.params.measured():
        outputs = where.outputs(cell, extractor)
        named[outputs["prepare"]] = (cell,)
        named[outputs["train"]] = (cell,)
        named |= dict.fromkeys(
            (outputs[stage] for stage in outputs if stage not in ("prepare", "train")),
            (cell, extractor),
        )
    return {path.as_posix(): names for path, names in named.items()}


@cache
def probes(table):
    """Cell and probe by the path of the probe's output."""
    where = layout(table)
    return {
        where.probe(cell, name).as_posix(): (cell, name)
        for cell in where.params.cells()
        for name in where.params.probes_of(cell)
    }


def found(path, outputs=jobs):
    """The first table that has the output ``path``, and the cell and extractor that it is of there."""
    # A file is read only when a job is looked for in it.
    for table, file in FILES.items():
        known = SCALE is None or checked(knows_scale, file, SCALE)
        if known and path in outputs(table):
            return table, *outputs(table)[path]
    stop(f"{path}: no parameter file leads to this name")


def flags(table):
    """Parameter file and scale as command-line options."""
    return f"--params {FILES[table]}" + (f" --scale {SCALE}" if SCALE else "")


def flags_of(pattern, outputs=jobs):
    """Parameter file and scale of the job with an output."""
    return lambda wildcards: flags(found(pattern.format(**wildcards), outputs)[0])


def setting_of(name, pattern, outputs=jobs):
    """A setting of the parameter file of the job with an output: its threads or GPUs."""

    def setting(wildcards):
        table = found(pattern.format(**wildcards), outputs)[0]
        return getattr(layout(table).params, name)

    return setting


# Names of folders carry the settings and the code of their content. So an input counts as it is, whatever its
# time: a clone's and a pulled folder's times say nothing.
def as_it_is(path):
    return ancient(Path(path).as_posix())


def inputs_of(stage, pattern):
    """The output of an earlier stage that a job reads."""

    def output(wildcards):
        table, cell, extractor = found(pattern.format(**wildcards))
        return as_it_is(layout(table).outputs(cell, extractor)[stage])

    return output


def card_of(stage, pattern):
    """The card in the folder of an earlier stage."""

    def card(wildcards):
        table, cell, *extractor = found(pattern.format(**wildcards))
        where = layout(table)
        folder = (
            where.features(cell.dataset, *extractor)
            if stage == "features"
            else where.data(cell.dataset)
        )
        return as_it_is(folder / "card.json")

    return card


def frozen_runs(pattern, outputs=jobs):
    """The record of the run whose model is a job's frozen predictor, if it has one."""

    def records(wildcards):
        table, cell, *_ = found(pattern.format(**wildcards), outputs)
        where = layout(table)
        frozen = where.params.training(cell).frozen_run
        return (
            [as_it_is(record_of("train", where.train(frozen.cell)))] if frozen else []
        )

    return records


def flag_of_frozen(wildcards, input):
    return "".join(f"--frozen {Path(record).parent} " for record in input.frozen)


def trigger(made, key):
    """A file that is newer than a table or figure unless this is current, as its record says.

    Snakemake goes by times, and by records of its own that a clone does not have. Going back to former
    settings, or to a table that DVC kept, leaves no trace in either.
    """
    marker = Path("results/.keys") / made
    if not marker.exists() or marker.read_text() != key:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_text(key)
    current = summaries.is_current(Path("results") / made, key)
    os.utime(marker, (0, 0) if current else None)
    return marker.as_posix()


def files_of_table(wildcards):
    """Every file that a table is made from."""
    table, _, part = wildcards.table.partition("/")
    name = f"{wildcards.table}.csv"
    files = checked(
        summaries.table_files, layout(table), part, where=f"results/{name}: "
    )
    key = summaries.table_key(layout(table), part)
    return [*map(as_it_is, files), trigger(name, key)]


def files_of_figure(wildcards):
    """Every file that a study's figure is made from."""
    where, file = layout(wildcards.study), FILES[wildcards.study]
    files = checked(summaries.figure_files, where, where=f"{file}: ")
    return [
        *map(as_it_is, files),
        trigger(f"paper/{wildcards.study}.csv", summaries.figure_key(where)),
    ]


def flags_of_table(wildcards):
    table, _, part = wildcards.table.partition("/")
    return flags(table) + (f" --part {part}" if part else "")


def about_table(wildcards):
    """Facts for the captions of the report."""
    table, _, part = wildcards.table.partition("/")
    params = layout(table).params
    measured = params.measured(part)
    trainings = {cell.name: params.training(cell) for cell, _ in measured}
    seeds = Counter(cell.name for cell in params.cells(part)).values()
    kinds = {params.extractor_named(extractor).kind for _, extractor in measured}
    kid = params.evaluate.metrics.get("kid")
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
        "kid": (kid.subsets, kid.subset_size) if kid else None,
    }


def probes_of_grid(wildcards):
    """A file for every cell of the grid and probe that it can have."""
    return list(map(as_it_is, probes("table1")))
