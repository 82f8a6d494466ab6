rule select:
    """scores of a run's snapshots, and the best one"""
    input:
        record=ancient("results/runs/{run}/train/record.json"),
        extractor=input_of("select", "features"),
        reference=input_of("select", "reference"),
    output:
        selection="results/runs/{run}/{selection}/selection.json",
        samples="results/runs/{run}/{selection}/selection.samples.npy",
        record="results/runs/{run}/{selection}/selection.record.json",
    log:
        "logs/select/{run}/{selection}.log",
    benchmark:
        "logs/select/{run}/{selection}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: setting_of("select", "threads")
    resources:
        mem_mb=8000,
        gpu=setting_of("select", "gpus"),
    params:
        settings=flags_of("select"),
        train=subpath(input.record, parent=True),
        features=subpath(input.extractor, parent=True),
    message:
        "select {wildcards.run} {wildcards.selection}"
    shell:
        "couplet select {params.settings} --train {params.train}"
        " --features {params.features} --reference {input.reference}"
        " --out {output.selection} --threads {threads} --processes {resources.gpu} > {log} 2>&1"


rule sample:
    """images of the selected snapshot"""
    input:
        record=ancient("results/runs/{run}/train/record.json"),
        selection=input_of("sample", "select"),
    output:
        samples=directory("results/runs/{run}/{samples}/samples"),
        record="results/runs/{run}/{samples}/samples.record.json",
    log:
        "logs/sample/{run}/{samples}.log",
    benchmark:
        "logs/sample/{run}/{samples}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: setting_of("sample", "threads")
    resources:
        mem_mb=4000,
        gpu=setting_of("sample", "gpus"),
    params:
        settings=flags_of("sample"),
        train=subpath(input.record, parent=True),
    message:
        "sample {wildcards.run} {wildcards.samples}"
    shell:
        "couplet sample {params.settings} --train {params.train}"
        " --selection {input.selection} --out {output.samples}"
        " --threads {threads} --processes {resources.gpu} > {log} 2>&1"


rule evaluate:
    """all metrics of the images"""
    input:
        record=ancient("results/runs/{run}/train/record.json"),
        extractor=input_of("evaluate", "features"),
        reference=input_of("evaluate", "reference"),
        selection=input_of("evaluate", "select"),
        samples=input_of("evaluate", "sample"),
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
    threads: setting_of("evaluate", "threads")
    resources:
        mem_mb=8000,
        gpu=setting_of("evaluate", "gpus"),
    params:
        settings=flags_of("evaluate"),
        train=subpath(input.record, parent=True),
        features=subpath(input.extractor, parent=True),
    message:
        "evaluate {wildcards.run} {wildcards.evaluation}"
    shell:
        "couplet evaluate {params.settings} --train {params.train}"
        " --features {params.features} --reference {input.reference}"
        " --selection {input.selection} --samples {input.samples} --out {output.evaluation}"
        " --threads {threads} --processes {resources.gpu} > {log} 2>&1"


rule probe:
    """a measurement of a run besides its samples"""
    input:
        record=ancient("results/runs/{run}/train/record.json"),
        card=input_of("probe", "prepare"),
        frozen=frozen_run("probe"),
    output:
        numbers="results/runs/{run}/{probe}/probe.csv",
        record="results/runs/{run}/{probe}/probe.record.json",
    log:
        "logs/probe/{run}/{probe}.log",
    benchmark:
        "logs/probe/{run}/{probe}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: setting_of("probe", "threads")
    resources:
        mem_mb=8000,
        gpu=1,
    params:
        settings=flags_of("probe"),
        train=subpath(input.record, parent=True),
        data=subpath(input.card, parent=True),
        frozen=flag_of_frozen,
    message:
        "probe {wildcards.run} {wildcards.probe}"
    shell:
        "couplet probe {params.settings} --train {params.train} --data {params.data}"
        " {params.frozen}--out {output.numbers} --threads {threads} > {log} 2>&1"


rule time:
    input:
        card=input_of("time", "prepare"),
    output:
        times="results/times/{times}.json",
        record="results/times/{times}.record.json",
    log:
        "logs/time/{times}.log",
    benchmark:
        "logs/time/{times}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: setting_of("time", "threads")
    resources:
        mem_mb=8000,
        gpu=setting_of("time", "gpus"),
    params:
        settings=flags_of("time"),
        data=subpath(input.card, parent=True),
    message:
        "time {wildcards.times}"
    shell:
        "couplet time {params.settings} --data {params.data} --out {output.times}"
        " --threads {threads} --processes {resources.gpu} > {log} 2>&1"


# Every probe of every cell of the grid: `snakemake --cores all probes`.
rule probes:
    """every probe of every cell of table1"""
    input:
        lambda wildcards: [
            job.output("probe")
            for same in jobs("table1", "probe").values()
            for job in same
        ],
