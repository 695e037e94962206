# Behind a fine-tuning whose decoding weights are searched for: CPUs only. What it reads of the
# fine-tuning, besides its metrics, lies undeclared in work/, as checkpoints do.


rule decode:
    input:
        needs("decode"),
        lambda wildcards: runs.metrics_path(
            experiment, runs.finetune_run(run_of("decode", wildcards))
        ),
    output:
        f"{RUNS}/decode/{{name}}/{{arm}}/seed{{seed}}/metrics.json",
    log:
        f"{WORK}/decode/{{name}}/{{arm}}/seed{{seed}}/launch.log",
    threads: threads_of("decode")
    params:
        defining=defining("decode"),
        about=about("decode"),
        experiment=EXPERIMENT,
    message:
        "{params.about}"
    shell:
        "exec d2v run decode/{wildcards.name}/{wildcards.arm}/seed{wildcards.seed}"
        " --params {params.experiment} --launch {LAUNCH}"
