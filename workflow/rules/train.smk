# An interrupted run resumes from its last state, in {run}/train.partial. `retries` is in the profiles and not
# here: here it would hold inside the job of a cluster, too, which the scheduler told to end.
rule train:
    """the run of a cell"""
    input:
        card=input_of("train", "prepare"),
        frozen=frozen_run("train"),
    output:
        record="results/runs/{run}/train/record.json",
        config="results/runs/{run}/train/config.json",
        curve="results/runs/{run}/train/curve.csv",
        checkpoints=directory("results/runs/{run}/train/checkpoints"),
    log:
        "logs/train/{run}.log",
    benchmark:
        "logs/train/{run}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: setting_of("train", "threads")
    resources:
        # A command that ends the run before a scheduler does: `timeout 23h`.
        time_limit="",
        mem_mb=8000,
        gpu=setting_of("train", "gpus"),
    params:
        settings=flags_of("train"),
        frozen=flag_of_frozen,
        data=subpath(input.card, parent=True),
        out=subpath(output.record, parent=True),
    message:
        "train {wildcards.run}"
    shell:
        "{resources.time_limit} "
        "couplet train {params.settings} --data {params.data}"
        " {params.frozen}--out {params.out} --threads {threads} --processes {resources.gpu} > {log} 2>&1"
