# The list of models that others have published, and the names behind a path of theirs.
from itertools import chain

from couplet.config.published import published_list
from couplet.plan import published as plan_of_published
from couplet.plan import stages

PUBLISHED = Path(config.get("published", "workflow/published.yaml")).expanduser()


wildcard_constraints:
    published="[^/]+",
    imported="[^/]+",
    measured="[^/]+",


@cache
def listed():
    """The list of published models; the table names those that cannot be measured."""
    return checked(published_list, PUBLISHED)


def real_images(model):
    """Reference, extractor and archive of a model: paths, or an extractor's name with the archive."""
    at = f"{PUBLISHED}: table = {model.table}: "
    if model.table not in FILES:
        stop(f"{at}{choices(model.table, FILES)}")
    references = chain.from_iterable(jobs(model.table, "reference").values())
    same = [job for job in references if job.cell.dataset == model.dataset]
    if not same:
        stop(f"{at}has no cell of data set {model.dataset}")
    measured = [job for job in same if job.name == model.extractor]
    archive = same[0].output("prepare")
    if measured:
        return (
            measured[0].output("reference"),
            measured[0].output("features"),
            archive,
        )
    checked(same[0].params.extractor_named, model.extractor, where=at)
    return archive, model.extractor, archive


def several(model):
    """Threads and processes of a model's jobs, where there are several: they change numbers by rounding."""
    params = layout(model.table).params
    return stages.parallel("evaluate", params.threads, params.gpus)


@cache
def published_jobs():
    """Models and what they report, by the folder of their images and numbers."""
    found = {}
    for name, model in listed().models.items():
        if model.missing is None:
            real = list(map(str, (*real_images(model), *several(model).items())))
            for reported in model.reported:
                key = plan_of_published.measured_key(
                    model, reported, listed().seed, real
                )
                folder = plan_of_published.measured_name(name, reported.nfe, key)
                found[folder] = (name, model, reported)
    return found


def imported_name(name, model):
    return f"{name}-{plan_of_published.import_key(model)}"


def model_imported(wildcards):
    """Name and settings of an imported model."""
    for name, model in listed().models.items():
        if wildcards.imported == imported_name(name, model):
            return name, model
    stop(f"results/published/{wildcards.imported}: {PUBLISHED} leads to no such name")


def measured_of(wildcards):
    """Name, settings and reported number of a folder of images."""
    if wildcards.measured not in published_jobs():
        stop(
            f"results/published/{wildcards.measured}: {PUBLISHED} leads to no such name"
        )
    return published_jobs()[wildcards.measured]


def checkpoint(wildcards):
    """The checkpoint of a model: downloaded, or a file of the user's; the hub's is downloaded on import."""
    name, model = model_imported(wildcards)
    if model.path is not None and not model.path.exists():
        stop(f"{PUBLISHED}: models.{name}.file = {model.file}: no such file")
    if model.path is not None:
        return as_it_is(model.path)
    return [ancient(f"raw/published/{name}")] if model.address else []


def import_flags(wildcards, input):
    """The checkpoint, and what its file may not tell."""
    _, model = model_imported(wildcards)
    source = str(input[0]) if input else model.file.removeprefix("hub:")
    options = {
        "--resolution": model.resolution,
        "--head-channels": model.head_channels,
    }
    flags = [
        f"{option} {value}" for option, value in options.items() if value is not None
    ]
    return " ".join([quote(source), *flags])


def generate_flags(wildcards):
    _, model, reported = measured_of(wildcards)
    levels = reported.mid_sigmas
    labels = real_images(model)[2] if model.labels == "data" else model.labels
    options = {
        "--count": model.samples,
        "--nfe": reported.nfe,
        "--seed": listed().seed,
        "--labels": labels,
        "--mid-sigmas": ",".join(map(str, levels)) if levels else None,
    }
    return " ".join(
        f"{option} {value}" for option, value in options.items() if value is not None
    )


def imported_model(wildcards):
    name, model, _ = measured_of(wildcards)
    return ancient(f"results/published/{imported_name(name, model)}/model.safetensors")


def archive_of_labels(wildcards):
    """The data set whose classes a model's images get, if any."""
    _, model, _ = measured_of(wildcards)
    wanted = model.labels == "data"
    return [as_it_is(real_images(model)[2] / "card.json")] if wanted else []


def compared_with(wildcards):
    """The files that images are compared with."""
    reference, extractor, archive = real_images(measured_of(wildcards)[1])
    if reference == archive:
        return [as_it_is(archive / "card.json")]
    return [as_it_is(reference), as_it_is(extractor / "card.json")]


def score_flags(wildcards):
    reference, extractor, _ = real_images(measured_of(wildcards)[1])
    seed = listed().seed
    return f"--reference {reference} --extractor {extractor} --seed {seed}"


def measured_table(wildcards):
    """The table whose parameter file sets threads and GPUs."""
    return layout(measured_of(wildcards)[1].table).params


def gpus_of_table(wildcards):
    return gpus("evaluate", measured_table(wildcards))


def cores_of_table(wildcards):
    return cores("evaluate", measured_table(wildcards))


def parallel_of_table(wildcards):
    return parallel("evaluate", measured_table(wildcards))


def scores(wildcards):
    """The files of numbers of all models that can be measured."""
    return [
        Path(f"results/published/{folder}/score.json") for folder in published_jobs()
    ]
