# Which cells there are, and the names behind a path. Parameters are read and checked here, once.
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from shlex import quote
from typing import NamedTuple
from uuid import uuid4

from couplet.config.base import Invalid, choices
from couplet.config.resolve import resolve, scales
from couplet.errors import UserError
from couplet.plan import summaries
from couplet.plan.code import check_running
from couplet.plan.layout import Layout, folder_name
from couplet.plan.resources import memory_mb
from couplet.plan.resources import minutes as minutes_of
from couplet.plan.stages import SELECTION, STAGES, beside, record_of
from couplet.provenance.record import is_intact, read_record
from snakemake.settings.types import DeploymentMethod


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


KNOWN = ("params", "scale", "published", "gpus")
if unknown := sorted({*config} - {*KNOWN}):
    stop(f"--config {unknown[0]}: {choices(unknown[0], KNOWN)}")
if (GPUS := config.get("gpus")) not in (None, 0):
    instead = "give 0, for a cluster without GPUs, or edit `gpus` of the parameter file"
    stop(f"--config gpus={GPUS}: {instead}")
checked(check_running, Path())
if DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method:
    if not Path("couplet.sif").exists():
        stop("couplet.sif: missing; `make sif` in couplet's repository makes it")

# A table per parameter file: results/table1.csv from params.yaml (`--config params=other.yaml` takes
# another file), results/gc.csv from workflow/papers/gc.yaml; at a scale, results/gc-small.csv.
# A study, workflow/studies/gc-mu.yaml, has a figure as well: results/paper/gc-mu.csv, .svg and .png.
# `--config scale=smoke` is the scale of all names without one; it replaces no result of another scale.
SCALE = None if config.get("scale") is None else str(config["scale"])
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
    "time": "results/times/{times}.json",
}

# With `--default-storage-provider`, each job is brought what its inputs name, and nothing else is kept of it.
STORED = workflow.storage_settings.default_storage_provider is not None

# The file that stands for a folder as the input of a later job.
CARD = "" if STORED else "card.json"


wildcard_constraints:
    table=rf"({'|'.join(map(re.escape, FILES))})(-\w+)?(/[\w.+-]+)?",
    data="[^/]+",
    features="[^/]+",
    reference="[^/]+",
    run="[^/]+",
    selection="select-[^/]+",
    samples="sample-[^/]+",
    evaluation="evaluate-[^/]+",
    probe="probe-[^/]+",
    times="[^/]+-[0-9a-f]{8}",
    study=rf"({'|'.join(re.escape(path.stem) for path in STUDIES)})(-\w+)?",
    at=r"(-\w+)?",


def origin(table):
    """The parameter file of a table, and the scale that its name ends with, or that of the command."""
    if table in FILES:
        return FILES[table], SCALE
    name, _, scale = table.rpartition("-")
    return FILES[name], scale


@cache
def layout(table):
    """The paths of a table's files."""
    asked[table] = None
    return Layout(checked(resolve, *origin(table)), Path("results"))


# Tables in the order in which this run of Snakemake came to them, so that jobs are looked for there first.
asked = {}


class Job(NamedTuple):
    """The names behind an output."""

    table: str
    cell: object
    name: str  # of the extractor, the probe or the measurement of time

    @property
    def params(self):
        return layout(self.table).params

    def output(self, stage):
        return layout(self.table).output(stage, self.cell, self.name)


def tables():
    """Every table: those that led here, then each file as it is written, then each at all of its scales."""
    yield from list(asked)
    yield from (
        name
        for name, path in FILES.items()
        if SCALE is None or SCALE in checked(scales, path)
    )
    for name, path in FILES.items():
        yield from (f"{name}-{scale}" for scale in checked(scales, path))


@cache
def jobs(table, stage, part=""):
    """The jobs of a stage in a table, or in a part of it, by the name of their folder without its key.

    Keys are computed only where a name is the one that is looked for: each job of a cluster has a Snakemake of
    its own, which wants a single one of thousands of cells.
    """
    params = layout(table).params
    pairs = params.measured()
    if stage == "time":
        try:
            timed = layout(table).timed(part)
        except Invalid:  # no such part
            timed = {}
        pairs = [(cells[0], name) for name, cells in timed.items()]
    if stage == "probe":
        pairs = [
            (cell, name) for cell in params.cells() for name in params.probes_of(cell)
        ]
    if stage in SELECTION:
        pairs = summaries.selected(params)
    found = {}
    for cell, name in pairs:
        same = found.setdefault(folder_name(stage, cell, name), [])
        if "{run}" in OUTPUTS[stage] or not same:
            same.append(Job(table, cell, name))
    return found


