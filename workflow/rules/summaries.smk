rule table:
    """results/table1.csv, results/gc.csv, results/gc-small.csv, …"""
    input:
        files_of_table,
    output:
        csv=report(
            "results/{table}.csv",
            caption="../report/table.rst",
            category="Tables",
            labels={"as": "values, as CSV", "table": "{table}"},
        ),
        markdown="results/{table}.md",
        page=report(
            "results/{table}.html",
            caption="../report/table.rst",
            category="Tables",
            labels={"as": "page to read", "table": "{table}"},
        ),
        figures=report(
            directory("results/{table}.figures"),
            patterns=["{group}-{figure}.png"],
            caption="../report/figures.rst",
            category="Figures",
            labels={"figure": "{figure}", "of": "{group}", "table": "{table}"},
        ),
        record="results/{table}.record.json",
    log:
        "logs/table/{table}.log",
    benchmark:
        "logs/table/{table}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        table=flags_of_table,
        root=lambda wildcards, output: (
            Path(output.csv).parents[wildcards.table.count("/")]
        ),
        about=about_table,
    message:
        "table {wildcards.table}"
    shell:
        logged("couplet table {params.table} --root {params.root} --out {output.csv}")


rule figure:
    """the figure of a study: results/paper/gc-mu.csv, …"""
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
        root=subpath(output.numbers, ancestor=2),
    message:
        "figure {wildcards.study}"
    shell:
        logged(
            "couplet figure {params.study} --root {params.root} --out {output.numbers}"
        )


rule paper:
    """results/paper.html: every study on one page"""
    input:
        files_of_page,
    output:
        page="results/paper{at}.html",
        record="results/paper{at}.record.json",
    log:
        "logs/paper{at}.log",
    benchmark:
        "logs/paper{at}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        captions=lambda wildcards, input: [
            file for file in input if file.endswith(".json")
        ],
    message:
        "paper paper{wildcards.at}"
    shell:
        logged("couplet paper {params.captions} --out {output.page}")
