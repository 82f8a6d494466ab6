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
        gpu=of_training(lambda params: params.nodes * params.gpus),
        nodes=setting_of("train", "nodes"),
        # On several nodes `couplet train` calls srun itself, for a task on each; Slurm's executor must not.
        mpi=on_several_nodes(lambda params: "srun"),
        tasks=on_several_nodes(lambda params: params.nodes),
        tasks_per_gpu=on_several_nodes(lambda params: 0),
        gres=on_several_nodes(lambda params: f"gpu:{params.gpus}" if params.gpus else None),
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
