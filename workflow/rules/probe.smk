rule probe:
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
    shell:
        "couplet probe {params.settings} --train {params.train} --data {params.data}"
        " {params.frozen}--out {output.numbers} --threads {threads} > {log} 2>&1"


# Every probe of every cell of the grid: `snakemake --cores all probes`.
rule probes:
    input:
        lambda wildcards: [*jobs("table1", "probe")],
