rule table:
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
        about=about_table,
    shell:
        "couplet table {params.table} --root results --out {output.csv} > {log} 2>&1"
