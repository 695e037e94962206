# DVC decides what of the data is out of date; the workflow only asks for what is missing. So this
# rule has no inputs: if it had, one run of it would rerun everything below.


rule data:
    output:
        f"{experiment.prepared}/{{dataset}}/meta.json",
    log:
        f"{WORK}/data/{{dataset}}.log",
    priority: 30
    resources:
        **on_cluster("data"),
        dvc=1,
    params:
        stages=experiment.stages,
    message:
        "Prepare the data set {wildcards.dataset} (dvc repro of its stage)"
    shell:
        "d2v data {wildcards.dataset} --stages {params.stages} 2>&1 | tee {log}"
