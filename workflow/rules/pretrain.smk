rule pretrain:
    input:
        needs("pretrain"),
    output:
        f"{RUNS}/pretrain/{{name}}/seed{{seed}}/metrics.json",
    log:
        f"{WORK}/pretrain/{{name}}/seed{{seed}}/launch.log",
    priority: 20
    threads: threads_of("pretrain")
    params:
        defining=defining("pretrain"),
        about=about("pretrain"),
        experiment=EXPERIMENT,
    message:
        "{params.about}"
    shell:
        "exec d2v run pretrain/{wildcards.name}/seed{wildcards.seed} --params {params.experiment}"
        " --launch {LAUNCH} --tolerant"


# K-means centres for pre-trainings whose target is units; all seeds share them.
rule units:
    input:
        lambda wildcards: folders.meta_path(experiment, experiment.pretrain[wildcards.name].data),
    output:
        f"{RUNS}/units/{{name}}.safetensors",
    log:
        f"{WORK}/units/{{name}}.log",
    priority: 25
    params:
        experiment=EXPERIMENT,
        target=lambda wildcards: str(experiment.pretrain[wildcards.name].target),
    message:
        "Fit the units that {wildcards.name} predicts"
    shell:
        "d2v units {wildcards.name} --params {params.experiment} 2>&1 | tee {log}"
