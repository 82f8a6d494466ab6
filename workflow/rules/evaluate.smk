rule select:
    input:
        record=ancient("results/runs/{run}/train/record.json"),
        extractor=extractor_of_eval,
        reference=reference_of_eval,
    output:
        selection="results/runs/{run}/{eval}/selection.json",
        record="results/runs/{run}/{eval}/selection.record.json",
    log:
        "logs/select/{run}/{eval}.log",
    benchmark:
        "logs/select/{run}/{eval}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: threads_of_run
    resources:
        mem_mb=8000,
        gpu=gpus_of_run,
    params:
        cell=flags_of_eval,
        train=subpath(input.record, parent=True),
        features=subpath(input.extractor, parent=True),
    shell:
        "couplet select {params.cell} --train {params.train}"
        " --features {params.features} --reference {input.reference}"
        " --out {output.selection} --threads {threads} --processes {resources.gpu} > {log} 2>&1"


rule sample:
    input:
        record=ancient("results/runs/{run}/train/record.json"),
        selection=ancient("results/runs/{run}/{eval}/selection.json"),
    output:
        samples=directory("results/runs/{run}/{eval}/samples"),
        record="results/runs/{run}/{eval}/samples.record.json",
    log:
        "logs/sample/{run}/{eval}.log",
    benchmark:
        "logs/sample/{run}/{eval}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: threads_of_run
    resources:
        mem_mb=4000,
        gpu=gpus_of_run,
    params:
        cell=flags_of_eval,
        train=subpath(input.record, parent=True),
    shell:
        "couplet sample {params.cell} --train {params.train}"
        " --selection {input.selection} --out {output.samples}"
        " --threads {threads} --processes {resources.gpu} > {log} 2>&1"


rule evaluate:
    input:
        record=ancient("results/runs/{run}/train/record.json"),
        selection=ancient("results/runs/{run}/{eval}/selection.json"),
        samples=ancient("results/runs/{run}/{eval}/samples"),
        extractor=extractor_of_eval,
        reference=reference_of_eval,
    output:
        metrics="results/runs/{run}/{eval}/metrics.json",
        evaluation="results/runs/{run}/{eval}/evaluation.json",
        record="results/runs/{run}/{eval}/evaluation.record.json",
    log:
        "logs/evaluate/{run}/{eval}.log",
    benchmark:
        "logs/evaluate/{run}/{eval}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: threads_of_run
    resources:
        mem_mb=8000,
        gpu=gpus_of_run,
    params:
        cell=flags_of_eval,
        train=subpath(input.record, parent=True),
        features=subpath(input.extractor, parent=True),
        out=subpath(output.metrics, parent=True),
    shell:
        "couplet evaluate {params.cell} --train {params.train}"
        " --selection {input.selection} --samples {input.samples} --features {params.features}"
        " --reference {input.reference} --out {params.out} --threads {threads} --processes {resources.gpu} > {log} 2>&1"
