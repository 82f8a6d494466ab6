rule table:
    input:
        results_of_table,
    output:
        csv="results/{table}.csv",
        markdown="results/{table}.md",
        figures=directory("results/{table}.figures"),
        # Says what the table is of: common.smk forces the rule where this is not what it would be of now.
        key="results/{table}.key",
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
        key=key_of_table,
    shell:
        "couplet table {params.table} --root results --out {output.csv} > {log} 2>&1"
        " && echo {params.key} > {output.key}"
