# Which cells there are, and the names behind a path. Parameters are read and checked here, once.
import os
import re
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from couplet.config.base import Invalid, choices
from couplet.config.resolve import knows_scale, resolve
from couplet.errors import UserError
from couplet.plan import summaries
from couplet.plan.code import check_running
from couplet.plan.layout import Layout
from couplet.plan.stages import record_of
from couplet.provenance.chain import is_intact, read_record


def stop(message):
    """End Snakemake with one line, as the command line does."""
    print(f"couplet: {message}", file=sys.stderr)
    sys.exit(2)


def checked(function, *arguments, where=""):
    """The result of a function of couplet's; an error of the user's ends Snakemake."""
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
FILES = {"table1": Path(config.get("params", "params.yaml")).expanduser()}
STUDIES = sorted(Path("workflow/studies").glob("[!_]*.yaml"))
for path in (*STUDIES, *sorted(Path("workflow/papers").glob("*.yaml"))):
    if path.stem in FILES or not re.fullmatch(r"[\w.+-]+", path.stem):
        stop(f"{path}: a table cannot be called {path.stem!r}; rename the file")
    FILES[path.stem] = path


OUTPUTS = {
    "prepare": "results/data/{data}",
    "features": "results/features/{features}",
    "reference": "results/reference/{reference}",
    "train": "results/runs/{run}/train",
    "select": "results/runs/{run}/{selection}/selection.json",
    "sample": "results/runs/{run}/{samples}/samples",
    "evaluate": "results/runs/{run}/{evaluation}/evaluation.json",
    "probe": "results/runs/{run}/{probe}/probe.csv",
}

# The file that stands for a folder as the input of a later job.
IN_FOLDER = {"prepare": "card.json", "features": "card.json"}


wildcard_constraints:
    table=rf"({'|'.join(map(re.escape, FILES))})(/[\w.+-]+)?",
    data="[^/]+",
    features="[^/]+",
    reference="[^/]+",
    run="[^/]+",
    selection="select-[^/]+",
    samples="sample-[^/]+",
    evaluation="evaluate-[^/]+",
    probe="probe-[^/]+",
    study="|".join(re.escape(path.stem) for path in STUDIES),


class Job(NamedTuple):
    """The names behind an output."""

    table: str
    cell: object
    name: str  # of the extractor or the probe


@cache
def layout(table):
    """The paths of a table's files."""
    return Layout(checked(resolve, FILES[table], SCALE), Path("results"))


@cache
def has_scale(table):
    """Whether a parameter file has the scale of `--config`."""
    return SCALE is None or checked(knows_scale, FILES[table], SCALE)


@cache
def jobs(table, stage):
    """The jobs of a stage in a table, by the path of their output."""
    where = layout(table)
    params = where.params
    if stage == "probe":
        pairs = [
            (cell, name) for cell in params.cells() for name in params.probes_of(cell)
        ]
    else:
        pairs = params.measured()
    return {
        where.output(stage, cell, name).as_posix(): Job(table, cell, name)
        for cell, name in pairs
    }


def job_of(stage, wildcards):
    """The job of a stage with these wildcards, in the first table that has it."""
    path = OUTPUTS[stage].format(**wildcards)
    # A parameter file is read only when a job is looked for in it.
    for table in filter(has_scale, FILES):
        if path in jobs(table, stage):
            return jobs(table, stage)[path]
    stop(f"{path}: no parameter file leads to this name")


def as_it_is(path):
    """An input that counts whatever its time: the times of a clone's and a pulled folder mean nothing."""
    # Names of folders carry the settings and the code of their content.
    return ancient(path.as_posix())


def input_of(stage, read):
    """The output of an earlier stage that a job reads."""

    def path(wildcards):
        table, cell, name = job_of(stage, wildcards)
        return as_it_is(
            layout(table).output(read, cell, name) / IN_FOLDER.get(read, "")
        )

    return path


