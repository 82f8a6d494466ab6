# Models that others have published: downloaded, imported, sampled and scored, down to results/published.csv.
# Names and inputs: workflow/rules/common_published.smk.
rule published_download:
    """a checkpoint that others published"""
    output:
        "raw/published/{published}",
    log:
        "logs/published/download/{published}.log",
    conda:
        "../envs/couplet.yaml"
    threads: 1
    resources:
        mem_mb=memory("published_download"),
        runtime=minutes("published_download"),
    params:
        address=lambda wildcards: quote(
            str(listed().models[wildcards.published].address)
        ),
        sha256=lambda wildcards: listed().models[wildcards.published].sha256 or "",
    message:
        "published_download {wildcards.published}"
    shell:
        logged(
            "python workflow/scripts/download.py {params.address} {output} {params.sha256}"
        )


rule published_import:
    """the same as a file of couplet"""
    input:
        checkpoint,
    output:
        model="results/published/{imported}/model.safetensors",
    log:
        "logs/published/import/{imported}.log",
    conda:
        "../envs/couplet.yaml"
    threads: 1
    resources:
        mem_mb=memory("published_import"),
        runtime=minutes("published_import"),
    params:
        source=import_flags,
    message:
        "published_import {wildcards.imported}"
    shell:
        logged("couplet import {params.source} --out {output.model}")


rule published_sample:
    """its images"""
    input:
        model=imported_model,
        labels=archive_of_labels,
    output:
        samples="results/published/{measured}/samples.npz",
        record="results/published/{measured}/samples.npz.record.json",
    log:
        "logs/published/sample/{measured}.log",
    benchmark:
        "logs/published/sample/{measured}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: lambda wildcards: measured_table(wildcards).threads
    resources:
        mem_mb=memory("published_sample"),
        runtime=minutes("published_sample"),
        gpu=gpus_of_table,
        cpus_per_task=cores_of_table,
    params:
        settings=generate_flags,
        parallel=parallel_of_table,
    message:
        "published_sample {wildcards.measured}"
    shell:
        logged(
            "couplet generate {input.model} {params.settings} --out {output.samples}"
            " {params.parallel}"
        )


rule published_score:
    """their numbers"""
    input:
        real=compared_with,
        samples="results/published/{measured}/samples.npz",
    output:
        score="results/published/{measured}/score.json",
        record="results/published/{measured}/score.record.json",
    log:
        "logs/published/score/{measured}.log",
    benchmark:
        "logs/published/score/{measured}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: lambda wildcards: measured_table(wildcards).threads
    resources:
        mem_mb=memory("published_score"),
        runtime=minutes("published_score"),
        gpu=gpus_of_table,
        cpus_per_task=cores_of_table,
    params:
        settings=score_flags,
        parallel=parallel_of_table,
    message:
        "published_score {wildcards.measured}"
    shell:
        logged(
            "couplet score {input.samples} {params.settings} --out {output.score}"
            " {params.parallel}"
        )


rule published:
    """results/published.csv: models of others beside what they report"""
    input:
        scores=lambda wildcards: list(map(as_it_is, scores(wildcards))),
        marker=lambda wildcards: trigger(
            "published.csv", plan_of_published.table_key(listed(), scores(wildcards))
        ),
    output:
        csv="results/published.csv",
        markdown="results/published.md",
        record="results/published.record.json",
    log:
        "logs/published.log",
    conda:
        "../envs/couplet.yaml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        list=quote(str(PUBLISHED)),
        scores=lambda wildcards: " ".join(
            f"--score {score}" for score in scores(wildcards)
        ),
    message:
        "published results/published.csv"
    shell:
        logged("couplet published {params.list} {params.scores} --out {output.csv}")
