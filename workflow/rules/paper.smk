rule figure:
    input:
        files_of_figure,
    output:
        numbers="results/paper/{study}.csv",
        svg="results/paper/{study}.svg",
        png=report(
            "results/paper/{study}.png",
            caption="../report/study.rst",
            category="Papers",
            labels={"study": "{study}"},
        ),
        caption="results/paper/{study}.json",
        record="results/paper/{study}.record.json",
    log:
        "logs/figure/{study}.log",
    benchmark:
        "logs/figure/{study}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        study=lambda wildcards: flags(wildcards.study),
    shell:
        "couplet figure {params.study} --root results --out {output.numbers} > {log} 2>&1"


rule paper:
    input:
        files_of_page,
    output:
        page="results/paper.html",
        record="results/paper.record.json",
    log:
        "logs/paper.log",
    benchmark:
        "logs/paper.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        captions=[caption.as_posix() for caption in CAPTIONS],
    shell:
        "couplet paper {params.captions} --out {output.page} > {log} 2>&1"