def job_of(stage, wildcards):
    """The job of a stage with these wildcards, in the first table that has it."""
    path = Path(OUTPUTS[stage].format(**wildcards))
    name = path.parts[2].rpartition("-")[0]
    # A parameter file is read only when a job is looked for in it.
    for table in tables():
        for job in jobs(table, stage, name if stage == "time" else "").get(name, ()):
            if job.output(stage) == path:
                return job
    stop(f"{path}: no parameter file leads to this name")


def as_it_is(path):
    """An input that counts whatever its time: the times of a clone's and a pulled folder mean nothing."""
    # Names of folders carry the settings and the code of their content.
    return ancient(path.as_posix())


def input_of(stage, read):
    """The output of an earlier stage that a job reads."""

    def path(wildcards):
        output = job_of(stage, wildcards).output(read)
        return as_it_is(output / CARD if read in ("prepare", "features") else output)

    return path


def folder(path):
    """A folder with a card, as an output."""
    return f"{path}/{CARD}" if CARD else directory(path)


def without_card(path):
    """The folder that such an input or output stands for."""
    return str(Path(path).parent) if CARD else path


def folder_of(card):
    """The folder that an input stands for, as a parameter of a rule."""
    return lambda wildcards, input: without_card(getattr(input, card))


def folder_made(wildcards, output):
    """The folder that a card stands for, as a parameter of the rule that writes it."""
    return without_card(output.card)


def only_stored(*paths):
    """Outputs that need no mention where files stay in their folder."""
    return [*paths] if STORED else []


def also_read(stage, output):
    """What commands read besides an output that is named as an input."""
    if stage == "train":
        return [output / name for name in ("config.json", "curve.csv", "checkpoints")]
    return [record_of(stage, output)]


def rest_of(stage):
    """All that a job reads and its other inputs do not name; nothing where files stay in their folder."""

    def paths(wildcards):
        job = job_of(stage, wildcards)
        outputs = [(read, job.output(read)) for read in STAGES[stage].reads]
        frozen = frozen_run(stage)(wildcards) if stage in ("train", "probe") else []
        outputs += [("train", Path(record).parent) for record in frozen]
        return [as_it_is(file) for each in outputs for file in also_read(*each)]

    return paths if STORED else []


def with_rest(files):
    """The inputs of a table or figure, with the files beside them that it reads where there is a storage."""
    for file in files:
        yield as_it_is(file.parent if STORED and file.name == "card.json" else file)
        if STORED and file.name == "evaluation.json":
            yield as_it_is(file.with_suffix(".metrics.json"))
        if STORED and file.parent.name == "features":
            yield as_it_is(Path(str(file).removesuffix(".record.json")))
        if STORED and file.parent.name == "train":
            yield from map(as_it_is, also_read("train", file.parent)[:2])


def originals_of_archive(wildcards):
    """Files and folders of images that the parameters name; refuses an archive that was edited."""
    job = job_of("prepare", wildcards)
    archive = job.output("prepare")
    record = record_of("prepare", archive)
    if record.exists() and not is_intact(checked(read_record, record)):
        again = f"couplet prepare {flags_of('prepare')(wildcards)} --out {archive}"
        stop(
            f"{archive}: edited or damaged since it was written; write it again: {again}"
        )
    dataset = job.params.dataset_named(job.cell.dataset)
    return [local(as_it_is(path)) for path in dataset.originals_named.values()]


def frozen_run(stage):
    """The record of the run whose model is a job's frozen predictor, if it has one."""

    def records(wildcards):
        job = job_of(stage, wildcards)
        frozen = job.params.training(job.cell).frozen_run
        runs = [job._replace(cell=frozen.cell)] if frozen else []
        return [as_it_is(record_of("train", run.output("train"))) for run in runs]

    return records


def flag_of_frozen(wildcards, input):
    return "".join(f"--frozen {Path(record).parent} " for record in input.frozen)


# MB and minutes of jobs that belong to no cell.
NEEDS = {
    "published_download": (1000, 60),
    "published_import": (8000, 60),
    "published_sample": (16000, 240),
    "published_score": (32000, 240),
}


@cache
def on_cpu(table):
    """The parameters of a table without its GPUs."""
    return layout(table).params.model_copy(update={"gpus": 0})


def needs(stage, wildcards):
    """MB and minutes of a job."""
    if stage in NEEDS:
        return NEEDS[stage]
    table, cell, _ = job_of(stage, wildcards)
    return estimated(stage, table, cell)


