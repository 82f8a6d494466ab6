rule table:
    input:
        results_of_table,
        code=source_files("table"),
    output:
        csv="results/{table}.csv",
        markdown="results/{table}.md",
        figures=directory("results/{table}.figures"),
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
    shell:
        "couplet table {params.table} --root results --out {output.csv}" " > {log} 2>&1"
