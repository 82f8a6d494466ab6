rule select:
    """scores of a run's snapshots, and the best one"""
    input:
        record=ancient("results/runs/{run}/train/record.json"),
        extractor=input_of("select", "features"),
        reference=input_of("select", "reference"),
        rest=rest_of("select"),
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
    threads: threads_of("select")
    resources:
        mem_mb=memory("select"),
        runtime=minutes("select"),
        gpu=gpus_of("select"),
        cpus_per_task=cores_of("select"),
    params:
        settings=flags_of("select"),
        parallel=parallel_of("select"),
        train=subpath(input.record, parent=True),
        features=folder_of("extractor"),
    message:
        "select {wildcards.run} {wildcards.selection}"
    shell:
        logged(
            "couplet select {params.settings} --train {params.train}"
            " --features {params.features} --reference {input.reference}"
            " --out {output.selection} {params.parallel}"
        )


rule sample:
    """images of the selected snapshot"""
    input:
        record=ancient("results/runs/{run}/train/record.json"),
        selection=input_of("sample", "select"),
        rest=rest_of("sample"),
    output:
        samples=directory("results/runs/{run}/{samples}/samples"),
        record="results/runs/{run}/{samples}/samples.record.json",
    log:
        "logs/sample/{run}/{samples}.log",
    benchmark:
        "logs/sample/{run}/{samples}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: threads_of("sample")
    resources:
        mem_mb=memory("sample"),
        runtime=minutes("sample"),
        gpu=gpus_of("sample"),
        cpus_per_task=cores_of("sample"),
    params:
        settings=flags_of("sample"),
        parallel=parallel_of("sample"),
        train=subpath(input.record, parent=True),
    message:
        "sample {wildcards.run} {wildcards.samples}"
    shell:
        logged(
            "couplet sample {params.settings} --train {params.train}"
            " --selection {input.selection} --out {output.samples}"
            " {params.parallel}"
        )


rule evaluate:
    """all metrics of the images"""
    input:
        record=ancient("results/runs/{run}/train/record.json"),
        extractor=input_of("evaluate", "features"),
        reference=input_of("evaluate", "reference"),
        selection=input_of("evaluate", "select"),
        samples=input_of("evaluate", "sample"),
        rest=rest_of("evaluate"),
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
    threads: threads_of("evaluate")
    resources:
        mem_mb=memory("evaluate"),
        runtime=minutes("evaluate"),
        gpu=gpus_of("evaluate"),
        cpus_per_task=cores_of("evaluate"),
    params:
        settings=flags_of("evaluate"),
        parallel=parallel_of("evaluate"),
        train=subpath(input.record, parent=True),
        features=folder_of("extractor"),
    message:
        "evaluate {wildcards.run} {wildcards.evaluation}"
    shell:
        logged(
            "couplet evaluate {params.settings} --train {params.train}"
            " --features {params.features} --reference {input.reference}"
            " --selection {input.selection} --samples {input.samples} --out {output.evaluation}"
            " {params.parallel}"
        )


rule probe:
    """a measurement of a run besides its samples"""
    input:
        record=ancient("results/runs/{run}/train/record.json"),
        card=input_of("probe", "prepare"),
        frozen=frozen_run("probe"),
        rest=rest_of("probe"),
    output:
        numbers="results/runs/{run}/{probe}/probe.csv",
        record="results/runs/{run}/{probe}/probe.record.json",
    log:
        "logs/probe/{run}/{probe}.log",
    benchmark:
        "logs/probe/{run}/{probe}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: threads_of("probe")
    resources:
        mem_mb=memory("probe"),
        runtime=minutes("probe"),
        gpu=gpus_of("probe"),
        cpus_per_task=cores_of("probe"),
    params:
        settings=flags_of("probe"),
        parallel=parallel_of("probe"),
        train=subpath(input.record, parent=True),
        data=folder_of("card"),
        frozen=flag_of_frozen,
    message:
        "probe {wildcards.run} {wildcards.probe}"
    shell:
        logged(
            "couplet probe {params.settings} --train {params.train} --data {params.data}"
            " {params.frozen}--out {output.numbers} {params.parallel}"
        )


rule time:
    input:
        card=input_of("time", "prepare"),
        rest=rest_of("time"),
    output:
        times="results/times/{times}.json",
        record="results/times/{times}.record.json",
    log:
        "logs/time/{times}.log",
    benchmark:
        "logs/time/{times}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: threads_of("time")
    resources:
        mem_mb=memory("time"),
        runtime=minutes("time"),
        gpu=gpus_of("time"),
        cpus_per_task=cores_of("time"),
    params:
        settings=flags_of("time"),
        parallel=parallel_of("time"),
        data=folder_of("card"),
    message:
        "time {wildcards.times}"
    shell:
        logged(
            "couplet time {params.settings} --data {params.data} --out {output.times}"
            " {params.parallel}"
        )


# Every probe of every cell of the grid: `snakemake --cores all probes`.
rule probes:
    """every probe of every cell of table1"""
    input:
        lambda wildcards: [
            job.output("probe")
            for same in jobs("table1", "probe").values()
            for job in same
        ],
