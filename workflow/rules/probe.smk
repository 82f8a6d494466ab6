rule probe:
    input:
        record=ancient("results/runs/{run}/train/record.json"),
        card=archive_of_run,
        frozen=lender_of_run,
    output:
        numbers="results/runs/{run}/probe-{kind}-{probe}.csv",
        record="results/runs/{run}/probe-{kind}-{probe}.record.json",
    log:
        "logs/probe/{run}/{kind}-{probe}.log",
    benchmark:
        "logs/probe/{run}/{kind}-{probe}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: threads_of_run
    resources:
        mem_mb=8000,
        gpu=1,
    params:
        cell=flags_of_probe,
        train=subpath(input.record, parent=True),
        data=subpath(input.card, parent=True),
        frozen=flag_of_lender,
    shell:
        "couplet probe {wildcards.kind} {params.cell} --train {params.train} --data {params.data}"
        " {params.frozen}--out {output.numbers} --threads {threads} > {log} 2>&1"


# What can be probed of every cell of the grid: `snakemake --cores all probes`.
rule probes:
    input:
        probes_of_grid,
