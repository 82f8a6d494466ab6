rule prepare:
    """a data set as arrays, from files or a download"""
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
        settings=flags_of("prepare"),
        out=subpath(output.card, parent=True),
    message:
        "prepare {wildcards.data}"
    shell:
        "couplet prepare {params.settings} --out {params.out}"
        " --workers {threads} > {log} 2>&1"


rule features:
    """an extractor, made ready for a data set"""
    input:
        card=input_of("features", "prepare"),
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
    threads: setting_of("features", "threads")
    resources:
        mem_mb=4000,
    params:
        settings=flags_of("features"),
        data=subpath(input.card, parent=True),
        out=subpath(output.card, parent=True),
    message:
        "features {wildcards.features}"
    shell:
        "couplet features {params.settings} --data {params.data}"
        " --out {params.out} --threads {threads} > {log} 2>&1"


rule reference:
    """features and moments of the real images"""
    input:
        card=input_of("reference", "prepare"),
        extractor=input_of("reference", "features"),
    output:
        statistics=directory("results/reference/{reference}"),
        record="results/reference/{reference}.record.json",
    log:
        "logs/reference/{reference}.log",
    benchmark:
        "logs/reference/{reference}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: setting_of("reference", "threads")
    resources:
        mem_mb=8000,
        gpu=setting_of("reference", "gpus"),
    params:
        settings=flags_of("reference"),
        data=subpath(input.card, parent=True),
        features=subpath(input.extractor, parent=True),
    message:
        "reference {wildcards.reference}"
    shell:
        "couplet reference {params.settings} --data {params.data} --features {params.features}"
        " --out {output.statistics} --threads {threads} --processes {resources.gpu} > {log} 2>&1"
