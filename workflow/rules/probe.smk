PROBE = "results/runs/{run}/probe-{probe}-{key}/probe.csv"


def card_of_probe(wildcards):
    table, cell, _ = found(PROBE.format(**wildcards), probes)
    return as_it_is(layout(table).data(cell.dataset) / "card.json")


rule probe:
    input:
        record=ancient("results/runs/{run}/train/record.json"),
        card=card_of_probe,
        frozen=frozen_runs(PROBE, probes),
    output:
        numbers="results/runs/{run}/probe-{probe}-{key}/probe.csv",
        record="results/runs/{run}/probe-{probe}-{key}/probe.record.json",
    log:
        "logs/probe/{run}/{probe}-{key}.log",
    benchmark:
        "logs/probe/{run}/{probe}-{key}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: setting_of("threads", PROBE, probes)
    resources:
        mem_mb=8000,
        gpu=1,
    params:
        settings=flags_of(PROBE, probes),
        train=subpath(input.record, parent=True),
        data=subpath(input.card, parent=True),
        frozen=flag_of_frozen,
    shell:
        "couplet probe {wildcards.probe} {params.settings} --train {params.train} --data {params.data}"
        " {params.frozen}--out {output.numbers} --threads {threads} > {log} 2>&1"


# Every probe of every cell of the grid: `snakemake --cores all probes`.
rule probes:
    input:
        probes_of_grid,
