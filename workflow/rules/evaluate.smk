SELECT = "results/runs/{run}/{selection}/selection.json"
SAMPLE = "results/runs/{run}/{samples}/samples"
EVALUATE = "results/runs/{run}/{evaluation}/evaluation.json"


rule select:
    input:
        record=ancient("results/runs/{run}/train/record.json"),
        extractor=card_of("features", SELECT),
        reference=inputs_of("reference", SELECT),
    output:
        selection="results/runs/{run}/{selection}/selection.json",
        record="results/runs/{run}/{selection}/selection.record.json",
    log:
        "logs/select/{run}/{selection}.log",
    benchmark:
        "logs/select/{run}/{selection}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: setting_of("threads", SELECT)
    resources:
        mem_mb=8000,
        gpu=setting_of("gpus", SELECT),
    params:
        settings=flags_of(SELECT),
        train=subpath(input.record, parent=True),
        features=subpath(input.extractor, parent=True),
    shell:
        "couplet select {params.settings} --train {params.train}"
        " --features {params.features} --reference {input.reference}"
        " --out {output.selection} --threads {threads} --processes {resources.gpu} > {log} 2>&1"


rule sample:
    input:
        record=ancient("results/runs/{run}/train/record.json"),
        selection=inputs_of("select", SAMPLE),
    output:
        samples=directory("results/runs/{run}/{samples}/samples"),
        record="results/runs/{run}/{samples}/samples.record.json",
    log:
        "logs/sample/{run}/{samples}.log",
    benchmark:
        "logs/sample/{run}/{samples}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: setting_of("threads", SAMPLE)
    resources:
        mem_mb=4000,
        gpu=setting_of("gpus", SAMPLE),
    params:
        settings=flags_of(SAMPLE),
        train=subpath(input.record, parent=True),
    shell:
        "couplet sample {params.settings} --train {params.train}"
        " --selection {input.selection} --out {output.samples}"
        " --threads {threads} --processes {resources.gpu} > {log} 2>&1"


rule evaluate:
    input:
        record=ancient("results/runs/{run}/train/record.json"),
        extractor=card_of("features", EVALUATE),
        reference=inputs_of("reference", EVALUATE),
        selection=inputs_of("select", EVALUATE),
        samples=inputs_of("sample", EVALUATE),
    output:
        evaluation="results/runs/{run}/{evaluation}/evaluation.json",
        metrics="results/runs/{run}/{evaluation}/evaluation.metrics.json",
        record="results/runs/{run}/{evaluation}/evaluation.record.json",
    log:
        "logs/evaluate/{run}/{evaluation}.log",
    benchmark:
        "logs/evaluate/{run}/{evaluation}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: setting_of("threads", EVALUATE)
    resources:
        mem_mb=8000,
        gpu=setting_of("gpus", EVALUATE),
    params:
        settings=flags_of(EVALUATE),
        train=subpath(input.record, parent=True),
        features=subpath(input.extractor, parent=True),
    shell:
        "couplet evaluate {params.settings} --train {params.train}"
        " --features {params.features} --reference {input.reference}"
        " --selection {input.selection} --samples {input.samples} --out {output.evaluation}"
        " --threads {threads} --processes {resources.gpu} > {log} 2>&1"
