rule prepare:
    input:
        code=source_files("prepare"),
    output:
        card="results/data/{data}/card.json",
        arrays=expand(
            "results/data/{{data}}/{split}-{part}.npy",
            split=["train", "test"],
            part=["images", "labels"],
        ),
    log:
        "logs/prepare/{data}.log",
    benchmark:
        "logs/prepare/{data}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        file=PARAMS_FILE,
        dataset=lambda wildcards: DATASETS[wildcards.data],
        out=subpath(output.card, parent=True),
    shell:
        "couplet prepare --params {params.file} --dataset {params.dataset}"
        " --out {params.out} > {log} 2>&1"


rule features:
    input:
        card=card_of_extractor,
        code=source_files("features"),
    output:
        card="results/features/{extractor}/card.json",
        extractor="results/features/{extractor}/extractor.safetensors",
    log:
        "logs/features/{extractor}.log",
    benchmark:
        "logs/features/{extractor}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: PARAMS.threads
    resources:
        mem_mb=2000,
    params:
        file=PARAMS_FILE,
        dataset=lambda wildcards: EXTRACTORS[wildcards.extractor],
        data=subpath(input.card, parent=True),
        out=subpath(output.card, parent=True),
    shell:
        "couplet features --params {params.file} --dataset {params.dataset}"
        " --data {params.data} --out {params.out} --threads {threads} > {log} 2>&1"


rule reference:
    input:
        card=card_of_extractor,
        extractor="results/features/{extractor}/extractor.safetensors",
        code=source_files("reference"),
    output:
        train="results/reference/{extractor}/train.safetensors",
        test="results/reference/{extractor}/test.safetensors",
    log:
        "logs/reference/{extractor}.log",
    benchmark:
        "logs/reference/{extractor}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: PARAMS.threads
    resources:
        mem_mb=2000,
        gpu=1,
    params:
        data=subpath(input.card, parent=True),
        features=subpath(input.extractor, parent=True),
        out=subpath(output.train, parent=True),
    shell:
        "couplet reference --data {params.data} --features {params.features}"
        " --out {params.out} --threads {threads} > {log} 2>&1"
