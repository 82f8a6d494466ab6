# An interrupted run resumes from its last state, in {run}/train.partial. `retries` is in the profiles and not
# here: here it would hold inside the job of a cluster, too, which the scheduler told to end.
rule train:
    """the run of a cell"""
    input:
        card=input_of("train", "prepare"),
        frozen=frozen_run("train"),
        rest=rest_of("train"),
    output:
        # Snakemake removes what is named here where a job fails, or where a scheduler says so of a finished one.
        # The record holds the digests of all the rest, and `couplet train` puts it back.
        record="results/runs/{run}/train/record.json",
        rest=only_stored(
            "results/runs/{run}/train/config.json",
            "results/runs/{run}/train/curve.csv",
            directory("results/runs/{run}/train/checkpoints"),
        ),
    log:
        "logs/train/{run}.log",
    benchmark:
        "logs/train/{run}.tsv"
    conda:
        "../envs/couplet.yaml"
    threads: threads_of("train")
    resources:
        # Minutes before the end of `runtime` at which the run is told to save its state and end; 0: never.
        save_ahead=0,
        mem_mb=memory("train"),
        runtime=minutes("train"),
        gpu=gpus_of("train"),
        cpus_per_task=cores_of("train"),
        nodes=nodes_of("train"),
        mpi=on_several_nodes("mpi"),
        tasks=on_several_nodes("tasks"),
        tasks_per_gpu=on_several_nodes("tasks_per_gpu"),
        gres=on_several_nodes("gres"),
    params:
        settings=flags_of("train"),
        parallel=parallel_of("train"),
        frozen=flag_of_frozen,
        data=folder_of("card"),
        out=subpath(output.record, parent=True),
        time_limit=time_limit,
    message:
        "train {wildcards.run}"
    shell:
        logged(
            "{params.time_limit}couplet train {params.settings} --data {params.data}"
            " {params.frozen}--out {params.out} {params.parallel}"
        )
