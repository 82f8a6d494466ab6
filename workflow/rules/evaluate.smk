rule select:
    input:
        record="results/runs/{run}/train/record.json",
        extractor=extractor_of_run,
        reference=reference_of_run("test"),
        code=source_files("select"),
    output:
        "results/runs/{run}/{eval}/selection.json",
    log:
        "logs/select/{run}/{eval}.log",
    benchmark:
        "logs/select/{run}/{eval}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: PARAMS.threads
    resources:
        mem_mb=4000,
        gpu=1,
    params:
        file=PARAMS_FILE,
        cell=flags_of_run,
        train=subpath(input.record, parent=True),
        features=subpath(input.extractor, parent=True),
        reference=subpath(input.reference, parent=True),
    shell:
        "couplet select --params {params.file} {params.cell} --train {params.train}"
        " --features {params.features} --reference {params.reference}"
        " --out {output} --threads {threads} > {log} 2>&1"


rule sample:
    input:
        record="results/runs/{run}/train/record.json",
        selection="results/runs/{run}/{eval}/selection.json",
        code=source_files("sample"),
    output:
        expand("results/runs/{{run}}/{{eval}}/{name}", name=SAMPLES),
    log:
        "logs/sample/{run}/{eval}.log",
    benchmark:
        "logs/sample/{run}/{eval}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: PARAMS.threads
    resources:
        mem_mb=4000,
        gpu=1,
    params:
        file=PARAMS_FILE,
        cell=flags_of_run,
        train=subpath(input.record, parent=True),
        out=subpath(output[0], parent=True),
    shell:
        "couplet sample --params {params.file} {params.cell} --train {params.train}"
        " --selection {input.selection} --out {params.out} --threads {threads} > {log} 2>&1"


rule evaluate:
    input:
        record="results/runs/{run}/train/record.json",
        selection="results/runs/{run}/{eval}/selection.json",
        samples=expand("results/runs/{{run}}/{{eval}}/{name}", name=SAMPLES),
        extractor=extractor_of_run,
        reference=reference_of_run("train"),
        code=source_files("evaluate"),
    output:
        metrics="results/runs/{run}/{eval}/metrics.json",
        evaluation="results/runs/{run}/{eval}/evaluation.json",
    log:
        "logs/evaluate/{run}/{eval}.log",
    benchmark:
        "logs/evaluate/{run}/{eval}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: PARAMS.threads
    resources:
        mem_mb=4000,
        gpu=1,
    params:
        file=PARAMS_FILE,
        cell=flags_of_run,
        train=subpath(input.record, parent=True),
        features=subpath(input.extractor, parent=True),
        reference=subpath(input.reference, parent=True),
        samples=lambda wildcards, input: Path(input.samples[0]).parent,
        out=subpath(output.metrics, parent=True),
    shell:
        "couplet evaluate --params {params.file} {params.cell} --train {params.train}"
        " --selection {input.selection} --samples {params.samples} --features {params.features}"
        " --reference {params.reference} --out {params.out} --threads {threads} > {log} 2>&1"
