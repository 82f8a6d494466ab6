rule table:
    input:
        results_of_grid,
        code=source_files("table"),
    output:
        csv="results/table1.csv",
        markdown="results/table1.md",
        figures=table_figures(),
    log:
        "logs/table/table1.log",
    benchmark:
        "logs/table/table1.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        file=PARAMS_FILE,
    shell:
        "couplet table --params {params.file} --root results --out {output.csv}"
        " > {log} 2>&1"
