# The only file in this folder has a name that changes with what the table is made from. Where it is missing,
# the table that is there, if any, is of other settings: of former ones, or one that DVC put back.
rule key:
    input:
        results_of_table,
    output:
        "results/{table}.key/{key}",
    log:
        "logs/table/{table}/{key}.log",
    threads: 1
    params:
        folder=subpath(output[0], parent=True),
    shell:
        "(rm -f results/{wildcards.table}.csv {params.folder}/* && touch {output}) > {log} 2>&1"


rule table:
    input:
        results_of_table,
        key=key_of_table,
    output:
        csv="results/{table}.csv",
        markdown="results/{table}.md",
        figures=directory("results/{table}.figures"),
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
