rule grid_point:
    input:
        needs("select"),
    output:
        f"{RUNS}/select/{{name}}/{{arm}}/{{point}}/seed{{seed}}/metrics.json",
    log:
        f"{WORK}/select/{{name}}/{{arm}}/{{point}}/seed{{seed}}/launch.log",
    priority: 10
    threads: threads_of("select")
    params:
        defining=defining("select"),
        about=about("select"),
        experiment=EXPERIMENT,
    message:
        "{params.about}"
    shell:
        "exec d2v run select/{wildcards.name}/{wildcards.arm}/{wildcards.point}/seed{wildcards.seed}"
        " --params {params.experiment} --launch {LAUNCH} --tolerant"


rule choose:
    input:
        lambda wildcards: [
            run.metrics_path
            for name in runs.chosen_together(experiment, wildcards.name)
            for run in runs.grid_runs(experiment, name)
        ],
    output:
        f"{RUNS}/select/{{name}}/chosen.json",
    log:
        f"{WORK}/select/{{name}}/choose.log",
    priority: 10
    params:
        experiment=EXPERIMENT,
        metric=lambda wildcards: experiment.finetune[wildcards.name].metrics[0],
    message:
        "Choose the rate and steps of {wildcards.name} for each arm: best {params.metric} on the"
        " development split"
    shell:
        "d2v select {wildcards.name} --params {params.experiment} 2>&1 | tee {log}"


rule finetune:
    input:
        needs("finetune"),
    output:
        f"{RUNS}/finetune/{{name}}/{{arm}}/seed{{seed}}/metrics.json",
    log:
        f"{WORK}/finetune/{{name}}/{{arm}}/seed{{seed}}/launch.log",
    threads: threads_of("finetune")
    params:
        defining=defining("finetune"),
        about=about("finetune"),
        experiment=EXPERIMENT,
    message:
        "{params.about}"
    shell:
        "exec d2v run finetune/{wildcards.name}/{wildcards.arm}/seed{wildcards.seed}"
        " --params {params.experiment} --launch {LAUNCH} --tolerant"


rule probe:
    input:
        needs("probe"),
    output:
        f"{RUNS}/probe/{{name}}/{{arm}}/seed{{seed}}/metrics.json",
    log:
        f"{WORK}/probe/{{name}}/{{arm}}/seed{{seed}}/launch.log",
    threads: threads_of("probe")
    params:
        defining=defining("probe"),
        about=about("probe"),
        experiment=EXPERIMENT,
    message:
        "{params.about}"
    shell:
        "exec d2v run probe/{wildcards.name}/{wildcards.arm}/seed{wildcards.seed}"
        " --params {params.experiment} --launch {LAUNCH} --tolerant"
