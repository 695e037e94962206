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
        " --launch {LAUNCH}"