def originals_of_archive(wildcards):
    """Files and folders of images that the parameters name; refuses an archive that was edited."""
    table, cell, _ = job_of("prepare", wildcards)
    dataset = layout(table).params.dataset_named(cell.dataset)
    archive = layout(table).data(cell.dataset)
    record = record_of("prepare", archive)
    if record.exists() and not is_intact(checked(read_record, record)):
        again = f"couplet prepare {flags_of('prepare')(wildcards)} --out {archive}"
        stop(
            f"{archive}: edited or damaged since it was written; write it again: {again}"
        )
    return list(map(as_it_is, dataset.originals_named.values()))


def frozen_run(stage):
    """The record of the run whose model is a job's frozen predictor, if it has one."""

    def records(wildcards):
        table, cell, _ = job_of(stage, wildcards)
        where = layout(table)
        frozen = where.params.training(cell).frozen_run
        return (
            [as_it_is(record_of("train", where.train(frozen.cell)))] if frozen else []
        )

    return records


def flag_of_frozen(wildcards, input):
    return "".join(f"--frozen {Path(record).parent} " for record in input.frozen)


def setting_of(stage, name):
    """A setting of a job's parameter file: its threads or GPUs."""
    return lambda wildcards: getattr(
        layout(job_of(stage, wildcards).table).params, name
    )


def flags(table):
    """Parameter file and scale as command-line options."""
    return f"--params {FILES[table]}" + (f" --scale {SCALE}" if SCALE else "")


def flags_of(stage):
    """Parameter file and scale of a job, and its names, unless a later stage reads them from its inputs."""

    def words(wildcards):
        table, cell, name = job_of(stage, wildcards)
        names = {
            "prepare": cell.dataset,
            "features": f"--extractor {name}",
            "train": " ".join(f"--{key} {value}" for key, value in cell),
            "probe": name,
        }
        return f"{names.get(stage, '')} {flags(table)}".strip()

    return words


def trigger(summary, key):
    """A file that is newer than a table, figure or page unless this is current, as its record says.

    Names of summaries carry no key. Snakemake goes by times, and by records of its own that a clone does not
    have; going back to former settings, or to a table of another commit, leaves no trace in either.
    """
    output, marker = Path("results", summary), Path("results/.keys", summary)
    marker.parent.mkdir(parents=True, exist_ok=True)
    if summaries.is_current(output, key):
        marker.touch()
        os.utime(marker, (0, 0))
    else:
        # Snakemake takes an input of the same content for the same, whatever its time.
        marker.write_text(f"{uuid4()}\n")
        if output.exists() and output.stat().st_mtime >= marker.stat().st_mtime:
            # Written by a clock that is ahead; Snakemake refuses inputs from the future, and ignores time 0.
            os.utime(output, (1, 1))
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


def flags_of_table(wildcards):
    table, _, part = wildcards.table.partition("/")
    return flags(table) + (f" --part {part}" if part else "")


def about_table(wildcards):
    """Facts for the captions of the report."""
    table, _, part = wildcards.table.partition("/")
    return summaries.table_facts(layout(table).params, part)


CAPTIONS = [Path("results/paper", f"{study.stem}.json") for study in STUDIES]


def files_of_page(wildcards):
    """Every caption and picture of the page."""
    figures = [summaries.figure_key(layout(study.stem)) for study in STUDIES]
    marker = trigger("paper.html", summaries.page_key(figures))
    files = [*CAPTIONS, *(caption.with_suffix(".svg") for caption in CAPTIONS)]
    # An old page must be made after its figures; Snakemake does not pass that on through `ancient`.
    current = Path(marker).stat().st_mtime == 0
    return [*(as_it_is(file) if current else file for file in files), marker]


def files_of_figure(wildcards):
    """Every file that a study's figure is made from."""
    where, file = layout(wildcards.study), FILES[wildcards.study]
    files = checked(summaries.figure_files, where, where=f"{file}: ")
    key = summaries.figure_key(where)
    return [*map(as_it_is, files), trigger(f"paper/{wildcards.study}.csv", key)]
