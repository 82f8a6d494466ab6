rule train:
    input:
        card=archive_of_run,
        frozen=lender_of_run,
    output:
        record="results/runs/{run}/train/record.json",
        config="results/runs/{run}/train/config.json",
        curve="results/runs/{run}/train/curve.csv",
        checkpoints=directory("results/runs/{run}/train/checkpoints"),
    log:
        "logs/train/{run}.log",
    benchmark:
        "logs/train/{run}.tsv"
    # A job that was warned or killed goes on from its last state, in {run}/train.partial. The engine does
    # not tell a mistake of the user's from that: it costs one more start, and the same line.
    retries: retries_of_training()
    conda:
        "../envs/couplet.yaml"
    threads: threads_of_run
    resources:
        # A command to run the training under, where a scheduler ends jobs: `timeout 23h`.
        time_limit="",
        mem_mb=8000,
        gpu=gpus_of_run,
    params:
        cell=flags_of_run,
        frozen=flag_of_lender,
        data=subpath(input.card, parent=True),
        out=subpath(output.record, parent=True),
    shell:
        "{resources.time_limit} "
        "couplet train {params.cell} --data {params.data}"
        " {params.frozen}--out {params.out} --threads {threads} --processes {resources.gpu} > {log} 2>&1"
