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
        dataset=name_and_file_of_archive,
        out=subpath(output.card, parent=True),
    shell:
        "couplet prepare {params.dataset} --out {params.out}"
        " --workers {threads} > {log} 2>&1"


rule features:
    input:
        card=archive_of_extractor,
    output:
        # The card names the weights by their digest; only a trained classifier lies beside it.
        card="results/features/{extractor}/card.json",
        record="results/features/{extractor}.record.json",
    log:
        "logs/features/{extractor}.log",
    benchmark:
        "logs/features/{extractor}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: threads_of_extractor
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
        card=archive_of_extractor,
        extractor=ancient("results/features/{extractor}/card.json"),
    output:
        statistics=directory("results/reference/{extractor}"),
        record="results/reference/{extractor}.record.json",
    log:
        "logs/reference/{extractor}.log",
    benchmark:
        "logs/reference/{extractor}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: threads_of_extractor
    resources:
        mem_mb=8000,
        gpu=gpus_of_extractor,
    params:
        data=subpath(input.card, parent=True),
        features=subpath(input.extractor, parent=True),
    shell:
        "couplet reference --data {params.data} --features {params.features}"
        " --out {output.statistics} --threads {threads} --processes {resources.gpu} > {log} 2>&1"