@cache
def estimated(stage, table, cell):
    """MB and minutes, which Snakemake asks for one by one, and for each attempt."""
    params = layout(table).params if GPUS is None else on_cpu(table)
    processes = 1 if GPUS is None else max(1, layout(table).params.gpus)
    return processes * memory_mb(params, stage, cell), minutes_of(params, stage, cell)


@cache
def largest_node():
    """MB of the largest node of this Slurm; 0 where there is none."""
    if shutil.which("sinfo") is None:
        return 0
    command = ["sinfo", "--noheader", "--format=%m"]
    done = subprocess.run(command, capture_output=True, text=True)
    return max(map(int, re.findall(r"\d+", done.stdout)), default=0)


def memory(stage):
    """MB that a job asks for: as much again after each attempt, as far as a node has it."""

    def megabytes(wildcards, attempt):
        first, _ = needs(stage, wildcards)
        return (
            first if attempt == 1 else min(attempt * first, max(first, largest_node()))
        )

    return megabytes


def minutes(stage):
    """Minutes that a job asks for: equally, but a training resumes."""

    def of_attempt(wildcards, attempt):
        _, first = needs(stage, wildcards)
        return first if stage == "train" else attempt * first

    return of_attempt


def threads_of(stage):
    return lambda wildcards: job_of(stage, wildcards).params.threads


def gpus(stage, params):
    """GPUs that a job asks for; a stage that shares no work among processes has use for one."""
    shared = "processes" in STAGES[stage].parallel
    return 0 if GPUS == 0 else params.gpus if shared else min(1, params.gpus)


def parallel(stage, params):
    """Threads, processes and device of a job as options, which decide numbers: never what a scheduler gives."""
    words = {
        "threads": f"--threads {params.threads}",
        "processes": f"--processes {max(1, params.gpus)}",
    }
    device = ["--device cpu"] if 0 in (GPUS, params.gpus) else []
    return " ".join([*(words[each] for each in STAGES[stage].parallel), *device])


def cores(stage, params):
    """Cores that a job asks for: a GPU wants some beside its threads, to load batches and to be kept busy."""
    return max(params.threads, 4 * gpus(stage, params))


def cores_of(stage):
    return lambda wildcards: cores(stage, job_of(stage, wildcards).params)


def nodes(stage, params):
    """Nodes that a job asks for, each with the cores, memory and GPUs of the other functions."""
    return params.nodes if STAGES[stage].across_nodes else 1


def nodes_of(stage):
    return lambda wildcards: nodes(stage, job_of(stage, wildcards).params)


def gpus_of(stage):
    """GPUs of all nodes of a job."""

    def count(wildcards):
        params = job_of(stage, wildcards).params
        return nodes(stage, params) * gpus(stage, params)

    return count


def on_several_nodes(name):
    """A resource of a training on several nodes, and of no other job.

    `couplet train` calls srun itself, for a task on each node, so that Slurm's executor must not: `mpi`.
    """

    def value(wildcards):
        params = job_of("train", wildcards).params
        each = gpus("train", params)
        wanted = {
            "mpi": "srun",
            "tasks": params.nodes,
            "tasks_per_gpu": 0,
            "gres": f"gpu:{each}" if each else None,
        }
        return wanted[name] if params.nodes > 1 else None

    return value


def parallel_of(stage):
    return lambda wildcards: parallel(stage, job_of(stage, wildcards).params)


def time_limit(wildcards, resources):
    """The beginning of a command that ends a training before a scheduler does."""
    before = resources.save_ahead
    return (
        f"timeout --foreground {max(1, resources.runtime - before)}m " if before else ""
    )


def logged(command):
    """A shell command whose log has every attempt, below a line for each.

    Snakemake removes a log before an attempt; the hidden file that it is a link to stays.
    """
    begins = (
        "== $(date '+%F %T') on $(hostname)${{SLURM_JOB_ID:+, Slurm job $SLURM_JOB_ID}}"
    )
    link = 'log={log}; all="${{log%/*}}/.${{log##*/}}.all"; touch "$all"; ln -f "$all" {log}'
    return f'{link}; {{{{ echo "{begins}"; {command}; }}}} >> {{log}} 2>&1'


def flags(table):
    """Parameter file and scale as command-line options."""
    path, scale = origin(table)
    return f"--params {quote(str(path))}" + (f" --scale {scale}" if scale else "")


def flags_of(stage):
    """Parameter file and scale of a job, and its names, unless a later stage reads them from its inputs."""

    def words(wildcards):
        table, cell, name = job_of(stage, wildcards)
        names = {
            "prepare": cell.dataset,
            "features": f"--extractor {name}",
            "train": " ".join(f"--{key} {value}" for key, value in cell),
            "probe": name,
            "time": f"--part {name}",
        }
        return f"{names.get(stage, '')} {flags(table)}".strip()

    return words


