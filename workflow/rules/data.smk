rule prepare:
    """a data set as arrays, from files or a download"""
    input:
        originals=originals_of_archive,
    output:
        # The card holds the digest of every array; a data set may have no test arrays.
        card=folder("results/data/{data}"),
        train=[
            f"results/data/{{data}}/train-{part}.npy"
            for part in ("images", "labels")
            if not STORED
        ],
        record="results/data/{data}.record.json",
    log:
        "logs/prepare/{data}.log",
    benchmark:
        "logs/prepare/{data}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: 2
    resources:
        mem_mb=memory("prepare"),
        runtime=minutes("prepare"),
    params:
        settings=flags_of("prepare"),
        out=folder_made,
    message:
        "prepare {wildcards.data}"
    shell:
        logged(
            "couplet prepare {params.settings} --out {params.out}"
            " --workers {threads}"
        )


rule features:
    """an extractor, made ready for a data set"""
    input:
        card=input_of("features", "prepare"),
        rest=rest_of("features"),
    output:
        # The card names the weights by their digest; only a trained classifier lies beside it.
        card=folder("results/features/{features}"),
        record="results/features/{features}.record.json",
    log:
        "logs/features/{features}.log",
    benchmark:
        "logs/features/{features}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: threads_of("features")
    resources:
        mem_mb=memory("features"),
        runtime=minutes("features"),
        gpu=gpus_of("features"),
        cpus_per_task=cores_of("features"),
    params:
        settings=flags_of("features"),
        parallel=parallel_of("features"),
        data=folder_of("card"),
        out=folder_made,
    message:
        "features {wildcards.features}"
    shell:
        logged(
            "couplet features {params.settings} --data {params.data}"
            " --out {params.out} {params.parallel}"
        )


rule reference:
    """features and moments of the real images"""
    input:
        card=input_of("reference", "prepare"),
        extractor=input_of("reference", "features"),
        rest=rest_of("reference"),
    output:
        statistics=directory("results/reference/{reference}"),
        record="results/reference/{reference}.record.json",
    log:
        "logs/reference/{reference}.log",
    benchmark:
        "logs/reference/{reference}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: threads_of("reference")
    resources:
        mem_mb=memory("reference"),
        runtime=minutes("reference"),
        gpu=gpus_of("reference"),
        cpus_per_task=cores_of("reference"),
    params:
        settings=flags_of("reference"),
        parallel=parallel_of("reference"),
        data=folder_of("card"),
        features=folder_of("extractor"),
    message:
        "reference {wildcards.reference}"
    shell:
        logged(
            "couplet reference {params.settings} --data {params.data} --features {params.features}"
            " --out {output.statistics} {params.parallel}"
        )
