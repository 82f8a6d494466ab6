DATA = "results/data/{data}"
FEATURES = "results/features/{features}"
REFERENCE = "results/reference/{reference}"


def flags_of_archive(wildcards):
    table, cell = found(DATA.format(**wildcards))
    return f"{cell.dataset} {flags(table)}"


def originals_of_archive(wildcards):
    """Files and folders of images that the parameters name."""
    table, cell = found(DATA.format(**wildcards))
    dataset = layout(table).params.dataset_named(cell.dataset)
    paths = [getattr(dataset, key) for key in dataset.by_content]
    return [as_it_is(path) for path in paths if path is not None]


def flags_of_extractor(wildcards):
    table, _, extractor = found(FEATURES.format(**wildcards))
    return f"{flags(table)} --extractor {extractor}"


rule prepare:
    input:
        originals=originals_of_archive,
    output:
        # The card holds the digest of every array; a data set may have no test arrays.
        card="results/data/{data}/card.json",
        train=expand(
            "results/data/{{data}}/train-{part}.npy", part=["images", "labels"]
        ),
        record="results/data/{data}.record.json",
    log:
        "logs/prepare/{data}.log",
    benchmark:
        "logs/prepare/{data}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: 2
    resources:
        mem_mb=2000,
    params:
        dataset=flags_of_archive,
        out=subpath(output.card, parent=True),
    shell:
        "couplet prepare {params.dataset} --out {params.out}"
        " --workers {threads} > {log} 2>&1"


rule features:
    input:
        card=card_of("prepare", FEATURES),
    output:
        # The card names the weights by their digest; only a trained classifier lies beside it.
        card="results/features/{features}/card.json",
        record="results/features/{features}.record.json",
    log:
        "logs/features/{features}.log",
    benchmark:
        "logs/features/{features}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: setting_of("threads", FEATURES)
    resources:
        mem_mb=4000,
    params:
        extractor=flags_of_extractor,
        data=subpath(input.card, parent=True),
        out=subpath(output.card, parent=True),
    shell:
        "couplet features {params.extractor} --data {params.data}"
        " --out {params.out} --threads {threads} > {log} 2>&1"


rule reference:
    input:
        card=card_of("prepare", REFERENCE),
        extractor=card_of("features", REFERENCE),
    output:
        statistics=directory("results/reference/{reference}"),
        record="results/reference/{reference}.record.json",
    log:
        "logs/reference/{reference}.log",
    benchmark:
        "logs/reference/{reference}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: setting_of("threads", REFERENCE)
    resources:
        mem_mb=8000,
        gpu=setting_of("gpus", REFERENCE),
    params:
        data=subpath(input.card, parent=True),
        features=subpath(input.extractor, parent=True),
    shell:
        "couplet reference --data {params.data} --features {params.features}"
        " --out {output.statistics} --threads {threads} --processes {resources.gpu} > {log} 2>&1"