# The tables, figures and pages of this run of Snakemake, for its last screen.
shown = {}


def free(output):
    """Whether `--config scale=` may write here: nothing stands or is recorded here but a table of that scale."""
    if not any(map(Path.exists, (output, output.with_name(f"{output.name}.dvc")))):
        return True
    try:
        return read_record(beside(output)).content["settings"]["scale"] == SCALE
    except (UserError, KeyError):
        return False


def trigger(summary, key, plain=True):
    """A file that is newer than a table, figure or page unless this is current, as its record says.

    Names of summaries carry no key. Snakemake goes by times, and by records of its own that a clone does not
    have; going back to former settings, or to a table of another commit, leaves no trace in either.
    ``plain``: the name has no scale of its own.
    """
    output, marker = Path("results", summary), Path("results/.keys", summary)
    shown[output.as_posix()] = None
    marker.parent.mkdir(parents=True, exist_ok=True)
    if STORED:
        # Summary and record are not here; the marker stays as old as its key.
        if not marker.exists() or marker.read_text() != key:
            marker.write_text(key)
        return local(marker.as_posix())
    current = summaries.is_current(output, key)
    if plain and SCALE is not None and not current and not free(output):
        instead = f"ask for a name with the scale, such as results/table1-{SCALE}.csv"
        stop(f"{output}: is not of scale {SCALE}, and is kept; {instead}")
    if current:
        marker.touch()
        os.utime(marker, (0, 0))
        link_page()
    else:
        # Snakemake takes an input of the same content for the same, whatever its time.
        marker.write_text(f"{uuid4()}\n")
        if output.exists() and output.stat().st_mtime >= marker.stat().st_mtime:
            # Written by a clock that is ahead; Snakemake refuses inputs from the future, and ignores time 0.
            os.utime(output, (1, 1))
    return local(marker.as_posix())


def link_page():
    """Make results/index.html lead to the first page that this run of Snakemake was asked for."""
    pages = [path.with_suffix(".html") for path in map(Path, shown)]
    if page := next((page for page in pages if page.exists()), None):
        # A link and no copy: it is never older than the page.
        link = Path("results/.keys/index.html")
        link.unlink(missing_ok=True)
        link.symlink_to(page.relative_to("results"))
        link.replace("results/index.html")


def rows_of(wildcards):
    """The name of a table, and how the names of its cells begin."""
    table, _, part = wildcards.table.partition("/")
    return table, part


def files_of_table(wildcards):
    """Every file that a table is made from."""
    (table, part), name = rows_of(wildcards), f"{wildcards.table}.csv"
    where = f"results/{name}: "
    files = checked(summaries.table_files, layout(table), part, where=where)
    key = summaries.table_key(layout(table), part)
    return [*with_rest(files), trigger(name, key, table in FILES)]


def flags_of_table(wildcards):
    table, part = rows_of(wildcards)
    return flags(table) + (f" --part {part}" if part else "")


def about_table(wildcards):
    """Facts for the captions of the report."""
    table, part = rows_of(wildcards)
    return summaries.table_facts(layout(table).params, part)


def captions(wildcards):
    """The captions of all studies that have a page's scale."""
    scale = wildcards.at.removeprefix("-") or SCALE
    names = [
        path.stem for path in STUDIES if not scale or scale in checked(scales, path)
    ]
    return [Path("results/paper", f"{name}{wildcards.at}.json") for name in names]


def files_of_page(wildcards):
    """Every caption and picture of the page."""
    files = captions(wildcards)
    figures = [summaries.figure_key(layout(caption.stem)) for caption in files]
    marker = trigger(
        f"paper{wildcards.at}.html", summaries.page_key(figures), not wildcards.at
    )
    files += [caption.with_suffix(".svg") for caption in files]
    # An old page must be made after its figures; Snakemake does not pass that on through `ancient`.
    current = Path(marker).stat().st_mtime == 0
    return [*(as_it_is(file) if current else file for file in files), marker]


def files_of_figure(wildcards):
    """Every file that a study's figure is made from."""
    where, (file, _) = layout(wildcards.study), origin(wildcards.study)
    files = checked(summaries.figure_files, where, where=f"{file}: ")
    key = summaries.figure_key(where)
    return [
        *with_rest(files),
        trigger(f"paper/{wildcards.study}.csv", key, wildcards.study in FILES),
    ]
